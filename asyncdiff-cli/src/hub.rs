//! The Hub as the environment describes it, and the bars of downloads.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use asyncdiff_models::files::{self, MOST_BYTES_OF_TEXT};
use asyncdiff_models::hub::{DownloadProgress, ENDPOINT, Hub, HubError, TIMEOUT};
use indicatif::{ProgressBar, ProgressStyle};

use crate::result::Result;

/// From the variables that Python's `huggingface_hub` reads too: `HF_HUB_CACHE`, `HF_HOME`, `XDG_CACHE_HOME`, `HF_TOKEN`,
/// `HF_ENDPOINT`, `HF_HUB_OFFLINE`, `HF_HUB_DOWNLOAD_TIMEOUT`.
pub fn from_environment() -> Result<Hub> {
    let text = |name: &str| {
        let value = env::var(name).ok()?;
        let value = value.trim();
        (!value.is_empty()).then(|| value.to_owned())
    };
    let path = |name: &str| {
        let value = env::var_os(name).filter(|value| !value.is_empty());
        value.map(PathBuf::from)
    };
    let cache = || path("XDG_CACHE_HOME").or_else(|| Some(env::home_dir()?.join(".cache")));
    let home = path("HF_HOME").or_else(|| Some(cache()?.join("huggingface")));
    let hub = path("HF_HUB_CACHE").or_else(|| Some(home.clone()?.join("hub")));
    // What `hf auth login` has written.
    let login = || {
        let token = files::read(&home.as_ref()?.join("token"), MOST_BYTES_OF_TEXT).ok()?;
        let token = str::from_utf8(&token).ok()?.trim();
        (!token.is_empty()).then(|| token.to_owned())
    };
    let endpoint = text("HF_ENDPOINT").unwrap_or(ENDPOINT.to_owned());
    let offline = text("HF_HUB_OFFLINE").unwrap_or_default().to_uppercase();
    let timeout = match text("HF_HUB_DOWNLOAD_TIMEOUT") {
        None => TIMEOUT,
        Some(seconds) => match seconds.parse() {
            Ok(seconds @ 1..=86400) => Duration::from_secs(seconds),
            _ => return Err("HF_HUB_DOWNLOAD_TIMEOUT is no number of seconds: set it to one from 1 to 86400, or unset it".into()),
        },
    };
    Ok(Hub {
        cache: hub.ok_or(
            "there is no home folder to keep downloaded models in: set HF_HOME to a folder",
        )?,
        token: text("HF_TOKEN").or_else(login),
        endpoint: endpoint.trim_end_matches('/').to_owned(),
        offline: ["1", "ON", "YES", "TRUE"].contains(&offline.as_str()),
        timeout,
    })
}

/// A bar on standard error for each file, if that is a terminal.
pub struct Downloads {
    visible: bool,
    bar: ProgressBar,
}

impl Downloads {
    pub fn new(visible: bool) -> Self {
        Self {
            visible,
            bar: ProgressBar::hidden(),
        }
    }
}

impl DownloadProgress for Downloads {
    fn start(&mut self, name: &str, bytes: u64) {
        if !self.visible {
            return;
        }
        let style = ProgressStyle::with_template(
            "{msg} {wide_bar} {bytes}/{total_bytes}, {bytes_per_sec}, {eta} left",
        );
        let bar = ProgressBar::new(bytes).with_message(name.to_owned());
        self.bar = match style {
            Ok(style) => bar.with_style(style),
            Err(_) => bar,
        };
    }

    fn advance(&mut self, bytes: u64) {
        self.bar.inc(bytes);
    }

    fn finish(&mut self) {
        self.bar.finish_and_clear();
    }

    fn cached(&mut self, reason: &HubError) {
        complain!("warning: {reason}; using the model as it was downloaded before");
    }
}

impl Drop for Downloads {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
