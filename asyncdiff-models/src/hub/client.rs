//! Requests to the Hub, which trust neither it nor whoever it redirects to.
//!
//! The token goes to the Hub's own origin (scheme, host and port) and nowhere else. Every wait has an end, and so has every
//! answer.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use asyncdiff_core::quoted;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ureq::http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, ETAG, LOCATION, RANGE};
use ureq::http::{HeaderMap, HeaderValue, Response, StatusCode, Uri};
use ureq::{Agent, Body};

use super::Hub;

/// As many as `huggingface_hub` follows.
const MOST_REDIRECTS: usize = 10;
/// What a model's page of facts may have at most; the largest on the Hub are some MiB.
const MOST_FACTS: u64 = 32 << 20;
/// A body that comes more slowly than so many bytes in a second is taken for a broken one.
const SLOWEST: u64 = 1024;

/// What keeps its meaning in a path: everything else is written as `%20` and the like.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Why an answer cannot be used.
#[derive(Debug)]
pub(super) enum Fault {
    /// An HTTP status that is no success.
    Status(u16),
    /// Nobody answers.
    Network(String),
    /// The answer makes no sense, or must not be followed.
    Answer(String),
}

/// Speaks with one Hub.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    origin: Origin,
    token: Option<HeaderValue>,
    timeout: Duration,
}

/// Where a file of the Hub is, and what the Hub says about it.
#[derive(Debug)]
pub(super) struct Located {
    /// Where its bytes come from.
    pub place: Uri,
    /// The name of its contents; nothing is known about its characters.
    pub etag: String,
    /// Its bytes.
    pub size: u64,
    /// The commit that it is of, as far as the Hub says so.
    pub commit: Option<String>,
    /// The whole of it, where the Hub hands it out at once.
    pub body: Option<Response<Body>>,
}

