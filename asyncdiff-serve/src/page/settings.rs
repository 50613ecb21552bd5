//! `POST /api/settings`

use asyncdiff_media::{Parameters, picture};
use axum::Json;
use serde_json::{Map, Value, json};

use crate::body::Raw;
use crate::infotext;
use crate::refusal::Refusal;

/// How a PNG file was made, as the fields of a request that makes it again. The file is the body.
#[utoipa::path(
    post, path = "/api/settings", tag = "page",
    responses((status = 200, description = "Settings, and the text that they come from"))
)]
pub(crate) async fn settings(Raw(bytes, ..): Raw) -> Result<Json<Value>, Refusal> {
    let text = picture::text(&bytes);
    let text = text.ok_or_else(|| {
        Refusal::bad("this file does not say how it was made: drop a PNG that this program or a web UI has written")
    })?;
    Ok(Json(
        json!({ "settings": read(&Parameters::read(&text)), "infotext": text }),
    ))
}

fn read(parameters: &Parameters) -> Map<String, Value> {
    let mut settings = Map::new();
    settings.insert("prompt".to_owned(), parameters.prompt.clone().into());
    settings.insert(
        "negative_prompt".to_owned(),
        parameters.negative_prompt.clone().into(),
    );
    let mut number = |name: &str, value: Option<&str>| {
        let value = value.and_then(|value| value.trim().parse::<serde_json::Number>().ok());
        if let Some(value) = value {
            settings.insert(name.to_owned(), Value::Number(value));
        }
    };
    for (name, setting) in [
        ("steps", "Steps"),
        ("seed", "Seed"),
        ("guidance_scale", "CFG scale"),
        ("strength", "Denoising strength"),
        ("frames", "Frames"),
        ("fps", "FPS"),
    ] {
        number(name, parameters.get(setting));
    }
    if let Some((width, height)) = parameters.get("Size").and_then(|size| size.split_once('x')) {
        number("width", Some(width));
        number("height", Some(height));
    }
    if let Some(scheduler) = infotext::scheduler(parameters) {
        settings.insert("scheduler".to_owned(), scheduler.into());
    }
    if let Some(model) = parameters.get("Model") {
        settings.insert("model".to_owned(), model.into());
    }
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_web_uis_become_fields() {
        let text = "a fox\nNegative prompt: dog\nSteps: 20, Sampler: DPM++ 2M Karras, CFG scale: 6.5, Seed: 7, Size: 512x768, Model: x";
        let read = read(&Parameters::read(text));
        let expected = json!({
            "prompt": "a fox", "negative_prompt": "dog", "steps": 20, "scheduler": "dpmpp-2m-karras",
            "guidance_scale": 6.5, "seed": 7, "width": 512, "height": 768, "model": "x",
        });
        assert_eq!(Value::Object(read), expected);
    }
}
