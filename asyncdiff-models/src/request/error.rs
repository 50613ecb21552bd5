//! What can be wrong with a request.

use crate::image::ImageError;
use asyncdiff_core::quoted;

/// What the model cannot make, or what a run cannot be made from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// A picture size that the model cannot make.
    #[error("{side} {found} is not possible: use a multiple of {factor}, such as {nearest}")]
    Size {
        /// `width` or `height`.
        side: &'static str,
        /// The size asked for.
        found: usize,
        /// What it has to be a multiple of.
        factor: usize,
        /// The nearest size that is possible.
        nearest: usize,
    },
    /// A picture or batch that no machine could hold.
    #[error("{what} {found} is not possible: use at most {most}")]
    TooLarge {
        /// Which setting.
        what: &'static str,
        /// Its value.
        found: usize,
        /// The largest that is accepted.
        most: usize,
    },
    /// A request for no picture at all.
    #[error("0 images are not possible: ask for at least 1")]
    NoImages,
    /// Contents that cannot be made in one batch.
    #[error(
        "{contents} contents share no batch of {images} images: plan as many for each, decode all of them alike, and start all of them from noise that is drawn"
    )]
    Together {
        /// How many.
        contents: usize,
        /// Images that the run was planned for.
        images: usize,
    },
    /// A video without what moves it.
    #[error(
        "{0} frames are a video, which needs a motion adapter: give one (--motion-adapter), or ask for 1 frame"
    )]
    NeedsMotionAdapter(usize),
    /// A video longer than the motion adapter reaches.
    #[error(
        "{found} frames are not possible: the motion adapter makes at most {most} (its motion_max_seq_length); ask for no more than that (--frames)"
    )]
    TooManyFrames {
        /// The number asked for.
        found: usize,
        /// The adapter's limit.
        most: usize,
    },
    /// A video that should start from a picture.
    #[error(
        "a video of {0} frames cannot start from a picture: leave out the picture, or ask for 1 frame"
    )]
    VideoFromPicture(usize),
    /// A guidance scale that is not a number.
    #[error(
        "guidance scale {0} is not possible: use a finite number; 1 or less turns guidance off"
    )]
    Guidance(f64),
    /// A strength outside its range.
    #[error("strength {0} is not possible: use more than 0 and at most 1")]
    Strength(f64),
    /// A picture or mask of another size than the result.
    #[error(
        "the {what} has {}x{} pixels, the result {}x{}: give one of that size",
        .found.0, .found.1, .expected.0, .expected.1
    )]
    PictureSize {
        /// Which of them.
        what: &'static str,
        /// Its width and height.
        found: (usize, usize),
        /// The result's.
        expected: (usize, usize),
    },
    /// A content that a run was not planned for.
    #[error(
        "the run was planned to start from {planned}, and is given {found}: plan it for that, or give what it was planned for"
    )]
    Start {
        /// What the run starts from.
        planned: &'static str,
        /// What the content has.
        found: &'static str,
    },
    /// An inpainting UNet without a mask.
    #[error(
        "this model's UNet reads a mask: give a picture and a mask to paint in it (--init-image and --mask), or use a model that reads none"
    )]
    NeedsMask,
    /// A model that makes a video of a picture, without one.
    #[error("this model makes a video of a picture: give one (--image)")]
    NeedsPicture,
    /// A prompt for a model that reads none.
    #[error(
        "this model makes a video of a picture and reads no text: give a picture (--image), and leave out the prompt and the negative prompt"
    )]
    ReadsNoText,
    /// A picture or mask to start from, for a model that makes a video of a picture.
    #[error(
        "this model makes a video of a picture, which it starts from noise: leave out the picture or mask to start from, or use an image model"
    )]
    StartsFromNoise,
    /// A picture to make a video of, for a model that makes none.
    #[error("this model makes no video of a picture: use a Stable Video Diffusion model for that")]
    AnimatesNoPicture,
    /// A number that no run can be made from.
    #[error("{what} {found} is not possible: use {supported}", found = quoted(found))]
    OutOfRange {
        /// Which setting.
        what: &'static str,
        /// Its value.
        found: String,
        /// What would work.
        supported: &'static str,
    },
    /// Noise for the picture that a video is made of, of another shape.
    #[error("the noise for the picture has shape {found:?}, this request needs {expected:?}")]
    PictureNoise {
        /// Its shape.
        found: Vec<usize>,
        /// The shape needed.
        expected: Vec<usize>,
    },
    /// Initial latents of another shape.
    #[error("the initial latents have shape {found:?}, this request needs {expected:?}")]
    Latents {
        /// Their shape.
        found: Vec<usize>,
        /// The shape needed.
        expected: Vec<usize>,
    },
    /// A picture that is given.
    #[error(transparent)]
    Image(#[from] ImageError),
}
