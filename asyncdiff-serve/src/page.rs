//! The page, and the interface that only it uses.

pub(crate) mod events;
mod jobs;
mod options;
mod settings;

use std::sync::Arc;

use axum::Router;
use axum::http::header;
use axum::response::{Html, IntoResponse};
use axum::routing::{get, post};

use crate::service::Service;

pub(crate) use jobs::{__path_cancel, __path_submit, cancel, submit};
pub(crate) use options::{__path_options, options};
pub(crate) use settings::{__path_settings, settings};

/// One file, nothing else needed.
const HTML: &str = include_str!("page/index.html");

/// The page runs what is in it, and asks nobody but this service.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src 'self' data: blob:; \
    media-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(crate) fn router() -> Router<Arc<Service>> {
    Router::new()
        .route("/", get(page))
        .route("/api/options", get(options))
        .route("/api/jobs", post(submit))
        .route("/api/jobs/{id}/events", get(events::events))
        .route("/api/jobs/{id}", axum::routing::delete(cancel))
        .route("/api/settings", post(settings))
}

async fn page() -> impl IntoResponse {
    ([(header::CONTENT_SECURITY_POLICY, POLICY)], Html(HTML))
}
