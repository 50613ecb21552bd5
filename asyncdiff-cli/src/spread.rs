//! From the flags on how to spread a run to strategies.

use std::collections::BTreeMap;
use std::path::Path;

use asyncdiff_core::plan::{AsyncDiff, Copies, ThroughSegments};
use asyncdiff_core::{PlanError, quoted};
use asyncdiff_models::files::{self, MOST_BYTES_OF_TEXT};
use asyncdiff_models::{
    Error, MeasuredMachine, PartitionChoice, Run, Shape, Spread, StableDiffusion, Strategy, json,
};

use crate::args::{LookAhead, Spreading, Spreadings, Switch};
use crate::result::Result;

/// The strategy that the flags name; `None` where they leave it open. `devices` is how many are named, if any.
pub fn named(args: &Spreading, devices: Option<usize>) -> Result<Option<Strategy>> {
    let partition = args.common.partition.as_deref();
    let spread = match (args.look_ahead, args.segments, partition) {
        (Some(LookAhead::Ring), None, None) => Spread::Ring {
            warm_up: args.warm_up.unwrap_or(2),
            one_deep: args.guidance_split && devices == Some(3),
        },
        (Some(LookAhead::Copies(1)), None, None) => Spread::Whole,
        (Some(LookAhead::Copies(copies)), None, None) => copies_of(copies, args.warm_up),
        (Some(look_ahead), Some(segments), None) => through(look_ahead, segments, args.warm_up)?,
        (Some(_), _, Some(_)) => {
            return Err(
                "a look-ahead makes its own parts of the denoiser: leave out --partition".into(),
            );
        }
        (None, None, None) if args.guidance_split => Spread::Whole,
        (None, None, None) => {
            let of_segments = [
                ("--stride", args.stride.is_some()),
                ("--warm-up", args.warm_up.is_some()),
                ("--forecast", args.forecast.is_some()),
                ("--time-shift", args.common.time_shift),
            ];
            if let Some((flag, _)) = of_segments.into_iter().find(|(_, given)| *given) {
                return Err(format!(
                    "{flag} says how to run segments or a look-ahead: say which, with --segments or --look-ahead"
                )
                .into());
            }
            return Ok(None);
        }
        (None, segments, partition) => Spread::AsyncDiff {
            partition: choice(partition, segments)?,
            parameters: AsyncDiff {
                stride: args.stride.unwrap_or(1),
                warm_up: args.warm_up.unwrap_or(3),
                time_shift: args.common.time_shift,
                forecast: args.forecast.unwrap_or(0),
            },
        },
    };
    if !matches!(spread, Spread::AsyncDiff { .. }) {
        let only_segments = [
            ("--stride", args.stride.is_some()),
            ("--forecast", args.forecast.is_some()),
            ("--time-shift", args.common.time_shift),
        ];
        if let Some((flag, _)) = only_segments.into_iter().find(|(_, given)| *given) {
            return Err(
                format!("{flag} is for --segments without --look-ahead: leave it out").into(),
            );
        }
    }
    let strategy = Strategy::from(spread);
    Ok(Some(match args.guidance_split {
        true => strategy.split(),
        false => strategy,
    }))
}

/// Every combination that the lists name.
pub fn listed(args: &Spreadings) -> Result<Vec<Strategy>> {
    let warm_ups = |default: usize| match args.warm_up.is_empty() {
        true => vec![default],
        false => args.warm_up.clone(),
    };
    let mut spreads = Vec::new();
    for look_ahead in &args.look_ahead {
        if *look_ahead == LookAhead::Copies(1) {
            spreads.push(Spread::Whole);
            continue;
        }
        for warm_up in warm_ups(2) {
            spreads.push(match *look_ahead {
                LookAhead::Ring => Spread::Ring {
                    warm_up,
                    one_deep: false,
                },
                LookAhead::Copies(copies) => copies_of(copies, Some(warm_up)),
            });
        }
    }
    let partition = args.common.partition.as_deref();
    let mut segments: Vec<_> = args.segments.iter().copied().map(Some).collect();
    if segments.is_empty() && partition.is_some() {
        segments.push(None);
    }
    for segments in segments {
        let partition = choice(partition, segments)?;
        for &stride in &args.stride {
            for warm_up in warm_ups(3) {
                for &forecast in &args.forecast {
                    spreads.push(Spread::AsyncDiff {
                        partition: partition.clone(),
                        parameters: AsyncDiff {
                            stride,
                            warm_up,
                            time_shift: args.common.time_shift,
                            forecast,
                        },
                    });
                }
            }
        }
    }
    if spreads.is_empty() && args.guidance_split.contains(&Switch::On) {
        spreads.push(Spread::Whole);
    }
    let mut strategies = Vec::new();
    for spread in spreads {
        for switch in &args.guidance_split {
            let strategy = Strategy::from(spread.clone());
            let strategy = match switch {
                Switch::On => strategy.split(),
                Switch::Off => strategy,
            };
            // The sequential run is there anyway.
            if !strategy.is_sequential() && !strategies.contains(&strategy) {
                strategies.push(strategy);
            }
        }
    }
    Ok(strategies)
}

