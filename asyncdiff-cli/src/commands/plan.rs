//! `asyncdiff plan`

use asyncdiff_core::{Machine, simulate, timeline};
use asyncdiff_models::{Request, Run, Strategy};
use serde_json::json;

use super::generate::strategy;
use crate::args::Plan;
use crate::setup::{self, Result};

pub fn run(args: &Plan) -> Result<()> {
    let pipeline = setup::open(&args.sample)?;
    let request = setup::request(&pipeline, &args.sample, None)?;
    let strategy = strategy(&args.strategy, args.segments)?;
    let run = pipeline.plan(&request, &strategy)?;
    if let Some(path) = &args.svg {
        let simulation = simulate(&run.plan, &run.graph, &Machine::ideal(&run.graph));
        std::fs::write(path, timeline::svg(&run.plan, &run.graph, &simulation))
            .map_err(|error| format!("cannot write {}: {error}", path.display()))?;
    }
    if args.printing.json {
        let report = json!({
            "graph": run.graph,
            "schedule": run.schedule,
            "summary": run.summary,
            "plan": run.plan,
        });
        println!("{}", serde_json::to_string(&report)?);
    } else if !args.printing.quiet {
        println!("{}", heading(&request, &run));
        println!("{}", describe(&run, &strategy));
        print_tables(&run);
        if let Some(path) = &args.svg {
            println!("\nwrote {}", path.display());
        }
    }
    Ok(())
}

/// One line on what is to be made.
pub fn heading(request: &Request, run: &Run) -> String {
    let [batch, channels, height, width] = run.graph.latents;
    format!(
        "{}x{} pixels, latents {batch}x{channels}x{height}x{width}, {} steps of {} ({} denoiser calls), guidance scale {}, seed {}",
        request.width,
        request.height,
        request.steps,
        run.scheduler,
        run.plan.calls,
        request.guidance_scale,
        request.seed
    )
}

/// One line on how it is spread.
pub fn describe(run: &Run, strategy: &Strategy) -> String {
    let Some(asyncdiff) = &run.plan.strategy else {
        return "sequential: 1 segment on 1 device".to_owned();
    };
    format!(
        "asynchronous: {} segments on {} devices, stride {}, warm-up {}, time shift {}, forecast {}, {} partition, ideal speed-up {:.2}",
        strategy.segments,
        run.plan.ranks.len(),
        asyncdiff.stride,
        asyncdiff.warm_up,
        if asyncdiff.time_shift { "on" } else { "off" },
        asyncdiff.forecast,
        if run.fell_back {
            "balanced (no published one fits this denoiser)"
        } else {
            strategy.partition.name()
        },
        run.summary.ideal_speed_up
    )
}

fn print_tables(run: &Run) {
    let summary = &run.summary;
    println!("\nrank  share of work   weights  blocks");
    for (rank, part) in summary.ranks.iter().enumerate() {
        println!(
            "{rank:>4}  {:>11.1} %  {:>8}  {} blocks: {}",
            100.0 * part.macs_share,
            bytes(part.weight_bytes as f64),
            part.blocks.len(),
            ranges(&run.plan.blocks[rank], run)
        );
    }
    if !summary.edges.is_empty() {
        println!("\nstaleness  segment      size  value -> reader");
    }
    for edge in &summary.edges {
        let ages: Vec<_> = edge.staleness.iter().map(usize::to_string).collect();
        println!(
            "{:>9}  {} -> {}  {:>10}  {} -> {}",
            ages.join(", "),
            edge.from_segment,
            edge.to_segment,
            bytes(edge.bytes as f64),
            edge.from,
            edge.to
        );
    }
    println!(
        "\n{} moved per denoiser call, ideal speed-up {:.2} over the whole run, warm-up included, {:.0} % of the ranks' time idle",
        bytes(summary.bytes_per_call),
        summary.ideal_speed_up,
        100.0 * summary.idle_share
    );
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
fn bytes(count: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB"];
    let power = (count.max(1.0).log2() / 10.0).floor().min(3.0);
    format!(
        "{:.1} {}",
        count / 1024_f64.powf(power),
        units[power as usize]
    )
}
