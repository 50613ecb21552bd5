//! Pictures that clients fetch by an address of their own.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};

use crate::refusal::Refusal;
use crate::service::{Service, new_id};

/// As long as such addresses last.
const LAST: Duration = Duration::from_secs(600);
/// The most bytes that are kept.
const MOST_BYTES: usize = 64 << 20;

/// Pictures in memory, the newest last.
#[derive(Debug, Default)]
pub(crate) struct Files(Mutex<VecDeque<File>>);

#[derive(Clone, Debug)]
struct File {
    name: String,
    media_type: &'static str,
    bytes: Bytes,
    since: Instant,
}

impl Files {
    /// Keeps a picture for a while; its path.
    pub fn keep(&self, media_type: &'static str, bytes: Vec<u8>) -> Result<String, Refusal> {
        let name = new_id()?;
        let path = format!("/files/{name}");
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        files.push_back(File {
            name,
            media_type,
            bytes: bytes.into(),
            since: Instant::now(),
        });
        let mut total: usize = files.iter().map(|file| file.bytes.len()).sum();
        while let Some(oldest) = files.front()
            && files.len() > 1
            && (total > MOST_BYTES || oldest.since.elapsed() > LAST)
        {
            total -= oldest.bytes.len();
            files.pop_front();
        }
        Ok(path)
    }

    fn find(&self, name: &str) -> Option<File> {
        let files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let file = files.iter().find(|file| file.name == name);
        file.filter(|file| file.since.elapsed() < LAST).cloned()
    }
}

/// A picture that an answer has given the address of.
#[utoipa::path(get, path = "/files/{name}", tag = "openai", params(("name" = String, Path, description = "As the answer has it")), responses((status = 200, description = "The file"), (status = 404, description = "There is none, or not any more")))]
pub(crate) async fn get(
    State(service): State<Arc<Service>>,
    Path(name): Path<String>,
) -> Result<Response, Refusal> {
    let file = service.files.find(&name).ok_or_else(|| {
        Refusal::missing("there is no such file, or not any more: addresses last ten minutes")
    })?;
    Ok(([(header::CONTENT_TYPE, file.media_type)], file.bytes).into_response())
}
