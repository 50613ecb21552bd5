//! Requests that are not done, in the words and the shape that the client expects.

use std::borrow::Cow;
use std::fmt::Display;

use axum::Json;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

/// Why a request is not done. Which shape its body has is decided by whom it was asked of.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub status: StatusCode,
    /// One sentence that names the thing and the remedy.
    pub message: String,
    /// The field of the request that it is about.
    pub field: Option<Cow<'static, str>>,
    /// A word for programs.
    pub code: Option<&'static str>,
    /// What only whoever runs the service is to know, as it may name files.
    pub reason: Option<String>,
}

/// Seconds after which it is worth asking again.
const SOON: &str = "5";

impl Refusal {
    fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            message: message.into(),
            field: None,
            code: None,
            reason: None,
        }
    }

    /// Something is wrong with the request.
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// Something is wrong with a field of the request.
    pub fn field(field: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self {
            field: Some(field.into()),
            ..Self::bad(message)
        }
    }

    /// There is no such thing.
    pub fn missing(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    /// No key, or a wrong one.
    pub fn unauthorized() -> Self {
        Self {
            code: Some("invalid_api_key"),
            ..Self::new(
                StatusCode::UNAUTHORIZED,
                "this service wants its key: send Authorization: Bearer KEY, or HTTP Basic with the key as the password",
            )
        }
    }

    /// Not from there.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, message)
    }

    /// Not under that name.
    pub fn misdirected(message: impl Into<String>) -> Self {
        Self::new(StatusCode::MISDIRECTED_REQUEST, message)
    }

    /// More than is accepted.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    }

    /// A body that does not come.
    pub fn late(message: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, message)
    }

    /// A body of another kind.
    pub fn media_type(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message)
    }

    /// The queue is full.
    pub fn busy(waiting: usize) -> Self {
        Self {
            code: Some("rate_limit_exceeded"),
            ..Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                format!(
                    "{waiting} pictures are waiting already, which is all that this service lets wait: ask again later"
                ),
            )
        }
    }

    /// The service is about to end.
    pub fn closing() -> Self {
        Self {
            code: Some("service_unavailable"),
            ..Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "this service is about to end: ask again when it is back",
            )
        }
    }

    /// It took too long.
    pub fn time_limit(seconds: u64) -> Self {
        Self {
            code: Some("time_limit"),
            ..Self::new(
                StatusCode::GATEWAY_TIMEOUT,
                format!(
                    "this took longer than the {seconds} s that this service allows: ask for fewer steps, or a smaller picture"
                ),
            )
        }
    }

    /// Somebody has cancelled it.
    pub fn cancelled() -> Self {
        Self {
            code: Some("cancelled"),
            ..Self::new(StatusCode::CONFLICT, "cancelled")
        }
    }

    /// Requests take too much memory already.
    pub fn full(most: usize) -> Self {
        Self {
            code: Some("rate_limit_exceeded"),
            ..Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                format!(
                    "with this request, those that are read or wait would take more than the {most} bytes that this service has for them: ask again later, or for smaller pictures"
                ),
            )
        }
    }

    /// The service itself has failed. The reason is for its log.
    pub fn internal(message: impl Display, reason: impl Display) -> Self {
        let reason = reason.to_string();
        tracing::error!(reason, "{message}");
        Self {
            reason: Some(reason),
            ..Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                format!("{message}: the log of this service says why"),
            )
        }
    }

    /// Something has gone wrong that nobody has thought of.
    pub fn fault() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "this request has met a fault of this service: its log says more",
        )
    }

    /// As OpenAI's interface says it.
    pub fn for_openai(&self) -> Value {
        let kind = match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        // As this interface calls it.
        let param = self.field.as_deref().map(|field| match field {
            "steps" => "num_inference_steps",
            "width" | "height" => "size",
            "init_image" => "image",
            field => field,
        });
        json!({ "error": {
            "message": self.message, "type": kind, "param": param, "code": self.code,
        }})
    }

    /// As AUTOMATIC1111's interface says it.
    fn for_automatic1111(&self) -> Value {
        json!({
            "error": self.code.unwrap_or("HTTPException"),
            "detail": self.message,
            "body": "",
            "errors": self.message,
        })
    }

    /// As the page expects it.
    fn for_page(&self) -> Value {
        json!({ "error": { "message": self.message, "field": self.field } })
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Gives refusals the body that the path's clients expect.
pub(crate) async fn tell(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let response = next.run(request).await;
    let Some(refusal) = response.extensions().get::<Refusal>() else {
        return response;
    };
    let of_automatic1111 = path.starts_with("/sdapi/");
    let body = if path.starts_with("/v1/") {
        refusal.for_openai()
    } else if of_automatic1111 {
        refusal.for_automatic1111()
    } else {
        refusal.for_page()
    };
    let mut told = (refusal.status, Json(body)).into_response();
    let headers = told.headers_mut();
    match refusal.status {
        // Of a browser on the page, it would ask for a name and a password.
        StatusCode::UNAUTHORIZED => {
            let scheme = match of_automatic1111 {
                true => "Basic realm=\"asyncdiff\"",
                false => "Bearer",
            };
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(scheme));
        }
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(SOON));
        }
        _ => {}
    }
    told
}
