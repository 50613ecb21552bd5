//! How much a request may ask for.

use std::time::Duration;

use asyncdiff_models::Shape;
use serde::Serialize;
use utoipa::ToSchema;

use crate::refusal::Refusal;

/// How much a request may ask for. Each limit is a refusal that names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[non_exhaustive]
pub struct Limits {
    /// Pixels of a picture, width times height; never more than 16 times those of the model's own size, as attention over a
    /// picture takes time with the square of them.
    pub pixels: usize,
    /// Inference steps.
    pub steps: usize,
    /// Pictures of one request.
    pub batch: usize,
    /// Pictures of several requests that are made together, as one batch, where that is sooner.
    pub together: usize,
    /// Frames of a video.
    pub frames: usize,
    /// Requests that wait.
    pub queue: usize,
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// Bytes of bodies and pictures of all requests that are read or wait; one that does not fit is refused.
    pub held_bytes: usize,
    /// How long one request may be at work.
    #[serde(skip)]
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pixels: 2048 * 2048,
            steps: 150,
            batch: 10,
            together: 4,
            frames: 32,
            queue: 64,
            body_bytes: 32 << 20,
            held_bytes: 1 << 30,
            time: Duration::from_secs(600),
        }
    }
}

/// Most pixels of a picture, in those of the model's own size.
const LARGER: usize = 16;

impl Limits {
    /// The limits for a model that makes pictures of `width` by `height` pixels by itself.
    pub(crate) fn of_model(self, (width, height): (usize, usize)) -> Self {
        Self {
            pixels: self.pixels.min(LARGER * width * height),
            ..self
        }
    }

    /// Whether `pictures` of that shape may be asked for.
    pub(crate) fn check(&self, shape: &Shape, pictures: usize) -> Result<(), Refusal> {
        let pixels = shape.width.saturating_mul(shape.height);
        for (field, what, found, most) in [
            ("size", "pixels of a picture", pixels, self.pixels),
            ("steps", "steps", shape.steps, self.steps),
            ("n", "pictures of one request", pictures, self.batch),
            ("frames", "frames of a video", shape.frames, self.frames),
        ] {
            if found > most {
                return Err(Refusal::field(
                    field,
                    format!(
                        "{found} {what} are more than this service makes: ask for at most {most}"
                    ),
                ));
            }
        }
        match pictures {
            0 => Err(Refusal::field(
                "n",
                "0 pictures are not possible: ask for at least 1",
            )),
            _ => Ok(()),
        }
    }
}
