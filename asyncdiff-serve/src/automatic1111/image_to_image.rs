//! `POST /sdapi/v1/img2img`

use std::sync::Arc;

use axum::extract::State;
use serde::Deserialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::fields::{Generation, INTERFACE, answer, whole};
use super::overlay::{Overlay, Region};
use super::text_to_image::{end, parse};
use crate::body::Json;
use crate::order::{Init, Order};
use crate::pictures;
use crate::refusal::Refusal;
use crate::service::{Service, blocking};

/// As web UIs start from a picture.
const STRENGTH: f64 = 0.75;
const MASK_BLUR: i64 = 4;
/// As far as the web UI's slider goes.
const MOST_BLUR: usize = 64;

/// What to make of a picture, beside the fields of a text's.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct FromImage {
    /// Pictures as base64 or data URLs; one.
    pub init_images: Vec<String>,
    /// How much of the picture is replaced, 0.75 if nothing is said.
    pub denoising_strength: Option<f64>,
    /// White is repainted.
    pub mask: Option<String>,
    /// Pixels by which the border of what is repainted is blurred, 4 if nothing is said.
    #[serde(deserialize_with = "whole")]
    pub mask_blur: Option<i64>,
    /// Repaints what is black, if it is 1.
    #[serde(deserialize_with = "whole")]
    pub inpainting_mask_invert: Option<i64>,
    /// Makes what is repainted at the whole size, and puts it back; true if nothing is said.
    pub inpaint_full_res: Option<bool>,
    /// Pixels around it that are seen then.
    #[serde(deserialize_with = "whole")]
    pub inpaint_full_res_padding: Option<i64>,
}

/// Pictures of a picture.
#[utoipa::path(
    post, path = "/sdapi/v1/img2img", tag = "automatic1111", request_body = FromImage,
    responses((status = 200, description = "Pictures, and how they were made"))
)]
pub(crate) async fn image_to_image(
    State(service): State<Arc<Service>>,
    Json(mut body, ..): Json<Value>,
) -> Result<axum::Json<Value>, Refusal> {
    let request = parse::<Generation>(&body)?;
    let from = parse::<FromImage>(&body)?;
    let order = request.order()?;
    // What is sent back has no pictures, and they need not wait in memory.
    for name in ["init_images", "mask"] {
        if let Some(field) = body.get_mut(name) {
            *field = Value::Null;
        }
    }
    let (order, overlay) = blocking(move || from.start(order)).await?;
    let ticket = service.submit(INTERFACE, order).await?;
    let (job, made) = end(ticket).await?;
    let send = request.send_images.unwrap_or(true);
    let body = blocking(move || {
        let images = made.iter().map(|made| {
            let image = made.frames[0].clone();
            match &overlay {
                Some(overlay) => overlay.put(image),
                None => Ok(image),
            }
        });
        let images = images.collect::<Result<_, _>>()?;
        answer(&service, &job, &made, (images, send), body)
    });
    Ok(axum::Json(body.await?))
}

impl FromImage {
    /// Lets what is made start from the picture; and what goes over the result.
    fn start(self, order: Order) -> Result<(Order, Option<Overlay>), Refusal> {
        let [image] = &self.init_images[..] else {
            return Err(match self.init_images.is_empty() {
                true => Refusal::field(
                    "init_images",
                    "init_images is missing: send a picture to start from",
                ),
                false => Refusal::field(
                    "init_images",
                    "a picture is made of one picture here: send one in init_images",
                ),
            });
        };
        let image = pictures::from_base64("init_images", image)?;
        let image = pictures::image("init_images", &image)?;
        let strength = Some(self.denoising_strength.unwrap_or(STRENGTH));
        let Some(mask) = self.mask.as_deref().filter(|mask| !mask.is_empty()) else {
            let init = Init {
                image,
                mask: None,
                strength,
            };
            return Ok((
                Order {
                    init: Some(init),
                    ..order
                },
                None,
            ));
        };
        let mask = pictures::from_base64("mask", mask)?;
        let mut mask =
            pictures::resized_mask(pictures::mask("mask", &mask)?, (image.width, image.height))?;
        if self.inpainting_mask_invert == Some(1) {
            for grey in &mut mask.grey {
                *grey = 255 - *grey;
            }
        }
        let blur = usize::try_from(self.mask_blur.unwrap_or(MASK_BLUR)).unwrap_or(0);
        let blur = blur.min(MOST_BLUR);
        let padding = usize::try_from(self.inpaint_full_res_padding.unwrap_or(0)).unwrap_or(0);
        // Every model makes sides of that multiple; where the picture as a whole is repainted, the size follows from the model.
        let rounded = |side: usize| (side / 8).max(1) * 8;
        let size = (
            order.width.unwrap_or(rounded(image.width)),
            order.height.unwrap_or(rounded(image.height)),
        );
        let whole = Region::whole(&image);
        let region = match self.inpaint_full_res.unwrap_or(true) {
            // A mask that repaints nothing, or all of it, has no part of its own.
            true => Region::around(&mask, padding, size).unwrap_or(whole),
            false => whole,
        };
        let init = Init {
            image: region.of(&image),
            mask: Some(region.of_mask(&mask)),
            strength,
        };
        let overlay = Overlay::new(image, &mask, region, blur);
        // Where nothing is said of the size, the result has that of its picture.
        let order = Order {
            init: Some(init),
            beside: overlay.bytes(),
            width: order.width.or_else(|| (region != whole).then_some(size.0)),
            height: order.height.or_else(|| (region != whole).then_some(size.1)),
            ..order
        };
        Ok((order, Some(overlay)))
    }
}
