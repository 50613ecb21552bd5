//! The flags. Help, shell completions and the man page all come from here.

mod ranks;
mod serve;
mod spread;
mod video;
mod worker;

use std::num::NonZero;
use std::path::PathBuf;

use asyncdiff_models::Dtype;
use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;

use crate::jobs::{Seeds, parse_seed};
use crate::lora_flag::LoraFlag;

pub use ranks::Ranks;
pub use serve::Serve;
pub use spread::{Choice, LookAhead, Spreading, Spreadings, Switch};
pub use video::Video;
pub use worker::Worker;

/// Pictures and videos from Stable Diffusion checkpoints, sooner: asynchronous denoising on several devices
#[derive(Debug, Parser)]
#[command(name = "asyncdiff", version, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a picture or a video
    Generate(Generate),
    /// Run a prompt on one device and spread over several, on the same noise, and compare time and pictures
    Compare(Compare),
    /// Print the ways to use so many devices, or of one of them who computes what, without loading weights
    Plan(Plan),
    /// Time each block of the denoiser, and a message between devices: plan, generate and compare balance by it (--machine)
    Measure(Measure),
    /// Lend a device of this machine to runs that other processes lead, one after another, until this one is ended
    Worker(Worker),
    /// Print what a checkpoint is, without loading weights
    Info(Info),
    /// Keep models loaded and answer over HTTP: a page to make pictures on, and the interfaces of OpenAI and of web UIs
    Serve(Serve),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the man page
    Man,
}

#[derive(Debug, Args)]
pub struct Generate {
    #[command(flatten)]
    pub prompt: Prompt,
    /// What to draw, many times over: a text file with a prompt on each line, or - for standard input. Blank lines and
    /// lines that begin with # are skipped
    #[arg(long, value_name = "FILE", group = "text")]
    pub prompt_file: Option<PathBuf>,
    #[command(flatten)]
    pub sample: Sample,
    /// Seeds of the noise, as for PyTorch's CPU generator: one, several as in 1,2,7, a range as in 1-4, or -1 for a random
    /// one, which is printed. Each seed is a run of its own, with the same picture as alone
    #[arg(
        long = "seed",
        value_name = "N,…",
        default_value = "0",
        allow_negative_numbers = true
    )]
    pub seeds: Seeds,
    #[command(flatten)]
    pub devices: Devices,
    #[command(flatten)]
    pub ranks: Ranks,
    #[command(flatten)]
    pub spreading: Spreading,
    /// The file to write: .png, .jpg or .webp for pictures; .mp4, .gif, .webp, .png or a folder (DIR/) for videos; several get
    /// -0, -1, … before the extension, in the order of the prompts, of the seeds for each prompt, and of the images of
    /// each seed. A - is standard output, for one picture or video [default: asyncdiff.png, for videos asyncdiff.mp4]
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Replace a folder of frames that is there already [default: off]
    #[arg(long)]
    pub force: bool,
    /// Write the picture that the denoiser predicts into this file every few steps, small and blurred at first
    /// [default: none]
    #[arg(long, value_name = "FILE")]
    pub preview: Option<PathBuf>,
    /// Denoiser calls from one preview to the next
    #[arg(long, value_name = "N", default_value = "5", requires = "preview")]
    pub preview_every: NonZero<usize>,
    #[command(flatten)]
    pub printing: Printing,
}

#[derive(Debug, Args)]
pub struct Compare {
    #[command(flatten)]
    pub prompt: Prompt,
    /// What to draw, several prompts: a text file with one on each line, or - for standard input; the table has the mean and
    /// the worst of each figure of likeness
    #[arg(long = "prompts", value_name = "FILE", group = "text")]
    pub prompt_file: Option<PathBuf>,
    #[command(flatten)]
    pub sample: Sample,
    #[command(flatten)]
    pub seed: Seed,
    #[command(flatten)]
    pub devices: Devices,
    #[command(flatten)]
    pub spreadings: Spreadings,
    /// How often to run each, to take the median time
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub repeat: u16,
    /// The file to write, all pictures or videos side by side: .png, .jpg or .webp for pictures; .mp4, .gif, .webp, .png or a
    /// folder (DIR/) for videos. A - is standard output [default: compare.png, for videos compare.mp4]
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Replace a folder of frames that is there already [default: off]
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub printing: Printing,
}

