//! `asyncdiff compare`

use asyncdiff_models::compare::{Comparison, Kind, Row};
use asyncdiff_models::device::Worker;
use asyncdiff_models::image::Image;
use asyncdiff_models::{Content, Session, Strategy};
use serde_json::json;

use crate::args::Compare;
use crate::interrupt::Interruptible;
use crate::jobs::{Prompt, read_prompts};
use crate::model;
use crate::output::{self, Lines};
use crate::progress::Bar;
use crate::setup::{self, Result};
use crate::spread;
use crate::words::heading;

pub fn run(args: &Compare) -> Result<()> {
    if let Some(file) = &args.output {
        output::check_either(file)?;
        output::check_report(file, &args.printing)?;
    }
    let pipeline = setup::pipeline(&args.sample, args.printing.quiet || args.printing.json)?;
    let prompts = match &args.prompt_file {
        Some(file) => read_prompts(file)?,
        None => vec![Prompt::typed(args.prompt.text.typed().unwrap_or_default())],
    };
    let first = Some((prompts[0].text.as_str(), &args.prompt));
    let request = setup::request(&pipeline, &args.sample, args.seed.seed, first)?;
    let named = prompts.iter().map(|prompt| (&*prompt.name, &*prompt.text));
    setup::warn_of_truncation(&pipeline, &request.content, named);
    let contents: Vec<Content> = prompts
        .iter()
        .map(|prompt| request.content.with_prompt(&prompt.text))
        .collect();
    let machine = setup::machine(args.spreadings.choice.machine.as_deref())?;
    let workers = setup::named_devices(&args.devices)?;
    let mut strategies = spread::listed(&args.spreadings)?;
    if strategies.is_empty() {
        // What would be chosen, beside the published method.
        let devices = workers.as_ref().map_or(2, Vec::len);
        let (shape, choice) = (&request.shape, &args.spreadings.choice);
        let chosen = spread::chosen(&pipeline, machine.as_ref(), shape, choice, devices)?;
        strategies.extend(Some(chosen).filter(|chosen| !chosen.is_sequential()));
        strategies.push(Strategy::segments(2));
    }
    let shape = &request.shape;
    if args.spreadings.warm_up.is_empty() {
        for strategy in &mut strategies {
            spread::fit_warm_up(strategy, args.printing.quiet, |strategy| {
                pipeline.plan_on(machine.as_ref(), shape, strategy)
            })?;
        }
    }
    let mut comparison =
        Comparison::plan(&pipeline, machine.as_ref(), shape, &contents, &strategies)?;
    // With guidance both ways, half of the combinations need twice the devices.
    if let Some(workers) = &workers
        && args.spreadings.guidance_split.len() > 1
    {
        for strategy in comparison.leave_out(workers.len()) {
            if !args.printing.quiet {
                complain!(
                    "note: {strategy} needs more than the {} devices that are named: left out",
                    workers.len()
                );
            }
        }
    }
    let default = || output::default_file("compare", &request, comparison.runs());
    let file = args.output.clone().unwrap_or_else(default);
    output::check(&file, &request, comparison.runs(), args.force)?;
    let workers =
        workers.map_or_else(|| setup::cpu_workers(&args.devices, comparison.ranks()), Ok)?;
    let names: Vec<_> = workers
        .iter()
        .map(|worker| worker.name().to_owned())
        .collect();
    let threads: Vec<_> = workers.iter().map(Worker::threads).collect();
    let crowded = setup::shared_cores(&workers);
    let text = !args.printing.quiet && !args.printing.json;
    let lines = Lines::beside(args.output.as_deref(), text);
    lines.print(format_args!(
        "{}",
        heading(comparison.baseline(), &request.content.seed)
    ))?;
    lines.print(format_args!(
        "devices {}; median of {} runs each, taken in turn",
        names.join(", "),
        args.repeat
    ))?;
    if let Some(note) = crowded.as_ref().filter(|_| !args.printing.quiet) {
        complain!("note: {note}");
    }

    let scheduler = comparison.baseline().scheduler.clone();
    pipeline.check_memory(comparison.baseline(), &request.content, workers.iter())?;
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
    let texts = [request.content.prompt.clone()];
    output::write(std::slice::from_ref(&file), made, &request, &texts)?;
    if args.printing.json {
        let report = json!({
            "file": file,
            "model": model::name(args.sample.model.as_deref()),
            "loras": args.sample.lora,
            "motion_adapter": model::adapter_name(&args.sample, &request.shape),
            "prompts": contents.iter().map(|content| &content.prompt).collect::<Vec<_>>(),
            "negative_prompt": request.content.negative_prompt,
            "seed": request.content.seed,
            "steps": request.shape.steps,
            "guidance_scale": request.shape.guidance_scale,
            "width": request.shape.width,
            "height": request.shape.height,
            "frames": request.shape.frames,
            "fps": (request.shape.frames > 1).then_some(request.content.fps),
            "scheduler": scheduler,
            "dtype": args.sample.dtype,
            "devices": names,
            "threads": threads,
            "note": crowded,
            "rows": rows.iter().map(to_json).collect::<Vec<_>>(),
        });
        say!("{}", serde_json::to_string_pretty(&report)?)?;
    } else {
        print_table(lines, &rows, contents.len() > 1)?;
        lines.print(format_args!(
            "\nwrote {} (sequential first)",
            file.display()
        ))?;
    }
    Ok(())
}

fn label(row: &Row) -> String {
    match &row.kind {
        Kind::Baseline => format!("sequential, {} steps", row.steps),
        Kind::FewerSteps => format!("  as fast: sequential, {} steps", row.steps),
        Kind::Spread(strategy) => strategy.to_string(),
    }
}

fn print_table(lines: Lines, rows: &[Row], several: bool) -> Result<()> {
    let worst = |text: String| if several { text } else { String::new() };
    lines.print(format_args!(
        "\n{:<44} {:>7} {:>8} {:>8} {:>6} {:>8}{} {:>7} {:>12}",
        "run",
        "devices",
        "seconds",
        "speed-up",
        "ideal",
        "PSNR dB",
        worst(format!(" {:>8}", "worst")),
        "SSIM",
        "latent error"
    ))?;
    for row in rows {
        let speed_up = if row.sound {
            format!("{:.2}", row.speed_up)
        } else {
            "mismatch".to_owned()
        };
        lines.print(format_args!(
            "{:<44} {:>7} {:>8.3} {:>8} {:>6.2} {:>8.2}{} {:>7.4} {:>12.5}",
            label(row),
            row.ranks,
            row.time.as_secs_f64(),
            speed_up,
            row.ideal_speed_up,
            row.psnr,
            worst(format!(" {:>8.2}", row.worst_psnr)),
            row.ssim,
            row.latent_error
        ))?;
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
        "worst_psnr": row.worst_psnr.is_finite().then_some(row.worst_psnr),
        "ssim": row.ssim,
        "latent_error": row.latent_error,
        "sound": row.sound,
    })
}
