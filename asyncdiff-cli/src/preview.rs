//! The picture as it is going to be, in a file that is replaced every few steps.

use std::ops::ControlFlow;
use std::path::PathBuf;

use asyncdiff_media::picture;
use asyncdiff_models::image::Image;
use asyncdiff_models::{Cancel, Clean, Error, Latents, Previewer, Progress};

/// Where previews go, and how often.
#[derive(Clone, Debug)]
pub struct Target {
    pub file: PathBuf,
    /// Denoiser calls from one preview to the next.
    pub every: usize,
}

/// Passes progress on, and writes previews where they are wanted. A preview that cannot be written ends the run.
pub struct Previewing<P> {
    inner: P,
    target: Option<Target>,
    previewer: Option<Previewer>,
    failure: Option<String>,
}

impl<P: Progress> Previewing<P> {
    pub fn new(inner: P, target: Option<Target>) -> Self {
        Self {
            inner,
            target,
            previewer: None,
            failure: None,
        }
    }

    /// What makes the previews of the run that comes next.
    pub fn follow(&mut self, previewer: Previewer) {
        self.previewer = Some(previewer);
    }

    /// Why a preview could not be written, if that has ended the run.
    pub fn failure(&mut self) -> Option<String> {
        self.failure.take()
    }

    fn preview(&self, done: usize, calls: usize, clean: &Clean<'_>) -> Result<(), String> {
        let (Some(target), Some(previewer)) = (&self.target, &self.previewer) else {
            return Ok(());
        };
        // After the last call comes the picture itself.
        if done == calls || !done.is_multiple_of(target.every) {
            return Ok(());
        }
        let pictures = match previewer.pictures(clean) {
            // Whoever asks for that says so.
            Err(Error::Cancelled) => return Ok(()),
            pictures => pictures.map_err(|error| error.to_string())?,
        };
        let beside = Image::beside(&pictures.iter().collect::<Vec<_>>());
        let beside = beside.map_err(|error| error.to_string())?;
        picture::write(&target.file, &beside, "").map_err(|error| error.to_string())
    }
}

impl<P: Progress> Progress for Previewing<P> {
    fn step(&mut self, done: usize, calls: usize, latents: &Latents) -> ControlFlow<()> {
        self.inner.step(done, calls, latents)
    }

    fn predicted(&mut self, done: usize, calls: usize, clean: &Clean<'_>) -> ControlFlow<()> {
        if let Err(failure) = self.preview(done, calls, clean) {
            self.failure = Some(failure);
            return ControlFlow::Break(());
        }
        self.inner.predicted(done, calls, clean)
    }

    fn cancel(&self) -> Cancel {
        self.inner.cancel()
    }
}
