//! `POST /v1/images/edits`

use std::sync::Arc;

use axum::extract::{FromRequest, Multipart, Request, State};
use axum::response::Response;
use serde_json::{Map, Value};

use super::fields::Generation;
use super::generations::answer;
use crate::body;
use crate::order::Init;
use crate::pictures;
use crate::refusal::Refusal;
use crate::service::{Service, blocking};

/// A picture made anew, or inside a mask whose transparent part is repainted: `multipart/form-data` with `image` (or `image[]`),
/// `mask`, and the fields of a generation.
#[utoipa::path(
    post, path = "/v1/images/edits", tag = "openai",
    responses((status = 200, description = "Pictures, or events with stream"))
)]
pub(crate) async fn edits(
    State(service): State<Arc<Service>>,
    request: Request,
) -> Result<Response, Refusal> {
    let headers = request.headers().clone();
    // It is never closed.
    let turn = service.bodies.acquire().await;
    let _held = body::hold(&headers, &service)?;
    let form = Multipart::from_request(request, &service).await;
    let form = form.map_err(|_| {
        Refusal::media_type("an edit comes as a form with files: send it as multipart/form-data")
    })?;
    let Form {
        fields,
        image,
        mask,
    } = body::within(parts(form, &service)).await??;
    drop(turn);
    let Some(image) = image else {
        return Err(Refusal::field(
            "image",
            "image is missing: send the picture to edit",
        ));
    };
    let request: Generation = body::fields(&Value::Object(fields))?;
    let strength = request.strength;
    let init = blocking(move || {
        // Without a mask of its own, what is transparent in the picture is repainted.
        let mask = match mask {
            Some(mask) => {
                let found = pictures::transparency("mask", &mask)?;
                Some(found.ok_or_else(|| {
                    Refusal::field("mask", "the mask has no transparency, which says what is repainted: send a PNG or WebP picture with an alpha channel")
                })?)
            }
            None => pictures::transparency("image", &image)?
                .filter(|mask| mask.grey.iter().any(|grey| *grey >= 128)),
        };
        Ok(Init {
            image: pictures::image("image", &image)?,
            mask,
            strength,
        })
    })
    .await?;
    let (order, wanted) = request.order(Some(init))?;
    answer(service, &headers, order, wanted).await
}

struct Form {
    fields: Map<String, Value>,
    image: Option<Vec<u8>>,
    mask: Option<Vec<u8>>,
}

async fn parts(mut form: Multipart, service: &Service) -> Result<Form, Refusal> {
    let broken = |error: axum::extract::multipart::MultipartError| {
        body::unread(error.status(), error.body_text(), service)
    };
    let mut read = Form {
        fields: Map::new(),
        image: None,
        mask: None,
    };
    while let Some(field) = form.next_field().await.map_err(broken)? {
        let name = field.name().unwrap_or_default().to_owned();
        match name.as_str() {
            "image" | "image[]" => {
                let bytes = field.bytes().await.map_err(broken)?;
                if read.image.replace(bytes.to_vec()).is_some() {
                    return Err(Refusal::field(
                        "image",
                        "one picture can be edited at a time: send one image",
                    ));
                }
            }
            "mask" => read.mask = Some(field.bytes().await.map_err(broken)?.to_vec()),
            _ => {
                let text = field.text().await.map_err(broken)?;
                let value = value_of(&name, text);
                read.fields.insert(name, value);
            }
        }
    }
    Ok(read)
}

/// A form knows only texts.
fn value_of(name: &str, text: String) -> Value {
    const NUMBERS: [&str; 7] = [
        "n",
        "output_compression",
        "partial_images",
        "num_inference_steps",
        "guidance_scale",
        "seed",
        "strength",
    ];
    let parsed = match (name, text.as_str()) {
        ("stream", text) => Some(Value::Bool(["true", "True", "1"].contains(&text))),
        (name, text) if NUMBERS.contains(&name) => serde_json::from_str(text).ok(),
        _ => None,
    };
    parsed.unwrap_or(Value::String(text))
}
