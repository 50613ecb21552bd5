//! What several commands say of a run.

use std::fmt::Display;

use asyncdiff_models::{Run, StartFrom};

/// One line on what is to be made, with which seed or seeds.
pub fn heading(run: &Run, seeds: &dyn Display) -> String {
    let shape = &run.shape;
    let [batch, channels, height, width] = run.graph.latents;
    let from = match shape.start {
        StartFrom::Noise if shape.min_guidance_scale.is_some() => "of a picture, ".to_owned(),
        StartFrom::Noise => String::new(),
        StartFrom::Masked { strength } => format!("inside a mask at strength {strength}, "),
        StartFrom::Picture { strength } => format!("from a picture at strength {strength}, "),
    };
    let frames = match shape.frames {
        1 => String::new(),
        frames => format!("{frames} frames of "),
    };
    let guidance = match shape.min_guidance_scale {
        Some(first) => format!("{first} to {}", shape.guidance_scale),
        None => shape.guidance_scale.to_string(),
    };
    format!(
        "{from}{frames}{}x{} pixels, latents {batch}x{channels}x{height}x{width}, {} steps of {} ({} denoiser calls), guidance scale {guidance}, seed {seeds}, {}",
        shape.width, shape.height, shape.steps, run.scheduler, run.plan.calls, run.dtype
    )
}

/// One line on how it is spread.
pub fn describe(run: &Run) -> String {
    if run.strategy.is_sequential() {
        return "sequential, on 1 device".to_owned();
    }
    format!(
        "{}{}, on {} devices, ideal speed-up {:.2}",
        run.strategy,
        if run.fell_back {
            " balanced (no published partition fits this denoiser)"
        } else {
            ""
        },
        run.plan.ranks.len(),
        run.summary.ideal_speed_up
    )
}

/// A number of bytes for people.
pub fn bytes(count: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB"];
    let power = (count.max(1.0).log2() / 10.0).floor().min(3.0);
    format!(
        "{:.1} {}",
        count / 1024_f64.powf(power),
        units[power as usize]
    )
}
