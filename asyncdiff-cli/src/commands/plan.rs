//! `asyncdiff plan`

use asyncdiff_core::{Machine, simulate, timeline};
use asyncdiff_media::file;
use asyncdiff_models::Run;
use serde_json::json;

use crate::args::Plan;
use crate::setup::{self, Result};
use crate::words::{bytes, describe, heading};

pub fn run(args: &Plan) -> Result<()> {
    let pipeline = setup::pipeline(&args.sample, args.printing.quiet || args.printing.json)?;
    let request = setup::request(&pipeline, &args.sample, args.seed.seed, None)?;
    let strategy = setup::strategy(&args.strategy, args.segments, 2)?;
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
