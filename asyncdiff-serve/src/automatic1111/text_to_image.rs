//! `POST /sdapi/v1/txt2img`

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::fields::{Generation, INTERFACE, answer};
use crate::body::{Json, fields};
use crate::job::{Job, Made, Outcome};
use crate::refusal::Refusal;
use crate::service::{Service, Ticket, blocking};

/// Pictures of a prompt.
#[utoipa::path(
    post, path = "/sdapi/v1/txt2img", tag = "automatic1111", request_body = Generation,
    responses((status = 200, description = "Pictures, and how they were made"))
)]
pub(crate) async fn text_to_image(
    State(service): State<Arc<Service>>,
    Json(body, ..): Json<Value>,
) -> Result<axum::Json<Value>, Refusal> {
    let request = parse::<Generation>(&body)?;
    let ticket = service.submit(INTERFACE, request.order()?).await?;
    let (job, made) = end(ticket).await?;
    let send = request.send_images.unwrap_or(true);
    let body = blocking(move || {
        let images = made.iter().map(|made| made.frames[0].clone()).collect();
        answer(&service, &job, &made, (images, send), body)
    });
    Ok(axum::Json(body.await?))
}

/// The fields of a body, which itself goes back to the client.
pub(super) fn parse<T: DeserializeOwned>(body: &Value) -> Result<T, Refusal> {
    fields(body).map_err(|refusal| Refusal {
        status: StatusCode::UNPROCESSABLE_ENTITY,
        ..refusal
    })
}

/// What was made; of a job that was interrupted, what was made until then.
pub(super) async fn end(ticket: Ticket) -> Result<(Arc<Job>, Arc<Vec<Made>>), Refusal> {
    let job = Arc::clone(&ticket.job);
    match job.end().await {
        Outcome::Made(made) | Outcome::Cancelled(made) => Ok((job, made)),
        Outcome::Failed(refusal) => Err(refusal),
    }
}