#[derive(Debug, Args)]
pub struct Plan {
    #[command(flatten)]
    pub sample: Sample,
    #[command(flatten)]
    pub seed: Seed,
    #[command(flatten)]
    pub devices: Devices,
    #[command(flatten)]
    pub spreading: Spreading,
    /// Draw the time line of the simulated run into this SVG file [default: none]
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    #[command(flatten)]
    pub printing: Printing,
}

#[derive(Debug, Args)]
pub struct Measure {
    #[command(flatten)]
    pub sample: Sample,
    #[command(flatten)]
    pub devices: Devices,
    /// How often to time each block and message, to take the median time
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub repeat: u16,
    /// The JSON file to write [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Print nothing but warnings and errors [default: off]
    #[arg(long, requires = "output")]
    pub quiet: bool,
}

#[derive(Debug, Args)]
pub struct Info {
    /// Model: a folder in diffusers layout, a .safetensors checkpoint, or a Hub id such as org/name
    /// [default: the embedded emoji model]
    #[arg(value_name = "MODEL")]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub files: ModelFiles,
    /// Type that the denoiser's weights are counted in: f32, f16, bf16
    #[arg(long, value_name = "TYPE", default_value_t)]
    pub dtype: Dtype,
    /// Print a machine-readable report instead of text [default: off]
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Prompt {
    #[command(flatten)]
    pub text: Text,
    /// What to avoid [default: nothing]
    #[arg(
        long,
        value_name = "PROMPT",
        default_value = "",
        hide_default_value = true
    )]
    pub negative_prompt: String,
    // Not a doc comment: its brackets would be links.
    #[arg(
        long,
        help = "Read brackets in prompts as text [default: off, they weigh words as in web UIs: (word:1.3), (word) for 1.1, \
                [word] for 1/1.1, nested they multiply, \\( \\) \\[ \\] for brackets as text; BREAK and [from:to:when] mean \
                nothing]"
    )]
    pub literal_prompts: bool,
}

/// Where the prompt comes from: exactly one of these, or of what a subcommand adds to the group.
#[derive(Debug, Args)]
#[group(id = "text", required = true, multiple = false)]
pub struct Text {
    /// What to draw
    #[arg(value_name = "PROMPT")]
    pub prompt: Option<String>,
    /// What to draw, as a flag
    #[arg(long = "prompt", id = "prompt_flag", value_name = "PROMPT")]
    pub prompt_flag: Option<String>,
}

impl Text {
    /// The prompt, if it was typed.
    pub fn typed(&self) -> Option<&str> {
        self.prompt.as_deref().or(self.prompt_flag.as_deref())
    }
}

#[derive(Debug, Args)]
pub struct Seed {
    /// Seed of the noise, as for PyTorch's CPU generator, or -1 for a random one, which is printed
    #[arg(long, value_name = "N", default_value = "0", value_parser = parse_seed, allow_negative_numbers = true)]
    pub seed: u64,
}