/// Lowers a strategy's warm-up, which nobody has named, where a run has too few denoiser calls for it, to as many as leave one
/// for the rest; says so unless `quiet`. Other errors are for whoever plans it.
pub fn fit_warm_up(
    strategy: &mut Strategy,
    quiet: bool,
    plan: impl Fn(&Strategy) -> std::result::Result<Run, Error>,
) -> Result<()> {
    let (least, calls) = match plan(strategy) {
        Err(Error::Plan(PlanError::WarmUp { calls, .. })) => (1, calls),
        Err(Error::Plan(PlanError::LookAheadWarmUp { least, calls, .. })) => (least, calls),
        _ => return Ok(()),
    };
    let Some(warm_up) = warm_up(&mut strategy.spread) else {
        return Ok(());
    };
    let lowered = calls.saturating_sub(1).max(least);
    if !quiet {
        complain!(
            "note: with {calls} denoiser calls, the warm-up is {lowered} in place of {warm_up}"
        );
    }
    *warm_up = lowered;
    Ok(())
}

fn warm_up(spread: &mut Spread) -> Option<&mut usize> {
    match spread {
        Spread::Whole => None,
        Spread::Ring { warm_up, .. } => Some(warm_up),
        Spread::Copies(copies) => Some(&mut copies.warm_up),
        Spread::ThroughSegments { parameters, .. } => Some(&mut parameters.warm_up),
        Spread::AsyncDiff { parameters, .. } => Some(&mut parameters.warm_up),
    }
}

/// The strategy that the program chooses for that many devices.
pub fn chosen(
    pipeline: &StableDiffusion,
    measured: Option<&MeasuredMachine>,
    shape: &Shape,
    args: &crate::args::Choice,
    devices: usize,
) -> Result<Strategy> {
    let memory = args.memory.map(|memory| memory.0);
    let choices = pipeline.choices(measured, shape, devices, args.prefer, memory)?;
    Ok(choices.chosen()?.strategy.clone())
}

fn copies_of(copies: usize, warm_up: Option<usize>) -> Spread {
    let default = Copies::new(copies);
    Spread::Copies(Copies {
        warm_up: warm_up.unwrap_or(default.warm_up),
        ..default
    })
}

/// As many calls under way as there are segments.
fn through(look_ahead: LookAhead, segments: usize, warm_up: Option<usize>) -> Result<Spread> {
    if look_ahead != LookAhead::Copies(segments) {
        return Err(format!(
            "through {segments} segments go {segments} calls at once: say --look-ahead {segments} with --segments {segments}, or leave out one of both"
        )
        .into());
    }
    let default = ThroughSegments::new(segments);
    Ok(Spread::ThroughSegments {
        segments,
        parameters: ThroughSegments {
            warm_up: warm_up.unwrap_or(default.warm_up),
            ..default
        },
    })
}

/// What `--partition` and `--segments` mean.
fn choice(name: Option<&str>, segments: Option<usize>) -> Result<PartitionChoice> {
    let count = segments.unwrap_or(2);
    let file = match name {
        None | Some("published") => return Ok(PartitionChoice::Published(count)),
        Some("balanced") => return Ok(PartitionChoice::Balanced(count)),
        Some(file) => file,
    };
    let text = files::read(Path::new(file), MOST_BYTES_OF_TEXT).map_err(|error| {
        format!(
            "cannot read the partition {file}: {error}; use published, balanced, or a JSON file"
        )
    })?;
    let map: BTreeMap<String, usize> = json::from_slice(&text).map_err(|error| {
        let reason = error.to_string();
        let reason = quoted(&reason);
        format!("{file} is no map of block names to segment numbers: {reason}; correct it, or use published or balanced")
    })?;
    let found = map.values().max().map_or(0, |last| last.saturating_add(1));
    match segments {
        Some(asked) if asked != found => Err(format!(
            "the partition {file} has {found} segments, not {asked}: leave out --segments, or change the file"
        )
        .into()),
        _ => Ok(PartitionChoice::Map(map)),
    }
}
