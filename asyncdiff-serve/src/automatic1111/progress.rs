//! How far the picture at work is, and its end before its end.

use std::sync::Arc;

use asyncdiff_media::picture::Format;
use axum::Json;
use axum::extract::{Query, State};
use serde::Deserialize;
use serde_json::{Value, json};

use super::fields::INTERFACE;
use crate::job::{Job, Stop};
use crate::pictures::{self, to_base64};
use crate::refusal::Refusal;
use crate::service::{Service, blocking};

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    skip_current_image: Option<String>,
}

/// How far the picture at work is.
#[utoipa::path(get, path = "/sdapi/v1/progress", tag = "automatic1111", responses((status = 200, description = "Between 0 and 1; 0 when nothing is at work")))]
pub(crate) async fn progress(
    State(service): State<Arc<Service>>,
    Query(asked): Query<Asked>,
) -> Result<Json<Value>, Refusal> {
    let Some(job) = running(&service).into_iter().next() else {
        return Ok(Json(json!({
            "progress": 0.0,
            "eta_relative": 0.0,
            "state": state(None),
            "current_image": null,
            "textinfo": null,
        })));
    };
    let (progress, left, preview) = {
        let state = job.state();
        let calls = job.calls().max(1);
        let progress = state.done_of_all as f64 / calls as f64;
        (progress, state.seconds_left(calls), state.preview.clone())
    };
    let skips = asked.skip_current_image;
    let skips = skips.is_some_and(|text| text.eq_ignore_ascii_case("true") || text == "1");
    let image = match preview {
        _ if skips => None,
        preview => {
            job.look();
            let encode = |image: Arc<_>| pictures::encode(Format::Png, &image, "", None);
            let encoded = blocking(move || preview.map(encode).transpose()).await?;
            encoded.map(|bytes| to_base64(&bytes))
        }
    };
    Ok(Json(json!({
        "progress": progress,
        "eta_relative": left.unwrap_or(0.0),
        "state": state(Some(&job)),
        "current_image": image,
        "textinfo": null,
    })))
}

fn state(job: Option<&Job>) -> Value {
    let rounds = job.map_or(0, |job| job.task.rounds.len());
    let (round, done) = job.map_or((0, 0), |job| {
        let state = job.state();
        (state.round, state.done)
    });
    let calls = job.and_then(|job| job.task.rounds.get(round));
    json!({
        "skipped": false,
        "interrupted": job.is_some_and(|job| job.stopped().is_some()),
        "stopping_generation": false,
        "job": job.map_or("", |job| job.id.as_str()),
        "job_count": rounds,
        "job_timestamp": "0",
        "job_no": round,
        "sampling_step": done,
        "sampling_steps": calls.map_or(0, |run| run.plan.calls),
    })
}

/// Those of this interface, the oldest first: its clients know of no others.
fn running(service: &Service) -> Vec<Arc<Job>> {
    let running = service.running();
    let own = running.iter().filter(|job| job.interface == INTERFACE);
    own.cloned().collect()
}

/// Ends what is at work.
#[utoipa::path(post, path = "/sdapi/v1/interrupt", tag = "automatic1111", responses((status = 200, description = "It is heard")))]
pub(crate) async fn interrupt(State(service): State<Arc<Service>>) -> Json<Value> {
    for job in running(&service) {
        service.stop(&job, Stop::Asked);
    }
    Json(json!({}))
}

/// Ends the round that is at work.
#[utoipa::path(post, path = "/sdapi/v1/skip", tag = "automatic1111", responses((status = 200, description = "It is heard")))]
pub(crate) async fn skip(State(service): State<Arc<Service>>) -> Json<Value> {
    for job in running(&service) {
        job.skip();
    }
    Json(json!({}))
}
