//! `asyncdiff info`

use std::collections::BTreeMap;

use asyncdiff_models::{Description, Dtype, MotionAdapterDescription};
use serde_json::json;

use crate::args::Info;
use crate::model::{self, MotionSource};
use crate::setup::Result;
use crate::words::bytes;

pub fn run(args: &Info) -> Result<()> {
    let name = args.model.as_deref();
    let pipeline = model::open(name, &args.files, args.json)?.with_dtype(args.dtype);
    let description = pipeline.describe()?;
    let adapter = match name {
        Some(_) => None,
        None => Some(model::open_adapter(MotionSource::Embedded, args.json)?.describe()?),
    };
    if args.json {
        let report = json!({
            "model": model::name(name),
            "dtype": args.dtype,
            "description": description,
            "motion_adapter": adapter,
        });
        say!("{}", serde_json::to_string_pretty(&report)?)?;
        return Ok(());
    }
    say!("model      {}", model::name(name))?;
    print(&description, adapter.as_ref(), args.dtype)
}

fn print(it: &Description, adapter: Option<&MotionAdapterDescription>, dtype: Dtype) -> Result<()> {
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

    if let Some(adapter) = adapter {
        say!(
            "videos     up to {} frames (--frames), with the motion adapter that is built in",
            adapter.most_frames
        )?;
    }

    say!("\n{:<16} {:>13}  stored as", "part", "parameters")?;
    let parts = it.parts.iter();
    let parts = parts.map(|part| (part.folder.as_str(), part.parameters, &part.stored));
    let adapter = adapter.map(|it| ("motion_adapter", it.parameters, &it.stored));
    for (name, parameters, stored) in parts.chain(adapter) {
        say!("{name:<16} {parameters:>13}  {}", dtypes(stored))?;
    }

    say!(
        "\n{:>8}  {:<9}  {:>14}  {:<22}  weights on each device, in {dtype}",
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
fn dtypes(stored: &BTreeMap<String, u64>) -> String {
    match stored.len() {
        1 => join(stored.keys().cloned()),
        _ => join(
            stored
                .iter()
                .map(|(dtype, count)| format!("{dtype} ({count})")),
        ),
    }
}

fn join(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}
