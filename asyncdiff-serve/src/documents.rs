//! The interfaces, described for programs (OpenAPI) and for people.

use axum::Router;
use axum::response::Html;
use axum::routing::get;
use std::fmt::Write as _;
use std::sync::Arc;

use utoipa::OpenApi;
use utoipa::openapi::path::{HttpMethod, Operation, OperationBuilder};
use utoipa::openapi::response::ResponseBuilder;

use crate::automatic1111::{self, lists};
use crate::files;
use crate::metrics;
use crate::openai;
use crate::page;
use crate::server;
use crate::service::Service;

#[derive(OpenApi)]
#[openapi(
    info(description = "Pictures from Stable Diffusion checkpoints, sooner."),
    paths(
        openai::generations,
        openai::edits,
        openai::models,
        openai::model,
        files::get,
        automatic1111::text_to_image,
        automatic1111::image_to_image,
        automatic1111::progress::progress,
        automatic1111::progress::interrupt,
        automatic1111::progress::skip,
        automatic1111::options::get,
        automatic1111::options::set,
        automatic1111::lists::models,
        automatic1111::lists::samplers,
        automatic1111::lists::schedulers,
        automatic1111::lists::loras,
        automatic1111::lists::embeddings,
        automatic1111::lists::scripts,
        automatic1111::lists::flags,
        automatic1111::lists::memory,
        automatic1111::png_info::png_info,
        page::options,
        page::submit,
        page::cancel,
        page::events::events,
        page::settings,
        metrics::get,
        server::health,
    ),
    tags(
        (name = "openai", description = "OpenAI's interface for pictures"),
        (name = "automatic1111", description = "The interface of AUTOMATIC1111's web UI"),
        (name = "page", description = "What only the page uses"),
        (name = "service", description = "The service itself"),
    )
)]
struct Interfaces;

pub(crate) fn router() -> Router<Arc<Service>> {
    Router::new()
        .route("/openapi.json", get(async || axum::Json(description())))
        .route("/docs", get(async || Html(page())))
}

/// All that there is.
fn description() -> utoipa::openapi::OpenApi {
    let mut description = Interfaces::openapi();
    let same = [
        (HttpMethod::Get, &lists::EMPTY[..]),
        (HttpMethod::Post, &lists::REFRESH[..]),
    ];
    for (method, addresses) in same {
        for (path, about) in addresses {
            let answer = ResponseBuilder::new().description("Nothing");
            let operation = OperationBuilder::new()
                .tag("automatic1111")
                .summary(Some(*about))
                .response("200", answer)
                .build();
            let paths = &mut description.paths;
            paths.add_path_operation(*path, vec![method.clone()], operation);
        }
    }
    description
}

/// The description as a page that needs nothing else.
fn page() -> String {
    let description = description();
    let mut html = String::from(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>AsyncDiff: interfaces</title><style>:root{color-scheme:light dark}body{font:1rem/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}\
         code{font:0.95em ui-monospace,monospace}dt{margin-top:.5rem}</style><h1>Interfaces</h1>\
         <p>For programs: <a href=\"openapi.json\">openapi.json</a></p>",
    );
    for (path, item) in &description.paths.paths {
        for (method, operation) in [
            ("GET", &item.get),
            ("POST", &item.post),
            ("DELETE", &item.delete),
        ] {
            if let Some(operation) = operation {
                describe(&mut html, method, path, operation);
            }
        }
    }
    html += "<h2>Bodies</h2>";
    let schemas = description
        .components
        .into_iter()
        .flat_map(|components| components.schemas);
    for (name, schema) in schemas {
        let schema = serde_json::to_value(&schema).unwrap_or_default();
        let _ = write!(html, "<h3 id=\"{name}\"><code>{name}</code></h3><dl>");
        for (field, about) in schema["properties"].as_object().into_iter().flatten() {
            let about = about["description"].as_str().unwrap_or_default();
            let _ = write!(
                html,
                "<dt><code>{field}</code></dt><dd>{}</dd>",
                escape(about)
            );
        }
        html += "</dl>";
    }
    html += "</html>";
    html
}

fn describe(html: &mut String, method: &str, path: &str, operation: &Operation) {
    let summary = operation.summary.as_deref().unwrap_or_default();
    let _ = write!(
        html,
        "<h2><code>{method} {path}</code></h2><p>{}</p>",
        escape(summary)
    );
    let body = serde_json::to_value(&operation.request_body).unwrap_or_default();
    let reference = body.pointer("/content/application~1json/schema/$ref");
    if let Some(name) = reference.and_then(|name| name.as_str()?.rsplit('/').next()) {
        let _ = write!(
            html,
            "<p>Body: <a href=\"#{name}\"><code>{name}</code></a></p>"
        );
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
