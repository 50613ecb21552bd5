//! What four devices are good for at real size: every plan of Stable Diffusion 1.5, 2.1 and XL, AnimateDiff and Stable Video
//! Diffusion XT, from their configurations alone.
//!
//! `cargo run --release -p asyncdiff-core --example 05_choices`

use asyncdiff_core::choice::{Preference, Wish, candidates, choose};
use asyncdiff_core::scheduler::SchedulerConfig;
use asyncdiff_core::unet::{MotionConfig, SpatioTemporalConfig, UNet2d};
use asyncdiff_core::{Machine, Schedule, SegmentGraph, Setting};

type Failure = Box<dyn std::error::Error>;

/// The denoiser for pictures of a configuration, with guidance, one picture of `side` latents.
fn picture(config: &str, side: usize) -> Result<SegmentGraph, Failure> {
    Ok(UNet2d::new(&serde_json::from_str(config)?)?.graph(2, [1, side, side], 77))
}

/// Every network at the size that it was trained for.
fn networks() -> Result<Vec<(&'static str, SegmentGraph)>, Failure> {
    let sd15 = include_str!("../tests/planning/sd15_unet.json");
    let motion = UNet2d::new(&serde_json::from_str(sd15)?)?.with_motion(&MotionConfig::default())?;
    let svd: SpatioTemporalConfig =
        serde_json::from_str(include_str!("../tests/planning/svd_unet.json"))?;
    Ok(vec![
        ("Stable Diffusion 1.5, 512x512", picture(sd15, 64)?),
        (
            "Stable Diffusion 2.1, 768x768",
            picture(include_str!("../tests/planning/sd21_unet.json"), 96)?,
        ),
        (
            "Stable Diffusion XL, 1024x1024",
            picture(include_str!("../tests/planning/sdxl_unet.json"), 128)?,
        ),
        (
            "AnimateDiff on 1.5, 16 frames of 512x512",
            motion.video_graph(2, 16, [16, 64, 64], 77),
        ),
        (
            "Stable Video Diffusion XT, 25 frames of 1024x576",
            UNet2d::spatio_temporal(&svd)?.video_graph(2, 25, [25, 72, 128], 1),
        ),
    ])
}

fn main() -> Result<(), Failure> {
    let config: SchedulerConfig =
        r#"{"_class_name": "DDIMScheduler", "clip_sample": false}"#.parse()?;
    let schedule = Schedule::new(&config, 50)?;
    let wish = Wish {
        ranks: 4,
        preference: Preference::Likeness,
        memory: None,
        element_bytes: 2,
    };
    for (name, graph) in networks()? {
        let setting = Setting::new(&graph, &schedule, Some(7.5.into()));
        let all = candidates(&setting, &Machine::ideal(&graph), &wish)?;
        let chosen = choose(&all, wish.preference);
        println!("\n{name}, 50 steps, two bytes an element\n");
        println!(
            "| plan | ranks | ideal | MiB a call | weights of the largest rank, MiB | activations, MiB |"
        );
        println!("|---|---|---|---|---|---|");
        for (index, one) in all.iter().enumerate() {
            let mebibytes = |bytes: f64| bytes / f64::from(1 << 20);
            let ranks = one.summary.ranks.iter();
            let weights = ranks
                .clone()
                .map(|rank| rank.weight_bytes)
                .max()
                .unwrap_or(0);
            let activations = ranks.map(|rank| rank.activation_bytes).max().unwrap_or(0);
            let mark = if chosen == Some(index) {
                " (chosen)"
            } else {
                ""
            };
            println!(
                "| {}{mark} | {} | {:.2} | {:.2} | {:.0} | {:.0} |",
                one.strategy,
                one.plan.ranks.len(),
                one.speed_up,
                mebibytes(one.summary.bytes_per_call),
                mebibytes(weights as f64),
                mebibytes(activations as f64),
            );
        }
    }
    Ok(())
}
