//! `asyncdiff compare`

use asyncdiff_core::AsyncDiff;
use asyncdiff_models::compare::{Comparison, Kind, Row};
use asyncdiff_models::device::Worker;
use asyncdiff_models::image::Image;
use asyncdiff_models::{Session, Spread, Strategy};
use serde_json::json;

use crate::args::Compare;
use crate::interrupt::Interruptible;
use crate::model;
use crate::output;
use crate::progress::Bar;
use crate::setup::{self, Result};
use crate::words::heading;

pub fn run(args: &Compare) -> Result<()> {
    if let Some(file) = &args.output {
        output::check_either(file)?;
    }
    let pipeline = setup::pipeline(&args.sample, args.printing.quiet || args.printing.json)?;
    let prompt = args.prompt.text.typed().unwrap_or_default();
    let prompts = Some((prompt, &args.prompt));
    let request = setup::request(&pipeline, &args.sample, args.seed.seed, prompts)?;
    setup::warn_of_truncation(&pipeline, &request.content, [("prompt", prompt)]);
    let comparison = Comparison::plan(&pipeline, &request, &strategies(args)?)?;
    let default = || output::default_file("compare", &request, comparison.runs());
    let file = args.output.clone().unwrap_or_else(default);
    output::check(&file, &request, comparison.runs())?;
    let workers = setup::named_devices(&args.devices)?
        .map_or_else(|| setup::cpu_workers(&args.devices, comparison.ranks()), Ok)?;
    let names: Vec<_> = workers
        .iter()
        .map(|worker| worker.name().to_owned())
        .collect();
    let threads: Vec<_> = workers.iter().map(Worker::threads).collect();
    let crowded = setup::shared_cores(&workers);
    let text = !args.printing.quiet && !args.printing.json;
    if text {
        say!("{}", heading(comparison.baseline(), &request.content.seed))?;
        say!(
            "devices {}; median of {} runs each, taken in turn",
            names.join(", "),
            args.repeat
        )?;
    }
    if let Some(note) = crowded.as_ref().filter(|_| !args.printing.quiet) {
        eprintln!("note: {note}");
    }

    let mut session = Session::new(&pipeline, workers)?;
    let calls = comparison.baseline().plan.calls;
    session.prepare(comparison.baseline())?;
    let mut progress = Interruptible::new(Bar::new(text))?;
    let rows = progress.watch((1, 1), calls, |progress| {
        comparison.run(&mut session, args.repeat.into(), progress)
    })?;

    let shown = || rows.iter().filter(|row| row.kind != Kind::FewerSteps);
    let beside: Vec<Image> = (0..request.shape.frames)
        .map(|frame| Image::beside(&shown().map(|row| &row.frames[frame]).collect::<Vec<_>>()))
        .collect::<std::result::Result<_, _>>()?;
    let made = std::iter::once(&*beside);
    output::write(
        std::slice::from_ref(&file),
        made,
        &request,
        &request.content.prompt,
    )?;
    if args.printing.json {
        let report = json!({
            "file": file,
            "model": model::name(args.sample.model.as_deref()),
            "loras": args.sample.lora,
            "motion_adapter": model::adapter_name(&args.sample, &request.shape),
            "prompt": request.content.prompt,
            "dtype": args.sample.dtype,
            "devices": names,
            "threads": threads,
            "note": crowded,
            "rows": rows.iter().map(to_json).collect::<Vec<_>>(),
        });
        say!("{}", serde_json::to_string_pretty(&report)?)?;
    } else if text {
        print_table(&rows)?;
        say!("\nwrote {} (sequential first)", file.display())?;
    }
    Ok(())
}

/// Every combination of the listed parameters.
fn strategies(args: &Compare) -> Result<Vec<Strategy>> {
    let mut strategies = Vec::new();
    let named = args.segments.iter().copied().map(Some);
    let segments: Vec<_> = match args.segments.is_empty() {
        true => vec![None],
        false => named.collect(),
    };
    for segments in segments {
        let partition = setup::partition(&args.common.partition, segments, 2)?;
        for &stride in &args.stride {
            for &warm_up in &args.warm_up {
                for &forecast in &args.forecast {
                    strategies.push(Strategy::from(Spread::AsyncDiff {
                        partition: partition.clone(),
                        parameters: AsyncDiff {
                            stride,
                            warm_up,
                            time_shift: args.common.time_shift,
                            forecast,
                        },
                    }));
                }
            }
        }
    }
    Ok(strategies)
}

fn label(row: &Row) -> String {
    match &row.kind {
        Kind::Baseline => format!("sequential, {} steps", row.steps),
        Kind::FewerSteps => format!("  as fast: sequential, {} steps", row.steps),
        Kind::Spread(strategy) => strategy.to_string(),
    }
}

fn print_table(rows: &[Row]) -> Result<()> {
    say!(
        "\n{:<36} {:>7} {:>8} {:>8} {:>6} {:>8} {:>7} {:>12}",
        "run",
        "devices",
        "seconds",
        "speed-up",
        "ideal",
        "PSNR dB",
        "SSIM",
        "latent error"
    )?;
    for row in rows {
        let speed_up = if row.sound {
            format!("{:.2}", row.speed_up)
        } else {
            "mismatch".to_owned()
        };
        say!(
            "{:<36} {:>7} {:>8.3} {:>8} {:>6.2} {:>8.2} {:>7.4} {:>12.5}",
            label(row),
            row.ranks,
            row.time.as_secs_f64(),
            speed_up,
            row.ideal_speed_up,
            row.psnr,
            row.ssim,
            row.latent_error
        )?;
    }
    Ok(())
}

fn to_json(row: &Row) -> serde_json::Value {
    let strategy = match &row.kind {
        Kind::Spread(strategy) => Some(strategy),
        _ => None,
    };
    json!({
        "run": label(row).trim(),
        "strategy": strategy,
        "devices": row.ranks,
        "steps": row.steps,
        "seconds": row.time.as_secs_f64(),
        "speed_up": row.sound.then_some(row.speed_up),
        "ideal_speed_up": row.ideal_speed_up,
        // JSON knows no infinity; equal pictures have none.
        "psnr": row.psnr.is_finite().then_some(row.psnr),
        "ssim": row.ssim,
        "latent_error": row.latent_error,
        "sound": row.sound,
    })
}
