//! `POST /v1/images/generations`

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};

use super::fields::{Generation, INTERFACE, Wanted};
use super::stream;
use crate::body::Json;
use crate::order::Order;
use crate::refusal::Refusal;
use crate::service::{Service, blocking};

/// Pictures of a prompt.
#[utoipa::path(
    post, path = "/v1/images/generations", tag = "openai", request_body = Generation,
    responses((status = 200, description = "Pictures, or events with stream"))
)]
pub(crate) async fn generations(
    State(service): State<Arc<Service>>,
    headers: HeaderMap,
    Json(request, ..): Json<Generation>,
) -> Result<Response, Refusal> {
    let (order, wanted) = request.order(None)?;
    answer(service, &headers, order, wanted).await
}

/// Makes what is asked for, and answers as is wanted.
pub(super) async fn answer(
    service: Arc<Service>,
    headers: &HeaderMap,
    order: Order,
    wanted: Wanted,
) -> Result<Response, Refusal> {
    let ticket = service.submit(INTERFACE, order).await?;
    if wanted.stream {
        return Ok(stream::events(ticket, wanted));
    }
    let made = ticket.made().await?;
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok());
    let host = host.unwrap_or("localhost").to_owned();
    let body = blocking(move || wanted.answer(&service, &host, &made)).await?;
    Ok(axum::Json(body).into_response())
}
