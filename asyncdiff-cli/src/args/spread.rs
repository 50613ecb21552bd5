//! How a run is to be spread.

use std::path::PathBuf;
use std::str::FromStr;

use asyncdiff_core::choice::Preference;
use clap::Args;

/// One way to spread a run; where nothing is said, the program chooses.
#[derive(Debug, Args)]
pub struct Spreading {
    /// Compute the negative and the positive prompt's half of the batch on devices of their own: twice the devices, half the
    /// time, the same picture within rounding [default: chosen for the devices]
    #[arg(long)]
    pub guidance_split: bool,
    /// Evaluate denoiser calls ahead of time on predicted latents: ring (two devices; three with --guidance-split on three),
    /// or a number of copies, each on a device of its own; with --segments N, N calls under way through N segments
    /// [default: chosen for the devices]
    #[arg(long, value_name = "ring|N")]
    pub look_ahead: Option<LookAhead>,
    /// Segments of the denoiser, each on a device of its own: the published method, where --look-ahead says nothing else
    /// [default: none]
    #[arg(long, value_name = "N")]
    pub segments: Option<usize>,
    /// Denoiser calls that one parallel round of segments advances, 1 or 2; 2 needs one device more [default: 1]
    #[arg(long, value_name = "N")]
    pub stride: Option<usize>,
    /// Denoiser calls that are run first with every input fresh [default: 3 for segments, 2 for look-ahead]
    #[arg(long, value_name = "N")]
    pub warm_up: Option<usize>,
    /// How values of other segments are carried to the present: 0 reuses them (as published), 1 extrapolates [default: 0]
    #[arg(long, value_name = "N")]
    pub forecast: Option<usize>,
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub choice: Choice,
}

/// Ways to spread a run, every combination of the lists.
#[derive(Debug, Args)]
pub struct Spreadings {
    /// Whether the halves of the guidance batch are computed on devices of their own: off, on, or both
    #[arg(
        long,
        value_name = "on|off,…",
        value_delimiter = ',',
        default_value = "off"
    )]
    pub guidance_split: Vec<Switch>,
    /// Look-ahead: ring, numbers of copies, or several; 1 is the denoiser as a whole [default: none]
    #[arg(long, value_name = "ring|N,…", value_delimiter = ',')]
    pub look_ahead: Vec<LookAhead>,
    /// Segments of the published method, one or several numbers [default: none, or those of the partition file]
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    pub segments: Vec<usize>,
    /// Denoiser calls that one parallel round of segments advances, 1 or 2, one or both
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1")]
    pub stride: Vec<usize>,
    /// Denoiser calls that are run first with every input fresh, one or several numbers [default: 3 for segments, 2 for
    /// look-ahead]
    #[arg(long, value_name = "N,…", value_delimiter = ',')]
    pub warm_up: Vec<usize>,
    /// How values of other segments are carried to the present: 0 reuses them, 1 extrapolates; one or both
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "0")]
    pub forecast: Vec<usize>,
    #[command(flatten)]
    pub common: Common,
    #[command(flatten)]
    pub choice: Choice,
}

#[derive(Debug, Args)]
pub struct Common {
    /// After the warm-up of segments, let the time embedding lag by one call [default: off]
    #[arg(long)]
    pub time_shift: bool,
    /// Partition of segments: published, balanced, or a JSON file such as {"conv_in": 0, "down_blocks": 0, "mid_block": 1, …}
    /// [default: published]
    #[arg(long, value_name = "NAME|FILE")]
    pub partition: Option<String>,
}

/// What the program's choice goes by.
#[derive(Debug, Args)]
pub struct Choice {
    /// Which of two plans is chosen: likeness takes the one that is more alike to the sequential run, speed the sooner one
    #[arg(long, value_name = "likeness|speed", default_value_t)]
    pub prefer: Preference,
    /// Memory of each device for the denoiser's weights and activations, as 8GiB or 900MiB: plans that need more are not chosen
    /// [default: enough]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<Memory>,
    /// What `asyncdiff measure` has written for this model, size and type: work is balanced by it [default: multiply-adds
    /// count]
    #[arg(long, value_name = "FILE")]
    pub machine: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    On,
    Off,
}

impl FromStr for Switch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "on" => Ok(Switch::On),
            "off" => Ok(Switch::Off),
            other => Err(format!("{other:?} is neither on nor off")),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LookAhead {
    Ring,
    Copies(usize),
}

impl FromStr for LookAhead {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.parse()) {
            ("ring", _) => Ok(LookAhead::Ring),
            (_, Ok(copies @ 1..)) => Ok(LookAhead::Copies(copies)),
            (other, _) => Err(format!(
                "{other:?} is no look-ahead: use ring, or a number of copies from 1 on"
            )),
        }
    }
}

/// Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory(pub u64);

impl FromStr for Memory {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
        let unit: u64 = match &text[digits.len()..] {
            "GiB" | "G" => 1 << 30,
            "MiB" | "M" => 1 << 20,
            "GB" => 1_000_000_000,
            "MB" => 1_000_000,
            _ => 0,
        };
        match digits.parse::<f64>() {
            Ok(count) if unit > 0 && count > 0.0 && count < 1e9 => {
                Ok(Self((count * unit as f64) as u64))
            }
            _ => Err(format!(
                "{text:?} is no size: give a number and a unit, as 8GiB or 900MiB"
            )),
        }
    }
}
