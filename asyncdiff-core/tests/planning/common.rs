//! A real graph and a real schedule to plan with.

use asyncdiff_core::scheduler::SchedulerConfig;
use asyncdiff_core::unet::UNet2d;
use asyncdiff_core::{Schedule, SegmentGraph};

pub fn graph() -> SegmentGraph {
    let config = serde_json::from_str(include_str!("sd15_unet.json")).unwrap();
    UNet2d::new(&config).unwrap().graph(2, [1, 64, 64], 77)
}

pub fn schedule(class: &str, steps: usize) -> Schedule {
    let config: SchedulerConfig = format!(
        r#"{{"_class_name": "{class}", "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
            "clip_sample": false, "skip_prk_steps": true, "steps_offset": 1, "set_alpha_to_one": false}}"#
    )
    .parse()
    .unwrap();
    Schedule::new(&config, steps).unwrap()
}
