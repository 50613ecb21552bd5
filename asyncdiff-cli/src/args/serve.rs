//! The flags of the service.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;

use asyncdiff_models::Dtype;
use clap::Args;

use super::ModelFiles;
use super::spread::{Choice, Memory};

/// What a service is to do, and for whom.
#[derive(Debug, Args)]
pub struct Serve {
    /// Address to listen at. Beyond this machine, with a key only
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:7860", value_parser = address)]
    pub listen: SocketAddr,
    /// Model: a folder in diffusers layout, a .safetensors checkpoint, or a Hub id such as org/name; may be given several times.
    /// The first is taken where a request names none [default: the embedded emoji model, or the first of --models-dir]
    #[arg(long, value_name = "MODEL")]
    pub model: Vec<PathBuf>,
    /// Folder whose models, folders in diffusers layout and .safetensors checkpoints, requests may name [default: none]
    #[arg(long, value_name = "DIR")]
    pub models_dir: Option<PathBuf>,
    /// Another name of the first model, such as dall-e-3, for clients that let nobody choose; may be given several times
    /// [default: none]
    #[arg(long, value_name = "NAME")]
    pub model_alias: Vec<String>,
    /// Folder whose LoRAs, .safetensors files, prompts may name, as in <lora:NAME:0.8> [default: none]
    #[arg(long, value_name = "DIR")]
    pub loras_dir: Option<PathBuf>,
    /// Motion adapter (AnimateDiff) of the first model, a folder or a Hub id [default: none; the embedded model has its own]
    #[arg(long, value_name = "DIR|ID")]
    pub motion_adapter: Option<PathBuf>,
    #[command(flatten)]
    pub files: ModelFiles,
    /// Type that denoisers and text encoders compute in: f32, f16, bf16
    #[arg(long, value_name = "TYPE", default_value_t)]
    pub dtype: Dtype,
    /// Devices that make a picture together, as cpu, cpu:2, cuda:0,1; may be given several times, for pictures at the same
    /// time
    #[arg(long, value_name = "NAMES", default_value = "cpu")]
    pub devices: Vec<String>,
    /// CPU threads, shared out among the CPU workers of one --devices [default: all cores]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    #[command(flatten)]
    pub choice: Choice,
    /// Models, or models with LoRAs, that stay loaded on the devices at the same time
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub loaded: usize,
    /// Decode pictures that are larger than the model's in overlapping tiles: needs less memory [default: off]
    #[arg(long)]
    pub vae_tiling: bool,
    #[command(flatten)]
    pub access: Access,
    #[command(flatten)]
    pub limits: Limits,
    /// When asked to terminate, finish what is at work; what waits is refused either way [default: end it, too]
    #[arg(long)]
    pub drain: bool,
    /// What is written to standard error: off, error, warn, info, debug
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log: tracing_subscriber::filter::LevelFilter,
}

/// Who may ask.
#[derive(Debug, Args)]
pub struct Access {
    /// File with the key that clients must send, as Authorization: Bearer KEY or as the password of HTTP Basic [default: none]
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Listen beyond this machine without a key, too: whoever reaches the address may ask [default: off]
    #[arg(long)]
    pub no_auth: bool,
    /// Name by which clients reach the service, beside addresses and localhost, such as draw.local; may be given several times
    /// [default: none]
    #[arg(long, value_name = "NAME")]
    pub allow_host: Vec<String>,
    // Not a doc comment: its address would have to be a link.
    #[arg(
        long,
        value_name = "SITE",
        help = "Site whose pages may ask, such as http://chat.local:3000, or * for any; may be given several times [default: none]"
    )]
    pub allow_origin: Vec<String>,
}

/// How much a request may ask for.
#[derive(Debug, Args)]
pub struct Limits {
    /// Most pixels of a picture, width times height; never more than 16 times the model's own
    #[arg(long, value_name = "N", default_value_t = defaults().pixels)]
    pub max_pixels: usize,
    /// Most inference steps
    #[arg(long, value_name = "N", default_value_t = defaults().steps)]
    pub max_steps: usize,
    /// Most pictures of one request
    #[arg(long, value_name = "N", default_value_t = defaults().batch)]
    pub max_batch: usize,
    /// Most pictures of several waiting requests that are made together as one batch, where that is measured to be sooner; 1 for
    /// none
    #[arg(long, value_name = "N", default_value_t = defaults().together)]
    pub batch: usize,
    /// Most frames of a video
    #[arg(long, value_name = "N", default_value_t = defaults().frames)]
    pub max_frames: usize,
    /// Most requests that wait
    #[arg(long, value_name = "N", default_value_t = defaults().queue)]
    pub max_queue: usize,
    /// Most bytes of a request, as 32MiB [default: 32MiB]
    #[arg(long, value_name = "SIZE")]
    pub max_body: Option<Memory>,
    /// Most bytes of all requests, with their pictures, that are read or wait [default: 1GiB]
    #[arg(long, value_name = "SIZE")]
    pub max_held: Option<Memory>,
    /// Most seconds that one request may be at work
    #[arg(long, value_name = "SECONDS", default_value_t = defaults().time.as_secs(), value_parser = clap::value_parser!(u64).range(1..))]
    pub time_limit: u64,
}

/// An address, or a name of one such as `localhost`: of several, one of IPv4.
fn address(text: &str) -> Result<SocketAddr, String> {
    let found = text.to_socket_addrs().map_err(|error| {
        format!("{error}: write it as 127.0.0.1:7860, [::1]:7860 or localhost:7860")
    })?;
    let found: Vec<_> = found.collect();
    let fourth = found.iter().find(|address| address.is_ipv4());
    let first = fourth.or(found.first());
    first
        .copied()
        .ok_or_else(|| "that name has no address: write one, as 127.0.0.1:7860".to_owned())
}

fn defaults() -> asyncdiff_serve::Limits {
    asyncdiff_serve::Limits::default()
}

impl Limits {
    /// What they mean.
    pub fn resolve(&self) -> asyncdiff_serve::Limits {
        let mut limits = defaults();
        limits.pixels = self.max_pixels;
        limits.steps = self.max_steps;
        limits.batch = self.max_batch;
        limits.together = self.batch;
        limits.frames = self.max_frames;
        limits.queue = self.max_queue;
        for (limit, flag) in [
            (&mut limits.body_bytes, &self.max_body),
            (&mut limits.held_bytes, &self.max_held),
        ] {
            if let Some(Memory(bytes)) = flag {
                *limit = usize::try_from(*bytes).unwrap_or(usize::MAX);
            }
        }
        limits.time = std::time::Duration::from_secs(self.time_limit);
        limits
    }
}
