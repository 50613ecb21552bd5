//! Downloads of one commit of a model into the cache.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use asyncdiff_burn::files::MOST_BYTES_OF_TEXT;
use asyncdiff_core::quoted;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use ureq::Body;
use ureq::http::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE};
use ureq::http::{Response, StatusCode};

use super::cache::{Incomplete, Repository, is_inside, is_plain};
use super::client::{Client, Fault, Located};
use super::{DownloadProgress, Hub, HubError, is_weights, page};
use crate::checkpoint::HubId;

/// A commit of a model on the Hub. All files are of that one, whatever is pushed meanwhile.
pub(super) struct Online<'a> {
    hub: &'a Hub,
    id: &'a HubId,
    client: Client,
    repository: Repository,
    commit: String,
    names: Vec<String>,
    snapshot: PathBuf,
}

/// What the Hub says about a commit.
#[derive(Deserialize)]
struct Facts {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl<'a> Online<'a> {
    /// Asks the Hub what the model's revision is now.
    pub fn open(hub: &'a Hub, id: &'a HubId) -> Result<Self, HubError> {
        let asked = || {
            let client = Client::new(hub)?;
            let parts = [&["api", "models"][..], &words(&id.name), &["revision"]];
            let address = client.address(&[&parts.concat()[..], &[&id.revision]].concat())?;
            let facts = client.facts(address)?;
            let facts: Facts = serde_json::from_slice(&facts).map_err(|error| {
                let reason = error.to_string();
                Fault::Answer(format!(
                    "something else than expected ({})",
                    quoted(&reason)
                ))
            })?;
            if !is_plain(&facts.sha) {
                let commit = quoted(&facts.sha);
                return Err(Fault::Answer(format!("with the commit {commit:?}")));
            }
            Ok((client, facts))
        };
        let (client, facts) = asked().map_err(|fault| explain(hub, id, &id.to_string(), fault))?;
        let names = facts.siblings.into_iter().map(|file| file.rfilename);
        let repository = hub.repository(id);
        Ok(Self {
            hub,
            id,
            client,
            snapshot: repository.snapshot(&facts.sha),
            repository,
            commit: facts.sha,
            names: names.filter(|name| is_inside(name)).collect(),
        })
    }

    /// The names of the commit's files.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The folder in the cache that the files come into.
    pub fn snapshot(&self) -> &Path {
        &self.snapshot
    }

    /// Notes in the cache that the model's revision is this commit, now that its files are there.
    pub fn name_revision(&self) -> Result<(), HubError> {
        let revision = &self.id.revision;
        self.repository.name_revision(revision, &self.commit)
    }

    /// Downloads the file `name`, unless it is there.
    pub fn get(
        &self,
        name: &str,
        progress: &mut dyn DownloadProgress,
    ) -> Result<PathBuf, HubError> {
        let explain = |fault| explain(self.hub, self.id, name, fault);
        if !is_inside(name) {
            return Err(explain(Fault::Answer(format!(
                "with the file {:?}",
                quoted(name)
            ))));
        }
        let path = self.snapshot.join(name);
        if path.is_file() {
            return Ok(path);
        }
        let parts = [
            words(&self.id.name),
            vec!["resolve", &self.commit],
            words(name),
        ]
        .concat();
        let address = self.client.address(&parts).map_err(explain)?;
        let located = self.client.locate(address).map_err(explain)?;
        self.check(name, &located).map_err(explain)?;
        let etag = located.etag.clone();
        let _lock = self.repository.lock(&etag)?;
        // Another commit may have the same.
        let blob = self.repository.blob(&etag);
        let whole = fs::metadata(&blob).is_ok_and(|file| file.len() == located.size);
        if !whole {
            progress.start(name, located.size);
            self.contents(name, located, progress)?;
            progress.finish();
        }
        self.repository.link(&etag, &self.commit, name)
    }

    /// Whether what is said about a file can be.
    fn check(&self, name: &str, located: &Located) -> Result<(), Fault> {
        let nonsense = |what: String| Err(Fault::Answer(what));
        if !is_plain(&located.etag) {
            return nonsense(format!("with the etag {:?}", quoted(&located.etag)));
        }
        match &located.commit {
            Some(other) if *other != self.commit => {
                return nonsense(format!(
                    "with the commit {:?} instead of {}",
                    quoted(other),
                    self.commit
                ));
            }
            _ => {}
        }
        if !is_weights(name) && located.size > MOST_BYTES_OF_TEXT {
            return nonsense(format!("with {} bytes", located.size));
        }
        Ok(())
    }

