//! A process that lends its device.

use std::path::PathBuf;

use asyncdiff_comm::launch::Rendezvous;
use clap::Args;

use super::{Devices, ModelFiles};

#[derive(Debug, Args)]
pub struct Worker {
    /// Where to wait for those who use the device, with generate --devices cpu+tcp://HOST:PORT; beyond this machine only with a
    /// secret
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:29500")]
    pub listen: Rendezvous,
    /// File with what both sides know, and nobody else: 16 or more characters [default: ASYNCDIFF_SECRET; none on one host]
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// Model that may be used, beside the embedded one: a folder in diffusers layout, a .safetensors checkpoint, or a Hub id; may
    /// be given several times. Runs of other models are refused: nobody else names files here
    #[arg(long, value_name = "MODEL")]
    pub model: Vec<PathBuf>,
    #[command(flatten)]
    pub files: ModelFiles,
    #[command(flatten)]
    pub devices: Devices,
    /// Print nothing but warnings and errors [default: off]
    #[arg(long)]
    pub quiet: bool,
}
