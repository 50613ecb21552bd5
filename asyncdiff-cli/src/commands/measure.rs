//! `asyncdiff measure`

use asyncdiff_media::file;
use asyncdiff_models::{MeasuredMachine, Session};

use crate::args::Measure;
use crate::setup::{self, Result};

pub fn run(args: &Measure) -> Result<()> {
    if let Some(path) = &args.output {
        file::check_path(path)?;
    }
    let pipeline = setup::pipeline(&args.sample, args.quiet)?;
    let request = setup::request(&pipeline, &args.sample, 0, None)?;
    let workers = setup::named_devices(&args.devices)?
        .map_or_else(|| setup::cpu_workers(&args.devices, 1), Ok)?;
    let mut session = Session::new(&pipeline, workers)?;
    let measured = session.measure(&request.shape, args.repeat.into())?;
    let text = serde_json::to_string_pretty(&measured)?;
    match &args.output {
        Some(path) => {
            file::write_whole(path, format!("{text}\n").as_bytes())?;
            if !args.quiet {
                say!("{}", words(&measured))?;
                say!("wrote {}", path.display())?;
            }
        }
        None => say!("{text}")?,
    }
    Ok(())
}

/// The machine in a line or two.
fn words(measured: &MeasuredMachine) -> String {
    let machine = &measured.machine;
    let call: f64 = machine.block_time.iter().sum();
    let mut text = format!(
        "{} blocks, {:.1} ms for a denoiser call on {}",
        measured.blocks.len(),
        1e3 * call,
        measured.devices[0]
    );
    if measured.guided {
        let half: f64 = machine.half_time.iter().sum();
        text += &format!(", {:.1} ms for half of the guidance batch", 1e3 * half);
    }
    for (device, speed) in measured.devices.iter().zip(&machine.speed).skip(1) {
        text += &format!("\n{device} is {speed:.2} times as fast");
    }
    if measured.devices.len() > 1 {
        text += &format!(
            "\na message takes {:.1} µs, and its bytes go at {:.2} GB/s",
            1e6 * machine.latency,
            machine.bandwidth / 1e9
        );
    }
    text
}
