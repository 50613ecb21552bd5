//! Answers as server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;

use asyncdiff_models::image::Image;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::unfold;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::fields::{Wanted, usage};
use crate::job::{Made, Outcome};
use crate::pictures::{self, to_base64};
use crate::refusal::Refusal;
use crate::service::{Ticket, blocking};

struct Reader {
    ticket: Ticket,
    wanted: Wanted,
    changes: watch::Receiver<u64>,
    /// Pictures on the way that were told of.
    told: usize,
    /// What was made, and how much of it was told of.
    made: Option<(Arc<Vec<Made>>, usize)>,
    ready: VecDeque<Event>,
    over: bool,
}

/// Pictures on the way, then those that were asked for. Whoever stops reading does not want them any more.
pub(super) fn events(ticket: Ticket, wanted: Wanted) -> Response {
    let changes = ticket.job.subscribe();
    let reader = Reader {
        ticket,
        wanted,
        changes,
        told: 0,
        made: None,
        ready: VecDeque::new(),
        over: false,
    };
    let events = unfold(reader, |mut reader| async move {
        let event = reader.next().await?;
        Some((Ok::<_, Infallible>(event), reader))
    });
    Sse::new(events)
        .keep_alive(KeepAlive::default())
        .into_response()
}

impl Reader {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            if let Err(refusal) = self.look().await {
                self.over = true;
                let body = refusal.for_openai();
                self.ready.push_back(event("error", &body));
            }
        }
    }

    /// Waits for something to tell of.
    async fn look(&mut self) -> Result<(), Refusal> {
        if let Some((made, next)) = &mut self.made {
            let (made, index) = (Arc::clone(made), *next);
            *next += 1;
            self.over = *next == made.len();
            let wanted = self.wanted.clone();
            let bytes = blocking(move || wanted.encode(&made[index])).await?;
            let image = self.made.as_ref().map(|(made, _)| &made[index].frames[0]);
            let size = image.map(size_of);
            let mut body = self.body("completed", &bytes, size);
            body["usage"] = usage();
            self.push("completed", body);
            return Ok(());
        }
        self.changes.mark_unchanged();
        let (image, outcome) = {
            let state = self.ticket.job.state();
            (
                state.partial_images.get(self.told).cloned(),
                state.outcome.clone(),
            )
        };
        if let Some(image) = image {
            let wanted = self.wanted.clone();
            let size = size_of(&image);
            let encode = move || pictures::encode(wanted.format, &image, "", wanted.jpeg_quality);
            let bytes = blocking(encode).await?;
            let mut body = self.body("partial_image", &bytes, Some(size));
            body["partial_image_index"] = self.told.into();
            self.told += 1;
            self.push("partial_image", body);
            return Ok(());
        }
        match outcome {
            Some(Outcome::Made(made)) => self.made = Some((made, 0)),
            Some(Outcome::Failed(refusal)) => return Err(refusal),
            Some(Outcome::Cancelled(_)) => return Err(Refusal::cancelled()),
            None => {
                // The job is held by the ticket, so there is somebody to wait for.
                let _ = self.changes.changed().await;
            }
        }
        Ok(())
    }

    fn body(&self, what: &str, bytes: &[u8], size: Option<String>) -> Value {
        json!({
            "type": format!("{}.{what}", self.wanted.first_event),
            "b64_json": to_base64(bytes),
            "created_at": super::now(),
            "size": size,
            "quality": "auto",
            "background": "opaque",
            "output_format": self.wanted.format_name(),
        })
    }

    fn push(&mut self, what: &str, body: Value) {
        let name = format!("{}.{what}", self.wanted.first_event);
        self.ready.push_back(event(&name, &body));
    }
}

fn size_of(image: &Image) -> String {
    format!("{}x{}", image.width, image.height)
}

fn event(name: &str, body: &Value) -> Event {
    Event::default().event(name).data(body.to_string())
}
