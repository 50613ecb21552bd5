//! `asyncdiff info`

use asyncdiff_models::{Description, PartDescription};
use serde_json::json;

use crate::args::Info;
use crate::model;
use crate::setup::Result;
use crate::words::bytes;

pub fn run(args: &Info) -> Result<()> {
    let name = args.model.as_deref();
    let description = model::open(name, &args.files, args.json)?.describe()?;
    if args.json {
        let report = json!({ "model": model::name(name), "description": description });
        say!("{}", serde_json::to_string_pretty(&report)?)?;
        return Ok(());
    }
    say!("model      {}", model::name(name))?;
    print(&description)
}

fn print(it: &Description) -> Result<()> {
    let [channels, height, width] = it.latents;
    say!("class      {}", it.class)?;
    let what = match it.frames {
        1 => "picture    ".to_owned(),
        frames => format!("video      {frames} frames of "),
    };
    say!(
        "{what}{}x{} pixels, latents {channels}x{height}x{width}",
        it.width,
        it.height
    )?;
    say!(
        "scheduler  {}, the denoiser predicts {}{}",
        it.scheduler,
        it.prediction_type,
        if it.reads_mask {
            " and reads a mask, for inpainting"
        } else {
            ""
        }
    )?;
    say!(
        "defaults   {} steps, guidance scale {}",
        it.steps,
        it.guidance_scale
    )?;
    for text in &it.text_encoders {
        say!(
            "text       {}: {} tokens of {}, {} layers, {} features",
            text.folder,
            text.tokens,
            text.vocabulary,
            text.layers,
            text.features
        )?;
    }

    say!("\n{:<16} {:>13}  stored as", "part", "parameters")?;
    for part in &it.parts {
        say!(
            "{:<16} {:>13}  {}",
            part.folder,
            part.parameters,
            dtypes(part)
        )?;
    }

    say!(
        "\n{:>8}  {:<9}  {:>14}  {:<22}  weights on each device",
        "segments",
        "partition",
        "ideal speed-up",
        "shares of the work"
    )?;
    for way in &it.partitions {
        let shares = way
            .macs_shares
            .iter()
            .map(|share| format!("{:.0} %", 100.0 * share));
        let weights = way.weight_bytes.iter().map(|count| bytes(*count as f64));
        say!(
            "{:>8}  {:<9}  {:>14.2}  {:<22}  {}",
            way.segments,
            way.partition,
            way.ideal_speed_up,
            join(shares),
            join(weights)
        )?;
    }
    Ok(())
}

/// `F16`, or with several types how many weights each has.
fn dtypes(part: &PartDescription) -> String {
    match part.stored.len() {
        1 => join(part.stored.keys().cloned()),
        _ => join(
            part.stored
                .iter()
                .map(|(dtype, count)| format!("{dtype} ({count})")),
        ),
    }
}

fn join(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}