impl Client {
    pub fn new(hub: &Hub) -> Result<Self, Fault> {
        let nonsense = |what: &str| Fault::Answer(what.to_owned());
        let no_address = || nonsense("nothing, as it is no address such as https://example.org,");
        let endpoint: Uri = hub.endpoint.parse().map_err(|_| no_address())?;
        let origin = Origin::of(&endpoint).ok_or_else(no_address)?;
        let header = |token: &String| {
            let mut header = HeaderValue::from_str(&format!("Bearer {token}"))
                .map_err(|_| nonsense("nothing, as no header can hold the token (HF_TOKEN),"))?;
            header.set_sensitive(true);
            Ok(header)
        };
        let timeout = Some(hub.timeout);
        let agent = Agent::config_builder()
            .https_only(origin.is_encrypted())
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("asyncdiff/", env!("CARGO_PKG_VERSION")))
            // The bytes of the file, not those of some archive of it.
            .accept_encoding("identity")
            .timeout_resolve(timeout)
            .timeout_connect(timeout)
            .timeout_send_request(timeout)
            .timeout_recv_response(timeout)
            .timeout_per_read(timeout)
            .timeout_per_write(timeout)
            .build();
        Ok(Self {
            agent: agent.new_agent(),
            endpoint: hub.endpoint.clone(),
            origin,
            token: hub.token.as_ref().map(header).transpose()?,
            timeout: hub.timeout,
        })
    }

    /// The address of what the parts name below the Hub's own, each as one step however it is written.
    pub fn address(&self, parts: &[&str]) -> Result<Uri, Fault> {
        let mut address = self.endpoint.clone();
        for part in parts {
            address.push('/');
            address.extend(utf8_percent_encode(part, IN_PATH));
        }
        let parsed = address.parse();
        parsed.map_err(|_| Fault::Answer(format!("nothing, as {address:?} is no address,")))
    }

    /// A short answer, in memory.
    pub fn facts(&self, address: Uri) -> Result<Vec<u8>, Fault> {
        let deadline = Instant::now() + self.timeout * 4;
        let answer = self.open(address, 0)?;
        let mut facts = Vec::new();
        let more = || Fault::Answer(format!("with more than {MOST_FACTS} bytes"));
        self.read(answer, |bytes| {
            facts.extend_from_slice(bytes);
            match () {
                () if facts.len() as u64 > MOST_FACTS => Err(more()),
                () if Instant::now() > deadline => Err(Fault::Network(slow())),
                () => Ok(()),
            }
        })?;
        Ok(facts)
    }

    /// Follows redirects until it is known which contents the file at `address` has.
    pub fn locate(&self, mut address: Uri) -> Result<Located, Fault> {
        let mut commit = None;
        for _ in 0..=MOST_REDIRECTS {
            let answer = self.ask(&address, 0)?;
            let headers = answer.headers();
            let own = Origin::of(&address).as_ref() == Some(&self.origin);
            // Only the Hub itself knows.
            if own && let Some(found) = text(headers, "x-repo-commit")? {
                commit = Some(found);
            }
            let etag = match text(headers, "x-linked-etag")? {
                Some(linked) if own => Some(linked),
                _ => None,
            };
            let next = redirection(&address, &answer)?;
            if let (Some(next), None) = (&next, &etag) {
                address = next.clone();
                continue;
            }
            let size = number(headers, "x-linked-size")?.filter(|_| own);
            let etag = match etag {
                Some(etag) => etag,
                None => text(headers, ETAG.as_str())?
                    .ok_or_else(|| Fault::Answer("without an etag".to_owned()))?,
            };
            let (place, body) = match next {
                Some(next) if size.is_some() => (next, None),
                // A Hub that leaves out what `huggingface_hub` needs as well; its storage may know.
                Some(next) => (next.clone(), Some(self.open(next, 0)?)),
                None => (address, Some(answer)),
            };
            let size = match (size, &body) {
                (None, Some(body)) => number(body.headers(), CONTENT_LENGTH.as_str())?,
                (size, _) => size,
            };
            let size = size.ok_or_else(|| Fault::Answer("without a size".to_owned()))?;
            let etag = etag.strip_prefix("W/").unwrap_or(&etag).trim_matches('"');
            return Ok(Located {
                place,
                etag: etag.to_owned(),
                size,
                commit,
                body,
            });
        }
        Err(too_many())
    }

    /// What is at an address, from the byte `start` on as far as the server heeds that. Follows redirects.
    pub fn open(&self, mut address: Uri, start: u64) -> Result<Response<Body>, Fault> {
        for _ in 0..=MOST_REDIRECTS {
            let answer = self.ask(&address, start)?;
            match redirection(&address, &answer)? {
                Some(next) => address = next,
                None => return Ok(answer),
            }
        }
        Err(too_many())
    }

    /// One request; the answer is a success or a redirection.
    fn ask(&self, address: &Uri, start: u64) -> Result<Response<Body>, Fault> {
        let mut request = self.agent.get(address.clone());
        if let Some(token) = &self.token
            && Origin::of(address).as_ref() == Some(&self.origin)
        {
            request = request.header(AUTHORIZATION, token.clone());
        }
        if start > 0 {
            request = request.header(RANGE, format!("bytes={start}-"));
        }
        let answer = request.call().map_err(explain)?;
        let status = answer.status();
        if !status.is_success() && !is_redirection(status) {
            return Err(Fault::Status(status.as_u16()));
        }
        if text(answer.headers(), CONTENT_ENCODING.as_str())?.is_some_and(|name| name != "identity")
        {
            return Err(Fault::Answer("with a packed body".to_owned()));
        }
        Ok(answer)
    }

    /// Hands a body on as it comes. How long it may be is for `sink` to say.
    pub fn read(
        &self,
        answer: Response<Body>,
        mut sink: impl FnMut(&[u8]) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let mut body = answer.into_body().into_reader();
        let mut buffer = vec![0; 1 << 16];
        let (mut since, mut came) = (Instant::now(), 0);
        loop {
            let count = match body.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(explain(error.into())),
            };
            sink(&buffer[..count])?;
            came += count as u64;
            if since.elapsed() >= self.timeout {
                // A drop now and then keeps a time-out for silence from ever passing.
                if came < SLOWEST * self.timeout.as_secs().max(1) {
                    return Err(Fault::Network(slow()));
                }
                (since, came) = (Instant::now(), 0);
            }
        }
    }
}

