//! Bodies of requests.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequest, Request};
use axum::http::header;
use serde::de::DeserializeOwned;

use crate::refusal::Refusal;
use crate::service::Service;

/// A body of JSON. Unlike axum's, one without a media type is accepted, as clients of web UIs send it.
pub(crate) struct Json<T>(pub T);

/// A body as it is.
pub(crate) struct Raw(pub Bytes);

impl FromRequest<Arc<Service>> for Raw {
    type Rejection = Refusal;

    async fn from_request(request: Request, service: &Arc<Service>) -> Result<Self, Refusal> {
        // It is never closed.
        let _turn = service.bodies.acquire().await;
        let read = within(Bytes::from_request(request, service)).await?;
        read.map(Self)
            .map_err(|rejection| unread(rejection.status(), rejection.body_text(), service))
    }
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
            let kind = asyncdiff_core::quoted(&kind).to_string();
            return Err(Refusal::media_type(format!(
                "the body is {kind:?}: send JSON, and say so with Content-Type: application/json"
            )));
        }
        let Raw(bytes) = Raw::from_request(request, service).await?;
        serde_json::from_slice(&bytes).map(Self).map_err(|error| {
            let reason = error.to_string();
            let reason = asyncdiff_core::quoted(&reason).to_string();
            Refusal::bad(format!(
                "the body is not the JSON that is expected here: {reason}"
            ))
        })
    }
}
