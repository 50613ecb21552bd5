//! Bodies of requests.

use std::sync::Arc;
use std::time::Duration;

use asyncdiff_core::quoted;
use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tokio::sync::OwnedSemaphorePermit;

use crate::refusal::Refusal;
use crate::service::{KIB, Service};

/// Memory that is held for a request.
pub(crate) type Held = OwnedSemaphorePermit;

/// A body of JSON, and its memory. Unlike axum's, one without a media type is accepted, as clients of web UIs send it.
pub(crate) struct Json<T>(pub T, #[expect(dead_code, reason = "it is held")] pub Held);

/// A body as it is, and its memory.
pub(crate) struct Raw(pub Bytes, pub Held);

impl FromRequest<Arc<Service>> for Raw {
    type Rejection = Refusal;

    async fn from_request(request: Request, service: &Arc<Service>) -> Result<Self, Refusal> {
        // It is never closed.
        let _turn = service.bodies.acquire().await;
        let mut held = hold(request.headers(), service)?;
        let read = within(Bytes::from_request(request, service)).await?;
        read.map(|bytes| {
            let unused = held.num_permits().saturating_sub(bytes.len().div_ceil(KIB));
            drop(held.split(unused));
            Self(bytes, held)
        })
        .map_err(|rejection| unread(rejection.status(), rejection.body_text(), service))
    }
}

/// The memory of a body: one that does not say how long it is may be as long as any.
pub(crate) fn hold(headers: &HeaderMap, service: &Service) -> Result<Held, Refusal> {
    let most = service.limits.body_bytes;
    let length = headers.get(header::CONTENT_LENGTH);
    let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
    service.hold(length.unwrap_or(most).min(most))
}

/// How long a body may take, however steadily it trickles: others wait for its turn.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is read, if it is here in time.
pub(crate) async fn within<T>(reading: impl Future<Output = T>) -> Result<T, Refusal> {
    tokio::time::timeout(PATIENCE, reading).await.map_err(|_| {
        let seconds = PATIENCE.as_secs();
        Refusal::late(format!(
            "the body of the request took more than {seconds} seconds: send less, or faster"
        ))
    })
}

/// Why a body could not be read.
pub(crate) fn unread(status: axum::http::StatusCode, reason: String, service: &Service) -> Refusal {
    let most = service.limits.body_bytes;
    match status {
        axum::http::StatusCode::PAYLOAD_TOO_LARGE => Refusal::too_large(format!(
            "the body of the request has more than the {most} bytes that this service reads: send less"
        )),
        _ => Refusal::bad(format!("the body of the request cannot be read: {reason}")),
    }
}

impl<T: DeserializeOwned> FromRequest<Arc<Service>> for Json<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, service: &Arc<Service>) -> Result<Self, Refusal> {
        let kind = request.headers().get(header::CONTENT_TYPE);
        let kind = kind.map(|kind| kind.to_str().unwrap_or_default().to_ascii_lowercase());
        if let Some(kind) = kind.filter(|kind| !kind.contains("json")) {
            let kind = quoted(&kind).to_string();
            return Err(Refusal::media_type(format!(
                "the body is {kind:?}: send JSON, and say so with Content-Type: application/json"
            )));
        }
        let Raw(bytes, held) = Raw::from_request(request, service).await?;
        if let Ok(read) = serde_json::from_slice(&bytes) {
            return Ok(Self(read, held));
        }
        let body: Value = serde_json::from_slice(&bytes).map_err(|error| {
            Refusal::bad(format!(
                "the body is no JSON from line {}, column {} on: send an object of fields, such as {{\"prompt\": \"red apple\"}}",
                error.line(),
                error.column()
            ))
        })?;
        Ok(Self(fields(&body)?, held))
    }
}

/// The fields of a request, all of which may be left out. If one has a value of another kind than it should, that is named.
pub(crate) fn fields<T: DeserializeOwned>(body: &Value) -> Result<T, Refusal> {
    T::deserialize(body).map_err(|error| {
        let Value::Object(fields) = body else {
            return Refusal::bad(format!(
                "the body is {}: send an object of fields, such as {{\"prompt\": \"red apple\"}}",
                quoted(&body.to_string())
            ));
        };
        let fault = fields.iter().find_map(|(name, value)| {
            let alone = Map::from_iter([(name.clone(), value.clone())]);
            let error = T::deserialize(&Value::Object(alone)).err()?;
            Some((name, value, error))
        });
        match fault {
            Some((name, value, error)) => Refusal::field(
                name.clone(),
                format!(
                    "{name} is {}: use {}",
                    quoted(&value.to_string()),
                    expected(&error.to_string())
                ),
            ),
            None => Refusal::bad(quoted(&error.to_string()).to_string()),
        }
    })
}

/// What serde has expected, in words for people.
fn expected(error: &str) -> &str {
    match error
        .rsplit_once("expected ")
        .map_or(error, |(_, what)| what)
    {
        "u8" | "u32" | "u64" | "usize" => "a whole number, 0 or more",
        "i64" => "a whole number",
        "f64" => "a number",
        "a string" => "a text in quotation marks",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        what if what.starts_with("struct ") => "an object of fields",
        what => what,
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Default, Deserialize)]
    #[serde(default)]
    struct Asked {
        prompt: String,
        steps: Option<usize>,
        quality: Option<u8>,
        scale: Option<f64>,
        seed: Option<i64>,
        stream: Option<bool>,
        images: Vec<String>,
        inner: Option<Box<Asked>>,
    }

    #[test]
    fn values_of_another_kind_are_named_with_what_would_do() {
        for (body, field, message) in [
            (
                json!({ "prompt": 5 }),
                "prompt",
                "prompt is 5: use a text in quotation marks",
            ),
            (
                json!({ "prompt": "x", "steps": "many" }),
                "steps",
                "steps is \"many\": use a whole number, 0 or more",
            ),
            (
                json!({ "steps": -1 }),
                "steps",
                "steps is -1: use a whole number, 0 or more",
            ),
            (
                json!({ "quality": 256 }),
                "quality",
                "quality is 256: use a whole number, 0 or more",
            ),
            (json!({ "scale": [] }), "scale", "scale is []: use a number"),
            (
                json!({ "seed": 0.5 }),
                "seed",
                "seed is 0.5: use a whole number",
            ),
            (
                json!({ "stream": "yes" }),
                "stream",
                "stream is \"yes\": use true or false",
            ),
            (
                json!({ "images": "a" }),
                "images",
                "images is \"a\": use a list",
            ),
            (
                json!({ "inner": "a" }),
                "inner",
                "inner is \"a\": use an object of fields",
            ),
        ] {
            let refusal = fields::<Asked>(&body).unwrap_err();
            assert_eq!(refusal.field.as_deref(), Some(field), "{body}");
            assert_eq!(refusal.message, message);
        }
        let refusal = fields::<Asked>(&json!("x")).unwrap_err();
        assert!(
            refusal
                .message
                .starts_with("the body is \"x\": send an object"),
            "{}",
            refusal.message
        );
        assert!(fields::<Asked>(&json!({ "steps": null, "unknown": 1, "seed": 7 })).is_ok());
    }
}
