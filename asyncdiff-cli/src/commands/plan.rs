//! `asyncdiff plan`

use asyncdiff_core::summary::RankSummary;
use asyncdiff_core::{Machine, simulate, timeline};
use asyncdiff_media::file;
use asyncdiff_models::{Error, MeasuredMachine, Request, Run, StableDiffusion, Strategy};
use serde_json::json;

use crate::args::Plan;
use crate::setup::{self, Result};
use crate::spread;
use crate::words::{bytes, describe, heading};

pub fn run(args: &Plan) -> Result<()> {
    let pipeline = setup::pipeline(&args.sample, args.printing.quiet || args.printing.json)?;
    let request = setup::request(&pipeline, &args.sample, args.seed.seed, None)?;
    let measured = setup::machine(args.spreading.choice.machine.as_deref())?;
    let devices = setup::count_devices(&args.devices)?;
    let Some(mut strategy) = spread::named(&args.spreading, devices)? else {
        return table(args, &pipeline, measured.as_ref(), &request, devices);
    };
    let plan = |strategy: &Strategy| pipeline.plan_on(measured.as_ref(), &request.shape, strategy);
    if args.spreading.warm_up.is_none() {
        spread::fit_warm_up(&mut strategy, args.printing.quiet, plan)?;
    }
    let run = plan(&strategy)?;
    pipeline.check(&request.shape, &request.content)?;
    let needed = run.plan.ranks.len();
    if let Some(found) = devices.filter(|found| *found < needed) {
        return Err(Error::NotEnoughWorkers { needed, found }.into());
    }
    let ideal = Machine::ideal(&run.graph);
    let machine = measured
        .as_ref()
        .map_or(&ideal, |measured| &measured.machine);
    let simulation = simulate(&run.plan, &run.graph, machine);
    let seconds = measured.as_ref().map(|_| simulation.makespan);
    if let Some(path) = &args.svg {
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
            "seconds": seconds,
        });
        say!("{}", serde_json::to_string(&report)?)?;
    } else if !args.printing.quiet {
        say!("{}", heading(&run, &args.seed.seed))?;
        say!("{}", describe(&run))?;
        print_tables(&run)?;
        if let Some(seconds) = seconds {
            say!("{seconds:.3} s of denoising expected on the measured machine")?;
        }
        if let Some(path) = &args.svg {
            say!("\nwrote {}", path.display())?;
        }
    }
    Ok(())
}

/// The ways to use the devices, or four of them if none are named, and the one that is chosen.
fn table(
    args: &Plan,
    pipeline: &StableDiffusion,
    machine: Option<&MeasuredMachine>,
    request: &Request,
    devices: Option<usize>,
) -> Result<()> {
    if args.svg.is_some() {
        return Err(
            "--svg draws one plan: say which, with --guidance-split, --look-ahead or --segments"
                .into(),
        );
    }
    let choice = &args.spreading.choice;
    let memory = choice.memory.map(|memory| memory.0);
    let (shape, devices) = (&request.shape, devices.unwrap_or(4));
    pipeline.check(shape, &request.content)?;
    let choices = pipeline.choices(machine, shape, devices, choice.prefer, memory)?;
    let chosen = choices.chosen()?;
    if args.printing.json {
        let report = json!({
            "devices": devices,
            "plans": choices.candidates,
            "chosen": chosen.strategy,
        });
        say!("{}", serde_json::to_string(&report)?)?;
        return Ok(());
    }
    if args.printing.quiet {
        return Ok(());
    }
    let run = pipeline.plan_on(machine, shape, &chosen.strategy)?;
    say!("{}", heading(&run, &args.seed.seed))?;
    say!(
        "\n  {:<52} {:>5} {:>8} {:>13} {:>16} {:>20}",
        "plan",
        "ranks",
        "sooner",
        "bytes a call",
        "weights a rank",
        "activations a rank"
    )?;
    for one in &choices.candidates {
        let most = |part: fn(&RankSummary) -> u64| {
            let ranks = one.summary.ranks.iter().map(part);
            bytes(ranks.max().unwrap_or(0) as f64)
        };
        let mark = if std::ptr::eq(one, chosen) { '*' } else { ' ' };
        let note = if one.fits { "" } else { "  does not fit" };
        say!(
            "{mark} {:<52} {:>5} {:>8.2} {:>13} {:>16} {:>20}{note}",
            one.strategy.to_string(),
            one.plan.ranks.len(),
            one.speed_up,
            bytes(one.summary.bytes_per_call),
            most(|rank| rank.weight_bytes),
            most(|rank| rank.activation_bytes)
        )?;
    }
    say!(
        "\n* is chosen for {devices} devices and --prefer {}; weights and activations are those of the largest rank",
        choice.prefer
    )?;
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
