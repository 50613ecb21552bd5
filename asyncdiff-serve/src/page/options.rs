//! `GET /api/options`

use std::sync::Arc;

use asyncdiff_core::scheduler::SCHEDULERS;
use asyncdiff_models::StartFrom;
use axum::Json;
use axum::extract::{Query, State};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::infotext;
use crate::order::default_shape;
use crate::plans::AUTO;
use crate::refusal::Refusal;
use crate::service::{Service, blocking};

/// What the page lets a person choose from, for the model that is named or the usual one.
#[utoipa::path(get, path = "/api/options", tag = "page", responses((status = 200, description = "Models, defaults, limits")))]
pub(crate) async fn options(
    State(service): State<Arc<Service>>,
    Query(asked): Query<Asked>,
) -> Result<Json<Value>, Refusal> {
    blocking(move || about(&service, asked.model.as_deref()).map(Json)).await
}

#[derive(Debug, Deserialize)]
pub(crate) struct Asked {
    model: Option<String>,
}

fn about(service: &Service, named: Option<&str>) -> Result<Value, Refusal> {
    let model = match named {
        Some(name) => service.catalog.model(name)?,
        None => service.model(),
    };
    let pipeline = model.pipeline()?;
    let mut shape = default_shape(&pipeline);
    let makes_videos = pipeline.image_encoder().is_some();
    let needs_mask = pipeline.reads_mask();
    if needs_mask {
        shape.start = StartFrom::MASKED;
    }
    let run = service.planner.plan(model, &shape, AUTO)?;
    let content = pipeline.content("");
    let mut defaults = json!({
        "width": shape.width,
        "height": shape.height,
        "steps": shape.steps,
        "guidance_scale": shape.guidance_scale,
        "scheduler": infotext::by_class(&run.scheduler),
        "strength": StartFrom::PICTURE.strength(),
        "negative_prompt": content.negative_prompt,
    });
    if pipeline.can_move() {
        defaults["frames"] = shape.frames.into();
        defaults["fps"] = content.fps.into();
    }
    let kind = |index: usize| match index == model.index {
        true if makes_videos => "video",
        true => "picture",
        // Not opened for this; what it is, is told when it is chosen.
        false => match service.catalog.models()[index].kind() {
            Some(true) => "video",
            _ => "picture",
        },
    };
    let models = service.catalog.models().iter();
    let models = models.map(|model| json!({ "name": model.name, "kind": kind(model.index) }));
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "model": model.name,
        "models": models.collect::<Vec<_>>(),
        "defaults": defaults,
        "multiple_of": pipeline.size_multiple(),
        "schedulers": SCHEDULERS.iter().map(|known| known.name).collect::<Vec<_>>(),
        "devices": service.devices,
        "plans": service.planner.names(model, &shape)?,
        "loras": service.catalog.loras.iter().map(|lora| &lora.name).collect::<Vec<_>>(),
        "inputs": {
            "image": true,
            "mask": !makes_videos,
            "image_required": makes_videos || needs_mask,
            "mask_required": needs_mask,
        },
        "limits": service.limits,
    }))
}
