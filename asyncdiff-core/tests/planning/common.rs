//! A real graph and a real schedule to plan with.

use asyncdiff_core::scheduler::SchedulerConfig;
use asyncdiff_core::unet::{MotionConfig, SpatioTemporalConfig, UNet2d};
use asyncdiff_core::{Schedule, SegmentGraph};

fn unet(config: &str, side: usize) -> SegmentGraph {
    let config = serde_json::from_str(config).unwrap();
    UNet2d::new(&config).unwrap().graph(2, [1, side, side], 77)
}

/// Stable Diffusion 1.5 at 512 pixels.
pub fn graph() -> SegmentGraph {
    unet(include_str!("sd15_unet.json"), 64)
}

/// Stable Diffusion 2.1 at 768 pixels.
pub fn sd21() -> SegmentGraph {
    unet(include_str!("sd21_unet.json"), 96)
}

/// Stable Diffusion XL at 1024 pixels. The last segment of its published partitions owns the first blocks too.
pub fn sdxl() -> SegmentGraph {
    unet(include_str!("sdxl_unet.json"), 128)
}

/// AnimateDiff on Stable Diffusion 1.5: one video of 16 frames, 512 pixels.
pub fn animatediff() -> SegmentGraph {
    let config = serde_json::from_str(include_str!("sd15_unet.json")).unwrap();
    let unet = UNet2d::new(&config).unwrap();
    let unet = unet.with_motion(&MotionConfig::default()).unwrap();
    unet.video_graph(2, 16, [16, 64, 64], 77)
}

/// Stable Video Diffusion XT: one video of 25 frames, 1024x576 pixels, and the one token of its picture.
pub fn svd() -> SegmentGraph {
    let config: SpatioTemporalConfig = serde_json::from_str(include_str!("svd_unet.json")).unwrap();
    let unet = UNet2d::spatio_temporal(&config).unwrap();
    unet.video_graph(2, 25, [25, 72, 128], 1)
}

pub fn schedule(class: &str, steps: usize) -> Schedule {
    offset_schedule(class, steps, 1)
}

/// With an offset of 0, the last step of DDIM and PNDM goes from timestep 0 to timestep 0, and changes nothing.
pub fn offset_schedule(class: &str, steps: usize, offset: usize) -> Schedule {
    let config: SchedulerConfig = format!(
        r#"{{"_class_name": "{class}", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
            "clip_sample": false, "skip_prk_steps": true, "steps_offset": {offset}, "set_alpha_to_one": false}}"#
    )
    .parse()
    .unwrap();
    Schedule::new(&config, steps).unwrap()
}