    /// Brings contents into the cache, beginning with what an earlier try has left of them.
    fn contents(
        &self,
        name: &str,
        located: Located,
        progress: &mut dyn DownloadProgress,
    ) -> Result<(), HubError> {
        let Located {
            place,
            etag,
            size,
            body,
            ..
        } = located;
        let cache = |error: io::Error| self.repository.error(&error);
        let explain = |fault| explain(self.hub, self.id, name, fault);
        let path = self.repository.incomplete(&etag);
        let mut options = File::options();
        let options = options.create(true).truncate(false).read(true).write(true);
        let file = options.open(&path).map_err(cache)?;
        let mut left = file.metadata().map_err(cache)?.len();
        // Nobody knows whether it is right, where nothing can be checked but the size.
        if left >= size && !(left == size && is_sha256(&etag)) {
            left = 0;
        }
        self.check_room(name, size - left)?;
        let mut hash = Sha256::new();
        io::copy(&mut (&file).take(left), &mut hash).map_err(cache)?;
        let mut incoming = Incoming {
            online: self,
            name,
            size,
            done: left,
            hash,
            file: &file,
        };
        let mut fresh = left == 0;
        progress.advance(left);
        if left < size {
            let answer = match body {
                Some(answer) if left == 0 => Ok(answer),
                _ => match self.client.open(place.clone(), left) {
                    Err(Fault::Status(416)) => self.client.open(place.clone(), 0),
                    other => other,
                },
            };
            fresh |= incoming.take(answer.map_err(explain)?, progress)?;
        }
        let is_right = |hash: Sha256| !is_sha256(&etag) || hex(hash) == etag.to_ascii_lowercase();
        let mut right = is_right(std::mem::take(&mut incoming.hash));
        if !right && !fresh {
            // It may be what was left that is wrong. The bar has told of it already.
            incoming.restart();
            let answer = self.client.open(place, 0).map_err(explain)?;
            incoming.take(answer, &mut ())?;
            right = is_right(incoming.hash);
        }
        let damage = match () {
            () if !right => Some("its SHA-256 is another"),
            () if name.ends_with(".json") && !is_json(&file).map_err(cache)? => {
                Some("it is no JSON")
            }
            () => None,
        };
        if let Some(reason) = damage {
            self.repository.remove(&path)?;
            return Err(HubError::Damaged {
                id: self.id.clone(),
                name: name.to_owned(),
                reason,
            });
        }
        let incomplete = Incomplete { file, path };
        incomplete
            .finish(&self.repository.blob(&etag))
            .map_err(cache)
    }

    /// Rather than fill the disk first.
    fn check_room(&self, name: &str, needed: u64) -> Result<(), HubError> {
        match self.repository.room() {
            Some(room) if room < needed => Err(HubError::NoRoom {
                name: name.to_owned(),
                cache: self.hub.cache.clone(),
                needed,
                room,
            }),
            _ => Ok(()),
        }
    }

    fn broken_off(&self, name: &str, reason: String) -> HubError {
        HubError::BrokenOff {
            id: self.id.clone(),
            name: name.to_owned(),
            reason,
        }
    }
}

/// Contents as they come.
struct Incoming<'a> {
    online: &'a Online<'a>,
    name: &'a str,
    size: u64,
    done: u64,
    hash: Sha256,
    file: &'a File,
}

