//! The flags of videos.

use std::num::NonZero;
use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub struct Video {
    /// Motion adapter (AnimateDiff), a folder or a Hub id: makes videos with a model of pictures, Stable Diffusion 1.x
    /// [default: none; for the embedded model, if --frames is above 1, its own]
    #[arg(long, value_name = "DIR|ID")]
    pub motion_adapter: Option<PathBuf>,
    /// Picture that a video is made of, in place of a prompt, for Stable Video Diffusion: a .png, .jpg or .webp file
    #[arg(long, value_name = "FILE", group = "text")]
    pub image: Option<PathBuf>,
    /// Frames of a video, 1 for a picture [default: the model's; 16 with a --motion-adapter, or as many as it makes if less]
    #[arg(long, value_name = "N")]
    pub frames: Option<usize>,
    /// Frames per second of a video; Stable Video Diffusion is told of them [default: 7; 8 with a motion adapter]
    #[arg(long, value_name = "N")]
    pub fps: Option<usize>,
    /// How much is to move in a video that is made of a picture: 0 to 255 [default: 127]
    #[arg(long, value_name = "X")]
    pub motion_bucket_id: Option<f64>,
    /// Noise on the picture that a video is made of: more moves more and looks less alike [default: 0.02]
    #[arg(long, value_name = "X")]
    pub noise_aug_strength: Option<f64>,
    /// Guidance scale at the first frame of a video that is made of a picture; it rises to --guidance-scale [default: 1]
    #[arg(long, value_name = "X")]
    pub min_guidance_scale: Option<f64>,
    /// Frames that are decoded at a time: fewer take less memory, and show between chunks [default: all]
    #[arg(long, value_name = "N")]
    pub decode_chunk_size: Option<NonZero<usize>>,
}

impl Video {
    /// The first flag that is given and says something about a video of a picture.
    ///
    /// Whether there is a picture is not for the parser to check: it lets `--motion-bucket-id` pass beside a prompt, with which
    /// the picture conflicts.
    pub fn about_a_picture(&self) -> Option<&'static str> {
        let given = [
            ("--motion-bucket-id", self.motion_bucket_id.is_some()),
            ("--noise-aug-strength", self.noise_aug_strength.is_some()),
            ("--min-guidance-scale", self.min_guidance_scale.is_some()),
            ("--decode-chunk-size", self.decode_chunk_size.is_some()),
        ];
        given
            .iter()
            .find_map(|&(flag, given)| given.then_some(flag))
    }
}
