//! The interface of AUTOMATIC1111's web UI.

mod fields;
mod image_to_image;
pub(crate) mod lists;
pub(crate) mod options;
mod overlay;
pub(crate) mod png_info;
pub(crate) mod progress;
pub(crate) mod samplers;
mod text_to_image;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post};

use crate::service::Service;

pub(crate) use image_to_image::{__path_image_to_image, image_to_image};
pub(crate) use text_to_image::{__path_text_to_image, text_to_image};

pub(crate) fn router() -> Router<Arc<Service>> {
    let mut router = Router::new();
    for (path, _) in lists::EMPTY {
        router = router.route(path, get(lists::empty));
    }
    for (path, _) in lists::REFRESH {
        router = router.route(path, post(lists::nothing));
    }
    router
        .route("/sdapi/v1/txt2img", post(text_to_image))
        .route("/sdapi/v1/img2img", post(image_to_image))
        .route("/sdapi/v1/progress", get(progress::progress))
        .route("/sdapi/v1/interrupt", post(progress::interrupt))
        .route("/sdapi/v1/skip", post(progress::skip))
        .route("/sdapi/v1/options", get(options::get).post(options::set))
        .route("/sdapi/v1/sd-models", get(lists::models))
        .route("/sdapi/v1/samplers", get(lists::samplers))
        .route("/sdapi/v1/schedulers", get(lists::schedulers))
        .route("/sdapi/v1/embeddings", get(lists::embeddings))
        .route("/sdapi/v1/scripts", get(lists::scripts))
        .route("/sdapi/v1/loras", get(lists::loras))
        .route("/sdapi/v1/cmd-flags", get(lists::flags))
        .route("/sdapi/v1/memory", get(lists::memory))
        .route("/sdapi/v1/png-info", post(png_info::png_info))
}
