//! Who may come in: the key, the name that the service is called by, and the site that a browser shows.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;

use crate::refusal::Refusal;

/// Who may come in.
#[derive(Clone)]
pub(crate) struct Door {
    key: Option<String>,
    /// Names beside addresses and `localhost`.
    hosts: Vec<String>,
    /// Sites whose pages may ask.
    origins: Vec<String>,
}

/// What anybody may read: the page, which asks for the key itself, and addresses that nobody guesses.
const OPEN: [&str; 4] = ["/", "/health", "/docs", "/openapi.json"];
const OPEN_BELOW: &str = "/files/";

impl Door {
    pub fn new(key: Option<String>, hosts: Vec<String>, origins: Vec<String>) -> Self {
        Self {
            key,
            hosts,
            origins,
        }
    }

    fn check(&self, request: &Request) -> Result<(), Refusal> {
        let (headers, path) = (request.headers(), request.uri().path());
        // A request by way of a proxy says it in the address.
        let authority = request
            .uri()
            .authority()
            .map(|authority| authority.as_str());
        let host = authority
            .or_else(|| text(headers, header::HOST))
            .unwrap_or_default();
        self.check_host(host)?;
        self.check_origin(headers, host)?;
        let open = OPEN.contains(&path) || path.starts_with(OPEN_BELOW);
        match &self.key {
            Some(key) if !open && !is_given(key, headers) => Err(Refusal::unauthorized()),
            _ => Ok(()),
        }
    }

    /// A page of a foreign site reaches a service of this machine by a name of its own that leads here, so only names that are
    /// known are ours. An address cannot be made to lead elsewhere.
    fn check_host(&self, host: &str) -> Result<(), Refusal> {
        let name = without_port(host);
        let address = name.trim_start_matches('[').trim_end_matches(']');
        let known = address.parse::<IpAddr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || self
                .hosts
                .iter()
                .any(|known| known.eq_ignore_ascii_case(name));
        match known {
            true => Ok(()),
            false => Err(Refusal::misdirected(format!(
                "this service is not called {:?}: use its address, or start it with --allow-host NAME",
                asyncdiff_core::quoted(name).to_string()
            ))),
        }
    }

    /// Browsers say which site's page asks. What is no browser says nothing.
    fn check_origin(&self, headers: &HeaderMap, host: &str) -> Result<(), Refusal> {
        let Some(origin) = text(headers, header::ORIGIN) else {
            return Ok(());
        };
        let own = origin
            .split_once("://")
            .is_some_and(|(_, site)| site.eq_ignore_ascii_case(host));
        let allowed = self
            .origins
            .iter()
            .any(|known| known == "*" || known == origin);
        match own || allowed {
            true => Ok(()),
            false => Err(Refusal::forbidden(format!(
                "pages of {:?} may not ask this service: start it with --allow-origin SITE",
                asyncdiff_core::quoted(origin).to_string()
            ))),
        }
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        // A colon inside brackets belongs to an IPv6 address.
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    }
}

/// Whether a request carries the key: as a bearer token, or as the password of HTTP Basic.
fn is_given(key: &str, headers: &HeaderMap) -> bool {
    let Some((scheme, value)) =
        text(headers, header::AUTHORIZATION).and_then(|value| value.split_once(' '))
    else {
        return false;
    };
    let value = value.trim();
    let given = if scheme.eq_ignore_ascii_case("bearer") {
        value.as_bytes().to_vec()
    } else if scheme.eq_ignore_ascii_case("basic") {
        let pair = STANDARD.decode(value).unwrap_or_default();
        let colon = pair.iter().position(|byte| *byte == b':');
        colon
            .map(|colon| pair[colon + 1..].to_vec())
            .unwrap_or_default()
    } else {
        return false;
    };
    given.ct_eq(key.as_bytes()).into()
}

/// Lets in, or does not.
pub(crate) async fn guard(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    match door.check(&request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_others_can_make_lead_here_are_refused() {
        let door = Door::new(None, vec!["draw.local".to_owned()], Vec::new());
        for host in [
            "127.0.0.1:7860",
            "127.0.0.1",
            "[::1]:7860",
            "[::1]",
            "localhost:1",
            "LOCALHOST",
            "192.168.1.5:7860",
            "draw.local:7860",
        ] {
            assert!(door.check_host(host).is_ok(), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:80",
            ":80",
        ] {
            assert!(door.check_host(host).is_err(), "{host}");
        }
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let check = |origins: &[&str], origin: &str| {
            let origins = origins.iter().map(|site| (*site).to_owned()).collect();
            let mut headers = HeaderMap::new();
            headers.insert(header::ORIGIN, origin.parse().unwrap());
            Door::new(None, Vec::new(), origins)
                .check_origin(&headers, "127.0.0.1:7860")
                .is_ok()
        };
        assert!(check(&[], "http://127.0.0.1:7860"));
        for site in ["http://127.0.0.1:8080", "http://evil.example", "null"] {
            assert!(!check(&[], site), "{site}");
        }
        assert!(check(&["http://chat.local"], "http://chat.local"));
        assert!(check(&["*"], "null"));
        assert!(!check(&["http://chat.local"], "https://chat.local"));
    }

    #[test]
    fn keys_come_as_tokens_or_passwords() {
        let given = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            is_given("sesame", &headers)
        };
        // "anybody:sesame"
        for value in [
            "Bearer sesame",
            "bearer  sesame",
            "Basic YW55Ym9keTpzZXNhbWU=",
        ] {
            assert!(given(value), "{value}");
        }
        // "sesame:", and nothing that is base64
        for value in [
            "Bearer sesam",
            "Bearer",
            "Basic c2VzYW1lOg==",
            "Basic ?",
            "sesame",
            "Digest sesame",
        ] {
            assert!(!given(value), "{value}");
        }
    }
}
