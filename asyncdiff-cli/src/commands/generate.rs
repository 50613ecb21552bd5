//! `asyncdiff generate`

use std::path::{Path, PathBuf};

use asyncdiff_core::AsyncDiff;
use asyncdiff_models::{PartitionChoice, Run, Session, Strategy};
use serde_json::json;

use super::plan::{describe, heading};
use crate::args::{Generate, Sample, SingleStrategy};
use crate::picture::{check_path, write_pngs};
use crate::progress::Bar;
use crate::setup::{self, Result};

pub fn run(args: &Generate) -> Result<()> {
    check_path(&args.output)?;
    let pipeline = setup::open(&args.sample)?;
    let request = setup::request(&pipeline, &args.sample, Some(&args.prompt))?;
    // Without --segments, every device that is named gets one.
    let named = setup::named_devices(&args.devices)?;
    let extra = args.strategy.stride.saturating_sub(1);
    let segments = named
        .as_ref()
        .map_or(1, |workers| workers.len().saturating_sub(extra).max(1));
    let strategy = match strategy(&args.strategy, args.segments, segments)? {
        // One segment and nothing said of how to run it.
        Strategy::Asynchronous {
            partition: PartitionChoice::Published(1) | PartitionChoice::Balanced(1),
            parameters,
        } if parameters == AsyncDiff::default() => Strategy::Sequential,
        other => other,
    };
    let run = pipeline.plan(&request, &strategy)?;
    let paths = paths(&args.output, request.num_images);
    for path in &paths {
        check_path(path)?;
    }
    let ranks = run.plan.ranks.len();
    let workers = named.map_or_else(|| setup::cpu_workers(&args.devices, ranks), Ok)?;
    let names: Vec<_> = workers
        .iter()
        .take(ranks)
        .map(|worker| worker.name().to_owned())
        .collect();
    let text = !args.printing.quiet && !args.printing.json;
    if text {
        say!("{}", heading(&run))?;
        say!("{}", describe(&run, &strategy))?;
        say!("devices {}", names.join(", "))?;
    }

    let mut session = Session::new(&pipeline, workers)?;
    let output = session.generate(&run, &mut Bar::new(text))?;

    let parameters = parameters(&run, &args.sample);
    write_pngs(&paths, &output.images, &[("parameters", &parameters)])?;
    let seconds = |time: std::time::Duration| time.as_secs_f64();
    let timings = output.timings;
    if args.printing.json {
        let report = json!({
            "files": paths,
            "model": setup::model_name(&args.sample),
            "loras": args.sample.lora,
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "seed": request.seed,
            "steps": request.steps,
            "guidance_scale": request.guidance_scale,
            "width": request.width,
            "height": request.height,
            "scheduler": run.scheduler,
            "dtype": run.dtype,
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
        say!("{}", serde_json::to_string_pretty(&report)?)?;
    } else if text {
        say!(
            "{:.2} s denoising, {:.2} s text, {:.2} s picture",
            seconds(timings.denoise),
            seconds(timings.encode),
            seconds(timings.decode)
        )?;
        for path in &paths {
            say!("wrote {}", path.display())?;
        }
    }
    Ok(())
}

/// The strategy that the flags describe; `default` segments where none are named.
pub fn strategy(
    args: &SingleStrategy,
    segments: Option<usize>,
    default: usize,
) -> Result<Strategy> {
    Ok(Strategy::Asynchronous {
        partition: setup::partition(&args.common.partition, segments, default)?,
        parameters: AsyncDiff {
            stride: args.stride,
            warm_up: args.warm_up,
            time_shift: args.common.time_shift,
            forecast: args.forecast,
        },
    })
}

/// `name.png`, or `name-0.png`, `name-1.png`, …
fn paths(output: &Path, images: usize) -> Vec<PathBuf> {
    if images <= 1 {
        return vec![output.to_owned()];
    }
    let numbered = |index| {
        let mut name = output.file_stem().unwrap_or_default().to_owned();
        name.push(format!("-{index}."));
        name.push(output.extension().unwrap_or_default());
        output.with_file_name(name)
    };
    (0..images).map(numbered).collect()
}

/// The text that web UIs write into their pictures, and read from them.
fn parameters(run: &Run, sample: &Sample) -> String {
    let (request, model) = (&run.request, setup::model_name(sample));
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
        run.summary.segments,
    );
    for lora in &sample.lora {
        text += &format!(", LoRA: {}:{}", lora.file.display(), lora.strength);
    }
    if let Some(asyncdiff) = &run.plan.strategy {
        text += &format!(
            ", Stride: {}, Warm-up: {}, Time shift: {}, Forecast: {}",
            asyncdiff.stride, asyncdiff.warm_up, asyncdiff.time_shift, asyncdiff.forecast
        );
    }
    text + concat!(", Version: asyncdiff ", env!("CARGO_PKG_VERSION"))
}
