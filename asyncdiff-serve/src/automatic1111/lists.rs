//! What there is to choose from.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::samplers::SAMPLERS;
use crate::service::Service;

/// The models that requests may name.
#[utoipa::path(get, path = "/sdapi/v1/sd-models", tag = "automatic1111", responses((status = 200, description = "A list")))]
pub(crate) async fn models(State(service): State<Arc<Service>>) -> Json<Value> {
    let models = service.catalog.models().iter();
    let all = models.map(|model| {
        json!({
            "title": model.name, "model_name": model.name, "hash": null, "sha256": null,
            // Where it is, is nobody's business.
            "filename": model.name, "config": null,
        })
    });
    Json(all.collect())
}

/// Samplers.
#[utoipa::path(get, path = "/sdapi/v1/samplers", tag = "automatic1111", responses((status = 200, description = "A list")))]
pub(crate) async fn samplers() -> Json<Value> {
    let all = SAMPLERS.iter().filter(|(_, own, _)| !own.is_empty());
    let names = all.flat_map(|(name, _, karras)| {
        let with = karras.map(|_| format!("{name} Karras"));
        std::iter::once((*name).to_owned()).chain(with)
    });
    let all = names.map(|name| json!({ "name": name, "aliases": [], "options": {} }));
    Json(all.collect())
}

/// Noise levels of samplers.
#[utoipa::path(get, path = "/sdapi/v1/schedulers", tag = "automatic1111", responses((status = 200, description = "A list")))]
pub(crate) async fn schedulers() -> Json<Value> {
    let all = ["Automatic", "Karras"].map(|label| {
        json!({
            "name": label.to_ascii_lowercase(), "label": label, "aliases": null,
            "default_rho": -1.0, "need_inner_model": false,
        })
    });
    Json(json!(all))
}

/// The LoRAs that prompts may name.
#[utoipa::path(get, path = "/sdapi/v1/loras", tag = "automatic1111", responses((status = 200, description = "A list")))]
pub(crate) async fn loras(State(service): State<Arc<Service>>) -> Json<Value> {
    let loras = service.catalog.loras.iter();
    let all = loras.map(
        |lora| json!({ "name": lora.name, "alias": lora.name, "path": lora.name, "metadata": {} }),
    );
    Json(all.collect())
}

/// What clients ask for, and what there is none of here.
pub(crate) const EMPTY: [(&str, &str); 6] = [
    ("/sdapi/v1/upscalers", "Upscalers: there are none."),
    (
        "/sdapi/v1/latent-upscale-modes",
        "Upscalers of latents: there are none.",
    ),
    ("/sdapi/v1/hypernetworks", "Hypernetworks: there are none."),
    (
        "/sdapi/v1/face-restorers",
        "Face restorers: there are none.",
    ),
    ("/sdapi/v1/prompt-styles", "Styles: there are none."),
    ("/sdapi/v1/sd-vae", "Other autoencoders: there are none."),
];

/// What is found when the service starts is all there is.
pub(crate) const REFRESH: [(&str, &str); 2] = [
    (
        "/sdapi/v1/refresh-checkpoints",
        "Changes nothing: models are found when the service starts.",
    ),
    (
        "/sdapi/v1/refresh-loras",
        "Changes nothing: LoRAs are found when the service starts.",
    ),
];

/// Of [`EMPTY`].
pub(super) async fn empty() -> Json<Value> {
    Json(json!([]))
}

/// Embeddings: there are none.
#[utoipa::path(get, path = "/sdapi/v1/embeddings", tag = "automatic1111", responses((status = 200, description = "Two empty lists")))]
pub(crate) async fn embeddings() -> Json<Value> {
    Json(json!({ "loaded": {}, "skipped": {} }))
}

/// Scripts: there are none.
#[utoipa::path(get, path = "/sdapi/v1/scripts", tag = "automatic1111", responses((status = 200, description = "Two empty lists")))]
pub(crate) async fn scripts() -> Json<Value> {
    Json(json!({ "txt2img": [], "img2img": [] }))
}

/// Flags of the web UI, as far as clients look at them.
#[utoipa::path(get, path = "/sdapi/v1/cmd-flags", tag = "automatic1111", responses((status = 200, description = "That there is an interface")))]
pub(crate) async fn flags() -> Json<Value> {
    Json(json!({ "api": true }))
}

/// Memory, of which nothing is told.
#[utoipa::path(get, path = "/sdapi/v1/memory", tag = "automatic1111", responses((status = 200, description = "Nothing")))]
pub(crate) async fn memory() -> Json<Value> {
    Json(json!({ "ram": {}, "cuda": {} }))
}

/// Of [`REFRESH`].
pub(super) async fn nothing() -> Json<Value> {
    Json(json!({}))
}
