//! `POST /api/jobs` and `DELETE /api/jobs/{id}`

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::events::leave;
use crate::body::Json;
use crate::job::{Interface, Stop};
use crate::openai::seed;
use crate::order::{Init, Order};
use crate::pictures;
use crate::refusal::Refusal;
use crate::service::{Service, blocking};

/// How long a picture waits for its first reader.
const COMES: Duration = Duration::from_secs(30);

/// What the page asks for.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct Asked {
    /// What to draw. `<lora:name:weight>` takes a LoRA of the service.
    prompt: String,
    /// What to avoid.
    negative_prompt: Option<String>,
    /// A name of the options.
    model: Option<String>,
    /// Pixels per row.
    width: Option<usize>,
    /// Number of rows.
    height: Option<usize>,
    /// Inference steps.
    steps: Option<usize>,
    /// Of the first picture; -1 is random.
    seed: Option<i64>,
    /// Strength of classifier-free guidance.
    guidance_scale: Option<f64>,
    /// A name of the options.
    scheduler: Option<String>,
    /// A value of the options' plans.
    plan: Option<String>,
    /// Pictures.
    count: Option<usize>,
    /// The picture to start from, as a data URL.
    init_image: Option<String>,
    /// White is repainted, as a data URL.
    mask: Option<String>,
    /// How much of the picture is replaced.
    strength: Option<f64>,
    /// Of a video.
    frames: Option<usize>,
    /// Frames per second of a video.
    fps: Option<usize>,
}

/// Puts a picture into the queue. Its events tell how it comes.
#[utoipa::path(
    post, path = "/api/jobs", tag = "page", request_body = Asked,
    responses((status = 202, description = "Its id, its place, its seed"))
)]
pub(crate) async fn submit(
    State(service): State<Arc<Service>>,
    Json(asked, ..): Json<Asked>,
) -> Result<(StatusCode, axum::Json<Value>), Refusal> {
    let order = blocking(move || asked.order()).await?;
    let ticket = service.submit(Interface::Page, order).await?;
    let job = ticket.keep();
    service.keep(&job);
    let place = job.state().place;
    tokio::spawn({
        let (service, job) = (Arc::clone(&service), Arc::clone(&job));
        async move {
            tokio::time::sleep(COMES).await;
            leave(&service, &job);
        }
    });
    let body = json!({ "id": job.id, "place": place, "seed": job.task.content.seed });
    Ok((StatusCode::ACCEPTED, axum::Json(body)))
}

/// Cancels a picture.
#[utoipa::path(delete, path = "/api/jobs/{id}", tag = "page", params(("id" = String, Path, description = "As it was told")), responses((status = 204, description = "It is heard")))]
pub(crate) async fn cancel(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
) -> Result<StatusCode, Refusal> {
    let job = service.kept(&id)?;
    if job.outcome().is_none() {
        service.stop(&job, Stop::Asked);
    }
    Ok(StatusCode::NO_CONTENT)
}

impl Asked {
    fn order(self) -> Result<Order, Refusal> {
        let bytes = |field, url: &str| pictures::from_base64(field, url);
        let mask = match &self.mask {
            Some(mask) => Some(pictures::mask("mask", &bytes("mask", mask)?)?),
            None => None,
        };
        let init = match &self.init_image {
            Some(image) => Some(Init {
                image: pictures::image("init_image", &bytes("init_image", image)?)?,
                mask,
                strength: self.strength,
            }),
            None if mask.is_some() => {
                return Err(Refusal::field(
                    "mask",
                    "a mask says what of a picture is repainted: send the picture as init_image",
                ));
            }
            None => None,
        };
        let count = self.count.unwrap_or(1);
        Ok(Order {
            model: self.model,
            prompt: self.prompt,
            negative_prompt: self.negative_prompt.unwrap_or_default(),
            width: self.width,
            height: self.height,
            steps: self.steps,
            guidance_scale: self.guidance_scale,
            scheduler: self.scheduler,
            seed: seed(self.seed)?,
            plan: self.plan,
            // One after the other; more than any limit allows is refused by its sum.
            rounds: vec![1; count.min(10_000)],
            frames: self.frames,
            fps: self.fps,
            init,
            ..Order::default()
        })
    }
}
