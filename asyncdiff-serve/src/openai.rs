//! OpenAI's interface for pictures.

mod edits;
mod fields;
mod generations;
mod stream;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use serde_json::{Value, json};

use crate::service::Service;

pub(crate) use edits::{__path_edits, edits};
pub(crate) use fields::seed;
pub(crate) use generations::{__path_generations, generations};

pub(crate) fn router() -> Router<Arc<Service>> {
    Router::new()
        .route("/v1/images/generations", post(generations))
        .route("/v1/images/edits", post(edits))
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model))
}

/// The models that requests may name.
#[utoipa::path(get, path = "/v1/models", tag = "openai", responses((status = 200, description = "A list of models")))]
pub(crate) async fn models(State(service): State<Arc<Service>>) -> Json<Value> {
    let models = service.catalog.models().iter();
    let data: Vec<_> = models.map(|model| about(&model.name)).collect();
    Json(json!({ "object": "list", "data": data }))
}

/// A model that requests may name.
#[utoipa::path(get, path = "/v1/models/{name}", tag = "openai", params(("name" = String, Path, description = "As the list has it")), responses((status = 200, description = "The model"), (status = 404, description = "There is none of that name")))]
pub(crate) async fn model(
    State(service): State<Arc<Service>>,
    axum::extract::Path(name): axum::extract::Path<String>,
) -> Result<Json<Value>, crate::refusal::Refusal> {
    let model = service.catalog.model(&name);
    let model = model.map_err(|refusal| crate::refusal::Refusal {
        status: axum::http::StatusCode::NOT_FOUND,
        ..refusal
    })?;
    Ok(Json(about(&model.name)))
}

fn about(name: &str) -> Value {
    json!({ "id": name, "object": "model", "created": 0, "owned_by": "asyncdiff" })
}

/// Seconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
