//! `asyncdiff plan`

use std::fmt::Display;

use asyncdiff_core::{Machine, simulate, timeline};
use asyncdiff_media::file;
use asyncdiff_models::{Run, StartFrom};
use serde_json::json;

use super::generate::strategy;
use crate::args::Plan;
use crate::setup::{self, Result};

pub fn run(args: &Plan) -> Result<()> {
    let pipeline = setup::pipeline(&args.sample, args.printing.quiet || args.printing.json)?;
    let request = setup::request(&pipeline, &args.sample, args.seed.seed, None)?;
    let strategy = strategy(&args.strategy, args.segments, 2)?;
    let run = pipeline.plan(&request.shape, &strategy)?;
    pipeline.check(&request.shape, &request.content)?;
    if let Some(path) = &args.svg {
        let simulation = simulate(&run.plan, &run.graph, &Machine::ideal(&run.graph));
        let drawing = timeline::svg(&run.plan, &run.graph, &simulation);
        file::write_whole(path, drawing.as_bytes())?;
    }
    if args.printing.json {
        let report = json!({
            "graph": run.graph,
            "schedule": run.schedule,
            "dtype": run.dtype,
            "summary": run.summary,
            "plan": run.plan,
        });
        say!("{}", serde_json::to_string(&report)?)?;
    } else if !args.printing.quiet {
        say!("{}", heading(&run, &args.seed.seed))?;
        say!("{}", describe(&run))?;
        print_tables(&run)?;
        if let Some(path) = &args.svg {
            say!("\nwrote {}", path.display())?;
        }
    }
    Ok(())
}

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

fn print_tables(run: &Run) -> Result<()> {
    let summary = &run.summary;
    say!("\nrank  role                        share of work     weights  activations  blocks")?;
    for (rank, part) in summary.ranks.iter().enumerate() {
        say!(
            "{rank:>4}  {:<26}  {:>11.1} %  {:>10}  {:>11}  {} blocks: {}",
            part.role.to_string(),
            100.0 * part.macs_share,
            bytes(part.weight_bytes as f64),
            bytes(part.activation_bytes as f64),
            part.blocks.len(),
            ranges(&run.plan.blocks[rank], run)
        )?;
    }
    if !summary.edges.is_empty() {
        say!("\nstaleness     ranks        size  value -> reader")?;
    }
    for edge in &summary.edges {
        let ages: Vec<_> = edge.staleness.iter().map(usize::to_string).collect();
        say!(
            "{:>9}  {:>2} -> {:<2}  {:>10}  {} -> {}",
            if edge.ahead {
                "ahead".to_owned()
            } else {
                ages.join(", ")
            },
            edge.from_rank,
            edge.to_rank,
            bytes(edge.bytes as f64),
            edge.from,
            edge.to
        )?;
    }
    say!(
        "\n{} moved per denoiser call, ideal speed-up {:.2} over the whole run, warm-up included, {:.0} % of the ranks' time idle",
        bytes(summary.bytes_per_call),
        summary.ideal_speed_up,
        100.0 * summary.idle_share
    )?;
    Ok(())
}

/// Runs of neighbouring blocks, by their first and last names.
fn ranges(blocks: &[asyncdiff_core::BlockId], run: &Run) -> String {
    blocks
        .chunk_by(|before, after| before.0 + 1 == after.0)
        .map(|range| {
            let name = |id: &asyncdiff_core::BlockId| run.graph.block(*id).name.as_str();
            match range {
                [only] => name(only).to_owned(),
                [first, .., last] => format!("{} … {}", name(first), name(last)),
                [] => String::new(),
            }
        })
        .collect::<Vec<_>>()
        .join(", ")
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
