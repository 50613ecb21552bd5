//! `asyncdiff generate`

use std::path::{Path, PathBuf};

use asyncdiff_core::AsyncDiff;
use asyncdiff_models::{Request, Run, Session, Strategy};
use serde_json::json;

use super::plan::{describe, heading};
use crate::args::{Generate, SingleStrategy};
use crate::picture::{check_path, write_png};
use crate::progress::Bar;
use crate::setup::{self, Result};

pub fn run(args: &Generate) -> Result<()> {
    check_path(&args.output)?;
    let pipeline = setup::open(&args.sample)?;
    let request = setup::request(&pipeline, &args.sample, Some(&args.prompt))?;
    // Without --segments, every device that is named gets one.
    let named = args
        .devices
        .devices
        .as_ref()
        .map(|_| setup::devices(&args.devices, 1))
        .transpose()?;
    let extra = args.strategy.stride.saturating_sub(1);
    let segments = args.segments.unwrap_or_else(|| {
        named
            .as_ref()
            .map_or(1, |workers| workers.len().saturating_sub(extra).max(1))
    });
    let strategy = strategy(&args.strategy, segments)?;
    let run = pipeline.plan(&request, &strategy)?;
    let workers = match named {
        Some(workers) => workers,
        None => setup::devices(&args.devices, run.plan.ranks.len())?,
    };
    let names: Vec<_> = workers
        .iter()
        .take(run.plan.ranks.len())
        .map(|worker| worker.name().to_owned())
        .collect();
    let text = !args.printing.quiet && !args.printing.json;
    if text {
        println!("{}", heading(&request, &run));
        println!("{}", describe(&run, &strategy));
        println!("devices {}", names.join(", "));
    }

    let mut session = Session::new(&pipeline, workers)?;
    let output = session.generate(&request, &run, &mut Bar::new(text))?;

    let parameters = parameters(&request, &run, &strategy, &setup::model_name(&args.sample));
    let paths = paths(&args.output, output.images.len());
    for (path, image) in paths.iter().zip(&output.images) {
        write_png(path, image, &[("parameters", &parameters)])?;
    }
    let seconds = |time: std::time::Duration| time.as_secs_f64();
    let timings = output.timings;
    if args.printing.json {
        let report = json!({
            "files": paths,
            "model": setup::model_name(&args.sample),
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "seed": request.seed,
            "steps": request.steps,
            "guidance_scale": request.guidance_scale,
            "width": request.width,
            "height": request.height,
            "scheduler": run.scheduler,
            "devices": names,
            "strategy": run.plan.strategy,
            "summary": run.summary,
            "loaded_weight_bytes": session.loaded_bytes(),
            "seconds": {
                "encode": seconds(timings.encode),
                "denoise": seconds(timings.denoise),
                "decode": seconds(timings.decode),
            },
        });
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else if text {
        println!(
            "{:.2} s denoising, {:.2} s text, {:.2} s picture",
            seconds(timings.denoise),
            seconds(timings.encode),
            seconds(timings.decode)
        );
        for path in &paths {
            println!("wrote {}", path.display());
        }
    }
    Ok(())
}

/// The strategy that the flags describe.
pub fn strategy(args: &SingleStrategy, segments: usize) -> Result<Strategy> {
    Ok(Strategy {
        segments,
        partition: setup::partition(&args.common.partition)?,
        asyncdiff: AsyncDiff {
            stride: args.stride,
            warm_up: args.warm_up,
            time_shift: args.common.time_shift,
            forecast: args.forecast,
        },
    })
}

/// `name.png`, or `name-0.png`, `name-1.png`, …
fn paths(output: &Path, images: usize) -> Vec<PathBuf> {
    if images == 1 {
        return vec![output.to_owned()];
    }
    let stem = output.file_stem().unwrap_or_default().to_string_lossy();
    (0..images)
        .map(|index| output.with_file_name(format!("{stem}-{index}.png")))
        .collect()
}

/// The text that web UIs write into their pictures, and read from them.
pub fn parameters(request: &Request, run: &Run, strategy: &Strategy, model: &str) -> String {
    let mut text = request.prompt.clone();
    if !request.negative_prompt.is_empty() {
        text += &format!("\nNegative prompt: {}", request.negative_prompt);
    }
    text += &format!(
        "\nSteps: {}, Sampler: {}, CFG scale: {}, Seed: {}, Size: {}x{}, Model: {model}, Segments: {}",
        request.steps,
        run.scheduler,
        request.guidance_scale,
        request.seed,
        request.width,
        request.height,
        strategy.segments,
    );
    if let Some(asyncdiff) = &run.plan.strategy {
        text += &format!(
            ", Stride: {}, Warm-up: {}, Time shift: {}, Forecast: {}",
            asyncdiff.stride, asyncdiff.warm_up, asyncdiff.time_shift, asyncdiff.forecast
        );
    }
    text + concat!(", Version: asyncdiff ", env!("CARGO_PKG_VERSION"))
}