/// Who an address belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    /// `None` for an address that nothing should be sent to: without a host, of another protocol, or with a password in it.
    fn of(address: &Uri) -> Option<Self> {
        let scheme = address.scheme_str()?;
        let usual = match scheme {
            "https" => 443,
            "http" => 80,
            _ => return None,
        };
        let authority = address.authority()?;
        let host = authority.host();
        let port = match authority.as_str().strip_prefix(host)? {
            "" => usual,
            port => port.strip_prefix(':')?.parse().ok()?,
        };
        (!host.is_empty()).then(|| Self {
            scheme: scheme.to_owned(),
            host: host.to_ascii_lowercase(),
            port,
        })
    }

    fn is_encrypted(&self) -> bool {
        self.scheme == "https"
    }
}

/// Where an answer sends whoever asked at `address`, if it does.
fn redirection(address: &Uri, answer: &Response<Body>) -> Result<Option<Uri>, Fault> {
    if !is_redirection(answer.status()) {
        return Ok(None);
    }
    let location = text(answer.headers(), LOCATION.as_str())?
        .ok_or_else(|| Fault::Answer("with a redirection to nowhere".to_owned()))?;
    let refused = |why: &str| {
        Fault::Answer(format!(
            "with a redirection to {:?}, {why}",
            quoted(&location)
        ))
    };
    let scheme = address.scheme_str().unwrap_or_default();
    let whole = match location.strip_prefix("//") {
        Some(_) => format!("{scheme}:{location}"),
        None if location.starts_with('/') => {
            let authority = address
                .authority()
                .map_or("", |authority| authority.as_str());
            format!("{scheme}://{authority}{location}")
        }
        None => location.clone(),
    };
    let next: Uri = whole.parse().map_err(|_| refused("which is no address"))?;
    match Origin::of(&next) {
        None => Err(refused("which is no address of a server")),
        Some(origin) if scheme == "https" && !origin.is_encrypted() => {
            Err(refused("which is not encrypted"))
        }
        Some(_) => Ok(Some(next)),
    }
}

fn is_redirection(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

fn text(headers: &HeaderMap, name: &str) -> Result<Option<String>, Fault> {
    let read = |value: &HeaderValue| {
        let nonsense = || Fault::Answer(format!("with a header {name} that is no text"));
        value.to_str().map(str::to_owned).map_err(|_| nonsense())
    };
    headers.get(name).map(read).transpose()
}

fn number(headers: &HeaderMap, name: &str) -> Result<Option<u64>, Fault> {
    let read = |value: String| {
        let nonsense = || Fault::Answer(format!("with a header {name} of {:?}", quoted(&value)));
        value.parse().map_err(|_| nonsense())
    };
    text(headers, name)?.map(read).transpose()
}

fn too_many() -> Fault {
    Fault::Answer(format!("with more than {MOST_REDIRECTS} redirections"))
}

fn slow() -> String {
    "it takes too long".to_owned()
}

fn explain(error: ureq::Error) -> Fault {
    match error {
        ureq::Error::Http(_) | ureq::Error::Protocol(_) | ureq::Error::LargeResponseHeader(..) => {
            Fault::Answer(format!("something else than expected ({error})"))
        }
        ureq::Error::Timeout(_) => Fault::Network(slow()),
        ureq::Error::Io(error) => Fault::Network(error.to_string()),
        other => Fault::Network(other.to_string()),
    }
}
