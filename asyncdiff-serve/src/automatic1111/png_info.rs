//! `POST /sdapi/v1/png-info`

use asyncdiff_media::{Parameters, picture};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::body::Json;
use crate::pictures;
use crate::refusal::Refusal;
use crate::service::blocking;

/// A file.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
#[schema(as = automatic1111::File)]
pub(crate) struct Asked {
    /// A PNG file as base64 or a data URL.
    image: String,
}

/// What a picture's file says of how it was made.
#[utoipa::path(post, path = "/sdapi/v1/png-info", tag = "automatic1111", request_body = Asked, responses((status = 200, description = "The text, and what it says")))]
pub(crate) async fn png_info(Json(asked, ..): Json<Asked>) -> Result<axum::Json<Value>, Refusal> {
    if asked.image.is_empty() {
        return Err(Refusal::field(
            "image",
            "image is missing: send the bytes of a PNG file as base64",
        ));
    }
    blocking(move || {
        let bytes = pictures::from_base64("image", &asked.image)?;
        let text = picture::text(&bytes).unwrap_or_default();
        let parameters = Parameters::read(&text);
        let mut read = Map::new();
        if !text.is_empty() {
            read.insert("Prompt".to_owned(), parameters.prompt.into());
            read.insert(
                "Negative prompt".to_owned(),
                parameters.negative_prompt.into(),
            );
            for (name, value) in parameters.settings {
                read.insert(name, value.into());
            }
        }
        Ok(axum::Json(
            json!({ "info": text, "items": { "parameters": text }, "parameters": read }),
        ))
    })
    .await
}
