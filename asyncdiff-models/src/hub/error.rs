//! Why a model cannot be had from the Hub.

use std::path::PathBuf;

use crate::checkpoint::{CheckpointError, HubId};

/// Why a model cannot be had from the Hub.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// There is no such model, or no such revision.
    #[error(
        "there is no model {id} at {endpoint}, and no such folder or file here: check the spelling"
    )]
    NoModel {
        /// The model.
        id: HubId,
        /// The Hub.
        endpoint: String,
    },
    /// The Hub wants to know who asks.
    #[error(
        "the Hub does not hand out {id} (status {status}): if it exists, open {page}, accept its terms there, and set HF_TOKEN to a token of your account"
    )]
    Denied {
        /// The model.
        id: HubId,
        /// The HTTP status, 401 or 403.
        status: u16,
        /// Its page.
        page: String,
    },
    /// A repository that is no diffusers model.
    #[error(
        "{id} has no {file}, so it is no model in diffusers layout: if it holds single-file checkpoints, download one and give its path"
    )]
    NoFile {
        /// The model.
        id: HubId,
        /// The file.
        file: &'static str,
    },
    /// The Hub cannot be reached.
    #[error(
        "cannot reach {endpoint} for {id} ({reason}): check the network, or use a model that is on this machine"
    )]
    NoNetwork {
        /// The model.
        id: HubId,
        /// The Hub.
        endpoint: String,
        /// What the system says.
        reason: String,
    },
    /// Offline, and not in the cache.
    #[error(
        "{id} is not in the cache {cache} ({missing} is missing), and downloads are off: turn them on (unset HF_HUB_OFFLINE)",
        cache = cache.display()
    )]
    NotCached {
        /// The model.
        id: HubId,
        /// The cache.
        cache: PathBuf,
        /// The first thing that is missing.
        missing: String,
    },
    /// A download broke off.
    #[error("the download of {name} of {id} broke off ({reason}): run this again to continue it")]
    BrokenOff {
        /// The model.
        id: HubId,
        /// The file.
        name: String,
        /// What the system says.
        reason: String,
    },
    /// An answer that makes no sense.
    #[error(
        "{endpoint} answers {reason} for {what}: try again later, or check the address (HF_ENDPOINT)"
    )]
    Answer {
        /// The Hub.
        endpoint: String,
        /// What was asked for.
        what: String,
        /// The answer.
        reason: String,
    },
    /// A file that is not what the Hub says it is.
    #[error(
        "what came as {name} of {id} is not that file ({reason}), and was not kept: try again later, or check the address (HF_ENDPOINT) and what is between"
    )]
    Damaged {
        /// The model.
        id: HubId,
        /// The file.
        name: String,
        /// How it differs.
        reason: &'static str,
    },
    /// A file that is larger than the disk has room for.
    #[error(
        "{name} needs {needed} bytes, and the disk of the cache {cache} has room for {room}: make room, or set HF_HOME to a folder of another disk",
        cache = cache.display()
    )]
    NoRoom {
        /// The file.
        name: String,
        /// The cache.
        cache: PathBuf,
        /// Bytes that are missing of it.
        needed: u64,
        /// Bytes that there is room for.
        room: u64,
    },
    /// The cache cannot be written.
    #[error("cannot write to the cache {cache}: {reason}; set HF_HOME to a folder that can be written to", cache = cache.display())]
    Cache {
        /// The cache.
        cache: PathBuf,
        /// What the system says.
        reason: String,
    },
    /// The model's files.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}
