//! Write a run down before it starts: who would compute what for the real Stable Diffusion 1.5, and how much sooner.
//!
//! `cargo run --release -p asyncdiff-core --example 04_plan`

use asyncdiff_core::scheduler::SchedulerConfig;
use asyncdiff_core::unet::{UNet2d, UNet2dConfig};
use asyncdiff_core::{AsyncDiff, Machine, Partition, Plan, Schedule, Setting, Summary};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let config = include_str!("../tests/planning/sd15_unet.json");
    let config: UNet2dConfig = serde_json::from_str(config)?;
    let graph = UNet2d::new(&config)?.graph(2, [1, 64, 64], 77);
    let scheduler: SchedulerConfig =
        r#"{"_class_name": "DDIMScheduler", "clip_sample": false}"#.parse()?;
    let schedule = Schedule::new(&scheduler, 50)?;
    let sequential = Plan::sequential(&Setting::new(&graph, &schedule, Some(7.5.into())))?;
    for segments in 2..=4 {
        for partition in [
            Partition::published(&graph, segments)?,
            Partition::balanced(&graph, &Machine::ideal(&graph), segments)?,
        ] {
            let plan = Plan::asyncdiff(
                &Setting::new(&graph, &schedule, Some(7.5.into())),
                &partition,
                &AsyncDiff::default(),
            )?;
            let summary = Summary::new(&plan, &sequential, &graph, 2);
            let shares: Vec<_> = summary
                .ranks
                .iter()
                .map(|rank| format!("{:.0} %", 100.0 * rank.macs_share))
                .collect();
            println!(
                "{segments} segments of {}: {:.2} times sooner, {:.0} MB moved per call",
                shares.join(", "),
                summary.ideal_speed_up,
                summary.bytes_per_call / 1e6
            );
        }
    }
    Ok(())
}
