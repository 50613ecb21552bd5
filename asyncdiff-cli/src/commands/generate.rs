//! `asyncdiff generate`

use std::time::Duration;

use asyncdiff_media::picture;
use asyncdiff_models::{Progress as _, Request, Strategy, Timings};
use serde_json::json;

use crate::args::Generate;
use crate::interrupt::{Interruptible, Place};
use crate::jobs::{Job, Prompt, jobs, read_prompts};
use crate::model;
use crate::output::{self, Lines};
use crate::parameters::parameters;
use crate::preview::{Previewing, Target};
use crate::processes::{Maker, Together};
use crate::progress::Bar;
use crate::setup::{self, Result};
use crate::spread;
use crate::words::{describe, heading};

pub fn run(args: &Generate) -> Result<()> {
    if let Some(file) = &args.output {
        output::check_either(file)?;
        output::check_report(file, &args.printing)?;
    }
    let preview = args.preview.clone().map(|file| Target {
        file,
        every: args.preview_every.get(),
    });
    if let Some(preview) = &preview {
        picture::check_path(&preview.file)?;
    }
    let mut together = Together::find(&args.ranks, &args.devices)?;
    let leads = together.as_ref().is_none_or(Together::leads);
    let prompts = match &args.prompt_file {
        // The others learn from the first what is made.
        Some(_) if !leads => vec![Prompt::typed("")],
        Some(file) => read_prompts(file)?,
        None => vec![Prompt::typed(args.prompt.text.typed().unwrap_or_default())],
    };
    let quiet = args.printing.quiet || args.printing.json || !leads;
    let pipeline = setup::pipeline(&args.sample, quiet)?;
    let seed = args.seeds.as_slice()[0];
    let first = Some((prompts[0].text.as_str(), &args.prompt));
    let mut request = setup::request(&pipeline, &args.sample, seed, first)?;
    let named = prompts.iter().map(|prompt| (&*prompt.name, &*prompt.text));
    if leads {
        setup::warn_of_truncation(&pipeline, &request.content, named);
    }
    let workers = match &together {
        Some(together) => Some(vec![together.worker(&args.devices)?]),
        None => setup::named_devices(&args.devices)?,
    };
    let machine = setup::machine(args.spreading.choice.machine.as_deref())?;
    // Each of several processes has one.
    let processes = together.as_ref().map(Together::processes);
    let named = processes.or(workers.as_ref().map(Vec::len));
    let (strategy, chosen) = match (spread::named(&args.spreading, named)?, named) {
        (Some(strategy), _) => (strategy, false),
        (None, None) => (Strategy::sequential(), false),
        (None, Some(devices)) => {
            let (shape, choice) = (&request.shape, &args.spreading.choice);
            let machine = machine.as_ref();
            (
                spread::chosen(&pipeline, machine, shape, choice, devices)?,
                true,
            )
        }
    };
    let mut strategy = strategy;
    let plan = |strategy: &Strategy| pipeline.plan_on(machine.as_ref(), &request.shape, strategy);
    if args.spreading.warm_up.is_none() {
        spread::fit_warm_up(&mut strategy, args.printing.quiet, plan)?;
    }
    let mut run = plan(&strategy)?;
    if let Some(together) = &mut together {
        let told = together.plan(&pipeline, &request.shape, &strategy, machine.as_ref())?;
        run = told.unwrap_or(run);
    }
    pipeline.check_complete(&request.shape, &request.content)?;
    if request.content.latents.is_some() && args.seeds.as_slice().len() > 1 {
        return Err("--latents is the noise of every run, so several seeds make the same picture: name one seed".into());
    }
    if let Some(preview) = &preview {
        let shape = &request.shape;
        let beside = shape.num_images * shape.frames * shape.width;
        picture::check_size(&preview.file, beside, shape.height)?;
    }
    let default = || output::default_file("asyncdiff", &request, 1);
    let file = args.output.clone().unwrap_or_else(default);
    let jobs = jobs(&prompts, &args.seeds, request.shape.num_images, &file)?;
    let files = jobs.iter().flat_map(|job| &job.files);
    if output::is_stdout(&file) && files.clone().count() > 1 {
        return Err(format!(
            "standard output takes one picture or video, and these are {}: give a file name with -o",
            files.count()
        )
        .into());
    }
    // Only the first process writes.
    for path in files.filter(|_| leads) {
        output::check(path, &request, 1, args.force)?;
    }
    let ranks = run.plan.ranks.len();
    let workers = workers.map_or_else(|| setup::cpu_workers(&args.devices, ranks), Ok)?;
    let own = workers.iter().take(ranks);
    let mut devices: Vec<_> = own.map(|worker| worker.name().to_owned()).collect();
    devices.extend(together.iter().flat_map(Together::lent));
    let text = !quiet;
    let lines = Lines::beside(args.output.as_deref(), text);
    lines.print(format_args!("{}", heading(&run, &args.seeds)))?;
    match (chosen, named) {
        (true, Some(named)) => lines.print(format_args!(
            "{}; chosen for {named} devices",
            describe(&run)
        ))?,
        _ => lines.print(format_args!("{}", describe(&run)))?,
    }
    match processes.map_or(0, |processes| processes.saturating_sub(ranks)) {
        0 => {}
        1 => lines.print(format_args!("1 process rests: the plan is for {ranks}"))?,
        rest => lines.print(format_args!(
            "{rest} processes rest: the plan is for {ranks}"
        ))?,
    }
    lines.print(format_args!("devices {}", devices.join(", ")))?;

    pipeline.check_memory(&run, &request.content, workers.iter())?;
    let Some(mut session) = Maker::load(together, &pipeline, workers, &run)? else {
        return Ok(());
    };
    if let Some(wire) = session.wire() {
        lines.print(format_args!("{wire}"))?;
    }
    let model = model::name(args.sample.model.as_deref());
    let mut progress = Interruptible::new(Previewing::new(Bar::new(text), preview))?;
    let mut timings = Vec::with_capacity(jobs.len());
    for (index, job) in jobs.iter().enumerate() {
        let content = &mut request.content;
        job.prompt.clone_into(&mut content.prompt);
        content.seed = job.seed;
        let place = (index + 1, jobs.len());
        let previewer = session.previewer().heeding(progress.cancel());
        progress.inner().follow(previewer);
        let made = progress.watch(place, run.plan.calls, |progress| {
            session.generate(&run, content, progress)
        });
        if let Some(failure) = progress.inner().failure() {
            return Err(failure.into());
        }
        let made = made?;
        let texts: Vec<_> = (0..job.files.len())
            .map(|index| parameters(&run, content, args, index))
            .collect();
        output::write(&job.files, made.videos(), &request, &texts)?;
        timings.push(made.timings);
        print_job(lines, job, place, made.timings)?;
    }
    if args.printing.json {
        let Request { shape, content } = &request;
        let report = json!({
            "files": jobs.iter().flat_map(|job| &job.files).collect::<Vec<_>>(),
            "model": model,
            "loras": args.sample.lora,
            "motion_adapter": model::adapter_name(&args.sample, shape),
            "negative_prompt": content.negative_prompt,
            "prompt_weighting": content.prompt_weighting,
            "batch_noise": content.batch_noise,
            "steps": shape.steps,
            "guidance_scale": shape.guidance_scale,
            "width": shape.width,
            "height": shape.height,
            "frames": shape.frames,
            "fps": (shape.frames > 1).then_some(content.fps),
            "vae_tiling": content.vae_tiling,
            "strength": shape.start.strength(),
            "image_to_video": content.image_to_video.as_ref().map(|video| json!({
                "motion_bucket_id": video.motion_bucket_id,
                "noise_aug_strength": video.noise_aug_strength,
                "min_guidance_scale": shape.min_guidance_scale,
                "decode_chunk_size": video.decode_chunk_size,
            })),
            "scheduler": run.scheduler,
            "dtype": run.dtype,
            "devices": devices,
            "strategy": run.strategy,
            "summary": run.summary,
            "loaded_weight_bytes": session.loaded_bytes(),
            "seconds": seconds(&timings),
            "runs": jobs.iter().zip(&timings).map(|(job, timings)| json!({
                "prompt": job.prompt,
                "seed": job.seed,
                "files": job.files,
                "seconds": seconds(std::slice::from_ref(timings)),
            })).collect::<Vec<_>>(),
        });
        say!("{}", serde_json::to_string_pretty(&report)?)?;
    }
    session.finish()
}

fn print_job(lines: Lines, job: &Job<'_>, (number, jobs): Place, timings: Timings) -> Result<()> {
    if jobs > 1 {
        let prompt = match job.prompt {
            "" => String::new(),
            prompt => format!(", {prompt}"),
        };
        lines.print(format_args!(
            "run {number} of {jobs}: seed {}{prompt}",
            job.seed
        ))?;
    }
    lines.print(format_args!(
        "{:.2} s denoising, {:.2} s encoding, {:.2} s decoding",
        timings.denoise.as_secs_f64(),
        timings.encode.as_secs_f64(),
        timings.decode.as_secs_f64()
    ))?;
    for file in &job.files {
        lines.print(format_args!("wrote {}", file.display()))?;
    }
    Ok(())
}

/// What runs took together.
fn seconds(timings: &[Timings]) -> serde_json::Value {
    let total =
        |part: fn(&Timings) -> Duration| timings.iter().map(part).sum::<Duration>().as_secs_f64();
    json!({
        "encode": total(|timings| timings.encode),
        "denoise": total(|timings| timings.denoise),
        "decode": total(|timings| timings.decode),
    })
}