impl Incoming<'_> {
    /// Throws away what there is.
    fn restart(&mut self) {
        self.done = 0;
        self.hash = Sha256::new();
    }

    /// Takes a body that goes on where we are, or begins anew; says whether it began anew.
    fn take(
        &mut self,
        answer: Response<Body>,
        progress: &mut dyn DownloadProgress,
    ) -> Result<bool, HubError> {
        let (online, name, size) = (self.online, self.name, self.size);
        let cache = |error: io::Error| online.repository.error(&error);
        let explain = |fault| explain(online.hub, online.id, name, fault);
        // What has come before is not told again.
        let told = self.done;
        if answer.status() == StatusCode::PARTIAL_CONTENT {
            check_range(&answer, self.done, size).map_err(explain)?;
        } else {
            self.restart();
        }
        let anew = self.done == 0;
        check_body(&answer, size - self.done).map_err(explain)?;
        self.file.set_len(self.done).map_err(cache)?;
        let mut file = self.file;
        file.seek(io::SeekFrom::Start(self.done)).map_err(cache)?;
        let mut failure = None;
        let (done, hash) = (&mut self.done, &mut self.hash);
        let read = online.client.read(answer, |bytes| {
            let end = *done + bytes.len() as u64;
            if end > size {
                return Err(Fault::Answer(format!("with more than {size} bytes")));
            }
            if let Err(error) = file.write_all(bytes) {
                failure = Some(error);
                return Err(Fault::Network(String::new()));
            }
            hash.update(bytes);
            progress.advance(end.saturating_sub(told.max(*done)));
            *done = end;
            Ok(())
        });
        match (read, failure) {
            (_, Some(error)) => Err(cache(error)),
            (Err(Fault::Network(reason)), None) => Err(online.broken_off(name, reason)),
            (Err(fault), None) => {
                // More than there should be: nothing of it is worth keeping.
                self.file.set_len(0).map_err(cache)?;
                Err(explain(fault))
            }
            (Ok(()), None) if self.done < size => {
                Err(online.broken_off(name, format!("after {} of {size} bytes", self.done)))
            }
            (Ok(()), None) => Ok(anew),
        }
    }
}

/// Whether a part of a file is the part that was asked for.
fn check_range(answer: &Response<Body>, start: u64, size: u64) -> Result<(), Fault> {
    let range = answer.headers().get(CONTENT_RANGE);
    let range = range
        .and_then(|range| range.to_str().ok())
        .unwrap_or_default();
    let parts = || {
        let (range, whole) = range.strip_prefix("bytes ")?.split_once('/')?;
        let (from, _) = range.split_once('-')?;
        Some((from.parse::<u64>().ok()?, whole.parse::<u64>().ok()))
    };
    match parts() {
        Some((from, whole)) if from == start && whole.is_none_or(|whole| whole == size) => Ok(()),
        _ => Err(Fault::Answer(format!("with the range {:?}", quoted(range)))),
    }
}

/// Whether a body is what it should be, as far as its headers say.
fn check_body(answer: &Response<Body>, size: u64) -> Result<(), Fault> {
    let header = |name| {
        let value = answer.headers().get(name)?;
        value.to_str().ok()
    };
    if header(CONTENT_TYPE).is_some_and(|kind| kind.starts_with("text/html")) {
        return Err(Fault::Answer("with a web page".to_owned()));
    }
    match header(CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok()) {
        Some(length) if length != size => Err(Fault::Answer(format!(
            "with {length} bytes instead of {size}"
        ))),
        _ => Ok(()),
    }
}

/// Whether a file begins as JSON does: a page of somebody between us and the Hub should not stay in the cache. More cannot
/// be asked: Python writes configurations with numbers such as `-Infinity`, which no parser takes.
fn is_json(mut file: &File) -> io::Result<bool> {
    file.rewind()?;
    let mut text = Vec::new();
    file.take(MOST_BYTES_OF_TEXT).read_to_end(&mut text)?;
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&text);
    Ok(text.trim_ascii_start().starts_with(b"{"))
}

/// The etag of a large file is the SHA-256 of its contents.
fn is_sha256(etag: &str) -> bool {
    etag.len() == 64 && etag.bytes().all(|digit| digit.is_ascii_hexdigit())
}

fn hex(hash: Sha256) -> String {
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn words(name: &str) -> Vec<&str> {
    name.split('/').collect()
}

/// What a fault means for whoever asked for `what`.
fn explain(hub: &Hub, id: &HubId, what: &str, fault: Fault) -> HubError {
    let endpoint = hub.endpoint.clone();
    let id = id.clone();
    let answer = |reason: String| HubError::Answer {
        endpoint: hub.endpoint.clone(),
        what: what.to_owned(),
        reason,
    };
    match fault {
        Fault::Status(404) => HubError::NoModel { id, endpoint },
        Fault::Status(status @ (401 | 403)) => HubError::Denied {
            page: page(&endpoint, &id),
            id,
            status,
        },
        Fault::Status(status) => answer(format!("with the status {status}")),
        Fault::Answer(reason) => answer(reason),
        Fault::Network(reason) => HubError::NoNetwork {
            id,
            endpoint,
            reason,
        },
    }
}
