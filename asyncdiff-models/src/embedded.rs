//! The files that are part of the program.

use crate::checkpoint::{Checkpoint, EmbeddedFiles};

impl Checkpoint {
    /// The small emoji model that is part of the program; `embedded/README.md` is its card.
    #[must_use]
    pub fn embedded() -> Self {
        Self::of_program(EmbeddedFiles {
            title: "embedded model",
            files: asyncdiff_embedded::MODEL,
        })
    }

    /// The motion adapter of [`Checkpoint::embedded`]: videos of up to 16 frames, whose motion the prompt names. Its card is
    /// `embedded/motion_adapter/README.md`.
    ///
    /// ```
    /// use asyncdiff_models::{Checkpoint, MotionAdapter, StableDiffusion};
    ///
    /// let adapter = MotionAdapter::open(Checkpoint::embedded_motion_adapter())?;
    /// let pipeline = StableDiffusion::open(Checkpoint::embedded())?.with_motion(adapter)?;
    /// assert_eq!(pipeline.shape().frames, 16);
    /// # Ok::<(), asyncdiff_models::Error>(())
    /// ```
    #[must_use]
    pub fn embedded_motion_adapter() -> Self {
        Self::of_program(EmbeddedFiles {
            title: "embedded motion adapter",
            files: asyncdiff_embedded::MOTION_ADAPTER,
        })
    }
}
