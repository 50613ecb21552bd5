//! How alike to the sequential run every way to spread a run is: mean and worst PSNR over prompts, beside the sequential run
//! of fewer steps that would be done in the same time, as a Markdown table. On the embedded model; times do not enter.
//!
//! `cargo run --release -p benches --example plans -- [PROMPTS [SCHEDULER:STEPS,… [PART OF A PLAN'S NAME]]]`

use std::collections::HashMap;
use std::sync::Arc;

use asyncdiff_core::plan::AsyncDiff;
use asyncdiff_models::device::workers;
use asyncdiff_models::quality::psnr_of_samples;
use asyncdiff_models::{
    Checkpoint, Content, PartitionChoice, Run, Session, Spread, StableDiffusion, Strategy,
};

type Failure = Box<dyn std::error::Error>;

const PROMPTS: [&str; 8] = [
    "red apple, fluent style",
    "rocket, fluent style",
    "penguin, flat style",
    "pizza, fluent style",
    "octopus, flat style",
    "rainbow, fluent style",
    "hot beverage, fluent style",
    "owl, flat style",
];

const CELLS: &str = "ddim:50,dpmpp-2m:20,dpmpp-2m:25,dpmpp-2m-karras:20,unipc:20,euler:30";

/// The ways to spread a run that are judged, and their names in the table.
fn strategies() -> Vec<(String, Strategy)> {
    let asyncdiff = |forecast| Spread::AsyncDiff {
        partition: PartitionChoice::Balanced(2),
        parameters: AsyncDiff {
            forecast,
            ..AsyncDiff::default()
        },
    };
    let mut all = vec![
        ("guidance split".to_owned(), Strategy::sequential().split()),
        ("ring".to_owned(), Spread::ring().into()),
    ];
    let one_deep = Spread::Ring {
        warm_up: 2,
        one_deep: true,
    };
    all.push((
        "split x ring, 3 ranks".to_owned(),
        Strategy::from(one_deep).split(),
    ));
    all.extend((2..=4).map(|n| (format!("{n} copies"), Spread::copies(n).into())));
    all.extend((2..=4).map(|n| {
        (
            format!("through {n} segments"),
            Spread::through_segments(n).into(),
        )
    }));
    all.extend((0..=1).map(|f| (format!("AsyncDiff n=2, forecast {f}"), asyncdiff(f).into())));
    all
}

/// Mean and worst PSNR of runs against references, in dB.
fn likeness(found: &[Vec<f32>], exact: &[Vec<f32>]) -> Result<(f64, f64), Failure> {
    let pairs = found.iter().zip(exact);
    let each: Vec<f64> = pairs
        .map(|(found, exact)| psnr_of_samples(found, exact))
        .collect::<Result<_, _>>()?;
    let mean = each.iter().sum::<f64>() / each.len() as f64;
    Ok((mean, each.into_iter().fold(f64::INFINITY, f64::min)))
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let count = arguments
        .next()
        .map_or(Ok(PROMPTS.len()), |count| count.parse())?;
    let cells = arguments.next().unwrap_or_else(|| CELLS.to_owned());
    let wanted = arguments.next().unwrap_or_default();
    let pipeline = Arc::new(StableDiffusion::open(Checkpoint::embedded())?);
    let contents: Vec<Content> = PROMPTS
        .iter()
        .take(count)
        .enumerate()
        .map(|(seed, prompt)| {
            let mut content = pipeline.content(*prompt);
            content.seed = seed as u64;
            content
        })
        .collect();
    let mut session = Session::new(&pipeline, workers("cpu:4", None)?)?;
    let mut pictures = |run: &Run| -> Result<Vec<Vec<f32>>, Failure> {
        let made = contents
            .iter()
            .map(|content| session.generate(run, content, &mut ()));
        Ok(made
            .map(|output| output.map(|output| output.samples))
            .collect::<Result<_, _>>()?)
    };

    println!(
        "| scheduler, steps | plan | ranks | ideal | mean dB | worst dB | fewer steps | mean dB | worst dB |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for cell in cells.split(',') {
        let (scheduler, steps) = cell.split_once(':').ok_or("a cell is SCHEDULER:STEPS")?;
        let steps: usize = steps.parse()?;
        let shape = |steps| {
            let mut shape = pipeline.shape();
            shape.steps = steps;
            shape.scheduler = Some(scheduler.to_owned());
            shape
        };
        let sequential = pipeline.plan(&shape(steps), &Strategy::sequential())?;
        let exact = pictures(&sequential)?;
        let mut of_fewer = HashMap::new();
        let strategies = strategies().into_iter();
        for (name, strategy) in strategies.filter(|(name, _)| name.contains(&wanted)) {
            let run = pipeline.plan(&shape(steps), &strategy)?;
            let (mean, worst) = likeness(&pictures(&run)?, &exact)?;
            let ideal = run.summary.ideal_speed_up;
            let fewer = (steps as f64 / ideal).round() as usize;
            let (fewer_mean, fewer_worst) = match of_fewer.get(&fewer) {
                Some(known) => *known,
                None => {
                    let run = pipeline.plan(&shape(fewer), &Strategy::sequential())?;
                    let judged = likeness(&pictures(&run)?, &exact)?;
                    of_fewer.insert(fewer, judged);
                    judged
                }
            };
            println!(
                "| {scheduler} {steps} | {name} | {} | {ideal:.2} | {mean:.1} | {worst:.1} | {fewer} | {fewer_mean:.1} | {fewer_worst:.1} |",
                run.plan.ranks.len()
            );
        }
    }
    Ok(())
}