#[derive(Debug, Args)]
pub struct Sample {
    /// Model: a folder in diffusers layout, a .safetensors checkpoint, or a Hub id such as org/name, or org/name@revision
    /// [default: the embedded emoji model]
    #[arg(long, value_name = "MODEL")]
    pub model: Option<PathBuf>,
    #[command(flatten)]
    pub files: ModelFiles,
    /// LoRA to merge into the model as it is loaded, times a strength; may be given several times [default strength: 1]
    #[arg(long, value_name = "FILE[:STRENGTH]")]
    pub lora: Vec<LoraFlag>,
    /// Type that the denoiser and the text encoders compute in: f32, f16, bf16
    #[arg(long, value_name = "TYPE", default_value_t)]
    pub dtype: Dtype,
    /// Inference steps [default: the model's, or 50; 25 for a video of a picture]
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,
    /// Strength of classifier-free guidance, off at 1 and less [default: the model's, or 7.5; 5 for XL, 3 for a video of a picture]
    #[arg(long, value_name = "X")]
    pub guidance_scale: Option<f64>,
    /// Picture to start from (image to image): a .png, .jpg or .webp file [default: none]
    #[arg(long, value_name = "FILE")]
    pub init_image: Option<PathBuf>,
    /// Share of the steps that are run on the picture to start from, above 0 and up to 1 [default: 0.8; 1 with a mask]
    #[arg(long, value_name = "X", requires = "init_image")]
    pub strength: Option<f64>,
    /// Grey picture of the same size: what is white in it is painted anew, the rest is kept (inpainting) [default: none]
    #[arg(long, value_name = "FILE", requires = "init_image")]
    pub mask: Option<PathBuf>,
    /// Width in pixels [default: that of the picture to start from, or the model's]
    #[arg(long, value_name = "PIXELS")]
    pub width: Option<usize>,
    /// Height in pixels [default: that of the picture to start from, or the model's]
    #[arg(long, value_name = "PIXELS")]
    pub height: Option<usize>,
    /// Noise scheduler: ddim, pndm, euler, euler-ancestral, heun, dpmpp-2m, dpmpp-2m-karras, dpmpp-2m-sde,
    /// dpmpp-2m-sde-karras, unipc, lcm [default: the model's]
    #[arg(long, value_name = "NAME")]
    pub scheduler: Option<String>,
    /// Images or videos of the prompt, made as one batch: the first of the seed, the second of the seed after it, and so on
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub num_images: usize,
    /// Draw the noise of the whole batch from one seed, as diffusers does with one generator: then its images cannot be made
    /// again alone [default: off]
    #[arg(long)]
    pub batch_noise: bool,
    #[command(flatten)]
    pub video: Video,
    /// Decode pictures that are larger than the model's in overlapping tiles: needs less memory; tiles may differ a little
    /// in tone [default: off]
    #[arg(long)]
    pub vae_tiling: bool,
    /// Initial noise from a safetensors file with one tensor [default: the seed's]
    #[arg(long, value_name = "FILE")]
    pub latents: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct ModelFiles {
    /// Folder with configurations and tokenizers for a .safetensors checkpoint, in diffusers layout, as far as they are not
    /// those of Stable Diffusion [default: inferred]
    #[arg(long, value_name = "DIR")]
    pub config: Option<PathBuf>,
    /// Variant of the weights, such as fp16, in the parts that have it [default: the plain weights, or the only variant]
    #[arg(long, value_name = "NAME")]
    pub variant: Option<String>,
}

#[derive(Debug, Args)]
pub struct Devices {
    /// Devices, as cpu, cpu:2 (two CPU workers), cuda:0,1, tch:cuda:0, wgpu:0, or joined by +, as cuda:0+cpu; for generate and
    /// plan also tcp://HOST:PORT, one that asyncdiff worker lends there. Where nothing else is said, a way to use
    /// them is chosen. With 4 cores, cpu is one device that computes with all four, and cpu:2 is two with two cores each;
    /// which is sooner, and how much alike, says asyncdiff compare --devices cpu:2 [default: the CPU workers that the plan
    /// needs]
    #[arg(long, value_name = "NAMES")]
    pub devices: Option<String>,
    /// CPU threads, shared out among the CPU workers [default: all cores]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
}

#[derive(Debug, Args)]
pub struct Printing {
    /// Print a machine-readable report instead of text [default: off]
    #[arg(long, conflicts_with = "quiet")]
    pub json: bool,
    /// Print nothing but warnings and errors [default: off]
    #[arg(long)]
    pub quiet: bool,
}
