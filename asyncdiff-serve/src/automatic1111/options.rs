//! Settings of the service: which model is taken where a request names none.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::fields::model_name;
use crate::body::Json;
use crate::refusal::Refusal;
use crate::service::{Service, blocking};

/// Settings of the service.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct Options {
    /// A model's title or name.
    sd_model_checkpoint: Option<String>,
}

/// Which model is taken where a request names none.
#[utoipa::path(get, path = "/sdapi/v1/options", tag = "automatic1111", responses((status = 200, description = "Settings")))]
pub(crate) async fn get(State(service): State<Arc<Service>>) -> axum::Json<Value> {
    axum::Json(json!({
        "sd_model_checkpoint": service.model().name,
        "sd_checkpoint_hash": null,
        "sd_vae": "Automatic",
        "CLIP_stop_at_last_layers": 1,
        "samples_format": "png",
    }))
}

/// Takes another model: it is looked at now, its weights are loaded with the first picture. Other settings change nothing.
#[utoipa::path(post, path = "/sdapi/v1/options", tag = "automatic1111", request_body = Options, responses((status = 200, description = "It is taken")))]
pub(crate) async fn set(
    State(service): State<Arc<Service>>,
    Json(options, ..): Json<Options>,
) -> Result<axum::Json<Value>, Refusal> {
    if let Some(title) = options.sd_model_checkpoint {
        blocking(move || {
            let model = service.catalog.model(model_name(&title))?;
            model.check().map_err(|refusal| Refusal {
                status: StatusCode::BAD_REQUEST,
                ..refusal
            })?;
            service.set_model(model);
            Ok(())
        })
        .await?;
    }
    Ok(axum::Json(Value::Null))
}
