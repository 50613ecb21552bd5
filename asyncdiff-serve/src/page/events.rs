//! `GET /api/jobs/{id}/events`

use std::collections::VecDeque;
use std::convert::Infallible;
use std::path::Path as FilePath;
use std::sync::Arc;

use asyncdiff_media::picture::Format;
use asyncdiff_media::video;
use asyncdiff_models::{Doing, Span};
use axum::extract::{Path, State};
use axum::response::IntoResponse;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream::unfold;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::job::{Job, Made, Outcome, Stop};
use crate::pictures::{self, data_url};
use crate::refusal::Refusal;
use crate::service::{AWAY, Service, blocking};

/// How a picture comes, from now on; the latest state is told at once.
#[utoipa::path(get, path = "/api/jobs/{id}/events", tag = "page", params(("id" = String, Path, description = "As it was told")), responses((status = 200, description = "Server-sent events: queued, started, step, completed, failed, cancelled")))]
pub(crate) async fn events(
    State(service): State<Arc<Service>>,
    Path(id): Path<String>,
) -> Result<impl IntoResponse, Refusal> {
    let job = service.kept(&id)?;
    job.state().watchers += 1;
    let reader = Reader {
        changes: job.subscribe(),
        presence: Presence { service, job },
        place: None,
        started: false,
        step: 0,
        spans: 0,
        ready: VecDeque::new(),
        over: false,
    };
    let events = unfold(reader, |mut reader| async move {
        let event = reader.next().await?;
        Some((Ok::<_, Infallible>(event), reader))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

/// Gives a job up that nobody looks at.
pub(super) fn leave(service: &Arc<Service>, job: &Arc<Job>) {
    let (nobody, unfinished) = {
        let state = job.state();
        (state.watchers == 0, state.outcome.is_none())
    };
    if nobody && unfinished {
        service.stop(job, Stop::Asked);
    }
}

/// Somebody looks, as long as this is there.
struct Presence {
    service: Arc<Service>,
    job: Arc<Job>,
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.job.state().watchers -= 1;
        let (service, job) = (Arc::clone(&self.service), Arc::clone(&self.job));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                tokio::time::sleep(AWAY).await;
                leave(&service, &job);
            });
        }
    }
}

struct Reader {
    presence: Presence,
    changes: watch::Receiver<u64>,
    /// What was told.
    place: Option<usize>,
    started: bool,
    step: usize,
    spans: usize,
    ready: VecDeque<Value>,
    over: bool,
}

impl Reader {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(body) = self.ready.pop_front() {
                let name = body["type"].as_str().unwrap_or_default().to_owned();
                return Some(Event::default().event(name).data(body.to_string()));
            }
            if self.over {
                return None;
            }
            self.look().await;
        }
    }

    /// Waits for something to tell of.
    async fn look(&mut self) {
        self.changes.mark_unchanged();
        let outcome = self.progress().await;
        match outcome {
            None if self.ready.is_empty() => {
                // The job is held here, so there is somebody to wait for.
                let _ = self.changes.changed().await;
            }
            None => {}
            Some(outcome) => {
                let last = self.last(outcome).await;
                self.ready.push_back(last);
                self.over = true;
            }
        }
    }

    /// Tells how far it is.
    async fn progress(&mut self) -> Option<Outcome> {
        let job = Arc::clone(&self.presence.job);
        let calls = job.calls();
        let (step, preview) = {
            let state = job.state();
            if state.place > 0 && self.place != Some(state.place) {
                self.place = Some(state.place);
                self.ready
                    .push_back(json!({ "type": "queued", "place": state.place }));
            }
            if state.started.is_some() && !self.started {
                self.started = true;
                self.ready.push_back(started(&job, &state.lanes, calls));
            }
            if self.started && state.done_of_all > self.step {
                self.step = state.done_of_all;
                let spans = state.spans[self.spans..]
                    .iter()
                    .map(bar)
                    .collect::<Vec<_>>();
                self.spans = state.spans.len();
                let step = json!({
                    "type": "step",
                    "step": self.step,
                    "steps": calls,
                    "eta": state.seconds_left(calls),
                    "preview": null,
                    "spans": spans,
                });
                (Some(step), state.preview.clone())
            } else {
                (None, None)
            }
        };
        if let Some(mut step) = step {
            if let Some(preview) = preview {
                let encode = move || pictures::encode(Format::Png, &preview, "", None);
                // A preview that cannot be shown is none.
                let encoded = blocking(encode).await.ok();
                step["preview"] = encoded.map(|bytes| data_url("image/png", &bytes)).into();
            }
            self.ready.push_back(step);
        }
        job.outcome()
    }

    /// How it ended.
    async fn last(&mut self, outcome: Outcome) -> Value {
        let made = match outcome {
            Outcome::Made(made) => made,
            Outcome::Cancelled(_) => return json!({ "type": "cancelled" }),
            Outcome::Failed(refusal) => {
                return json!({ "type": "failed", "message": refusal.message });
            }
        };
        let fps = self.presence.job.task.content.fps;
        let encode = move || made.iter().map(|made| file(made, fps)).collect();
        let images: Vec<Value> = match blocking(encode).await {
            Ok(images) => images,
            Err(refusal) => return json!({ "type": "failed", "message": refusal.message }),
        };
        let state = self.presence.job.state();
        json!({
            "type": "completed",
            "images": images,
            "seconds": state.took.map(|took| took.as_secs_f64()),
            "denoising": state.denoising.as_secs_f64(),
            "speed_up": state.speed_up(),
            "spans": state.spans[self.spans..].iter().map(bar).collect::<Vec<_>>(),
        })
    }
}

fn started(job: &Job, lanes: &[String], calls: usize) -> Value {
    let run = &job.task.rounds[0];
    json!({
        "type": "started",
        "plan": run.strategy.to_string(),
        "lanes": lanes,
        "model": job.task.model.name,
        "steps": calls,
        "seed": job.task.content.seed,
        "width": run.shape.width,
        "height": run.shape.height,
    })
}

/// A span as a bar of the time line.
fn bar(span: &Span) -> Value {
    let call = span.call + 1;
    let (kind, label) = match span.doing {
        Doing::Call => ("call", format!("call {call}")),
        Doing::Send => ("send", format!("sends for call {call}")),
        Doing::Wait => ("wait", format!("waits for call {call}")),
    };
    json!({ "lane": span.rank, "from": span.from, "to": span.to, "label": label, "kind": kind })
}

/// A picture, or a video in the first format that takes it.
fn file(made: &Made, fps: usize) -> Result<Value, Refusal> {
    let (bytes, kind) = match &made.frames[..] {
        [image] => (
            pictures::encode(Format::Png, image, &made.infotext, None)?,
            "image/png",
        ),
        frames => {
            let fps = u32::try_from(fps).unwrap_or(u32::MAX);
            let encode =
                |name: &str| video::encode(FilePath::new(name), frames, fps, &made.infotext);
            match encode("video.mp4") {
                Ok(bytes) => (bytes, "video/mp4"),
                // Too small for it, or built without it.
                Err(_) => {
                    let bytes = encode("video.webp");
                    (
                        bytes.map_err(|error| Refusal::bad(error.to_string()))?,
                        "image/webp",
                    )
                }
            }
        }
    };
    Ok(json!({
        "data": data_url(kind, &bytes), "mime": kind, "seed": made.seed, "infotext": made.infotext,
    }))
}
