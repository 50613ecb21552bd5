//! Times what `scripts/peers.py` compares with other programs: a denoiser call, a decoded picture, or a whole picture of the
//! embedded model.
//!
//! ```sh
//! cargo run --release -p benches --example step -- unet FOLDER INPUTS OUTPUT THREADS REPEATS DTYPE
//! cargo run --release -p benches --example step -- vae FOLDER INPUTS OUTPUT THREADS REPEATS DTYPE
//! cargo run --release -p benches --example step -- picture PROMPT STEPS OUTPUT THREADS REPEATS
//! ```
//!
//! `FOLDER` holds `config.json` and `diffusion_pytorch_model.safetensors`, `INPUTS` is a safetensors file, `DTYPE` f32, f16 or bf16. The result of the
//! last repetition goes to `OUTPUT`, as plain little-endian numbers of 32 bits (a picture's as bytes). What is printed is JSON:
//! the seconds from the start to the loaded network, those of each repetition after one that warms up, the most memory that the
//! process held, and for a denoiser the seconds of each block in the fastest repetition.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use asyncdiff_burn::weights::{NamedTensor, WeightFile, read_tensors};
use asyncdiff_core::unet::UNet2d;
use asyncdiff_core::{Branch, Denoiser, Input};
use asyncdiff_models::device::workers;
use asyncdiff_models::unet::{AddedConditioning, Conditioning, UNet};
use asyncdiff_models::vae::{AutoencoderKl, VaeConfig};
use asyncdiff_models::{Checkpoint, Session, StableDiffusion, Strategy};
use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use serde_json::{Value, json};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What was measured, and the result.
struct Measured {
    report: Value,
    result: Vec<u8>,
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kind, what, with, output, threads, repeats, rest @ ..] = &arguments[..] else {
        return Err("arguments are missing: see the top of benches/examples/step.rs".into());
    };
    let (threads, repeats) = (threads.parse()?, repeats.parse()?);
    let dtype = match rest.first().map(String::as_str) {
        None | Some("f32") => FloatDType::F32,
        Some("f16") => FloatDType::F16,
        Some("bf16") => FloatDType::BF16,
        Some(other) => return Err(format!("{other} is not f32, f16 or bf16").into()),
    };
    let network = |time: fn(&Network) -> Result<Measured, Failure>| {
        let worker = &workers("cpu", Some(threads))?[0];
        worker.install(|| time(&Network::open(what, with, worker.device(), dtype, repeats)?))
    };
    let measured = match kind.as_str() {
        "unet" => network(unet)?,
        "vae" => network(vae)?,
        "picture" => picture(what, with.parse()?, threads, repeats)?,
        other => return Err(format!("{other} is not unet, vae or picture").into()),
    };
    std::fs::write(output, measured.result)?;
    println!("{}", measured.report);
    Ok(())
}

/// A network to be timed: its files, the tensors of its inputs, and how it is to compute.
struct Network {
    folder: PathBuf,
    inputs: Vec<NamedTensor>,
    device: Device,
    dtype: FloatDType,
    repeats: usize,
    /// When it was begun to be opened.
    start: Instant,
}

impl Network {
    fn open(
        folder: &str,
        inputs: &str,
        device: &Device,
        dtype: FloatDType,
        repeats: usize,
    ) -> Result<Self, Failure> {
        let start = Instant::now();
        Ok(Self {
            folder: folder.into(),
            inputs: read_tensors(Path::new(inputs))?,
            device: device.clone(),
            dtype,
            repeats,
            start,
        })
    }

    fn config<T: serde::de::DeserializeOwned>(&self) -> Result<T, Failure> {
        let text = std::fs::read(self.folder.join("config.json"))?;
        Ok(serde_json::from_slice(&text)?)
    }

    fn weights(&self) -> Result<WeightFile, Failure> {
        let name = "diffusion_pytorch_model.safetensors";
        Ok(WeightFile::open(&self.folder.join(name))?)
    }

    fn find(&self, name: &str) -> Option<&NamedTensor> {
        self.inputs.iter().find(|tensor| tensor.name == name)
    }

    fn get(&self, name: &str) -> Result<&NamedTensor, Failure> {
        let missing = || format!("the inputs have no tensor {name}");
        Ok(self.find(name).ok_or_else(missing)?)
    }

    fn tensor<const D: usize>(&self, named: &NamedTensor) -> Tensor<D> {
        let data = TensorData::new(named.values.clone(), named.shape.clone());
        Tensor::from_data(data, &self.device)
    }
}

fn numbers(tensor: Tensor<4>) -> Result<Vec<u8>, Failure> {
    let numbers = tensor
        .cast(FloatDType::F32)
        .into_data()
        .try_to_vec::<f32>()?;
    Ok(numbers.into_iter().flat_map(f32::to_le_bytes).collect())
}

/// The most memory that this process held, in bytes, where the system tells.
fn peak() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kibibytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kibibytes * 1024)
}

/// Does something once to warm up and then some times.
fn repeated<T>(
    repeats: usize,
    mut once: impl FnMut() -> Result<T, Failure>,
) -> Result<(Vec<f64>, T), Failure> {
    let mut last = once()?;
    let mut seconds = Vec::new();
    for _ in 0..repeats {
        let start = Instant::now();
        last = once()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    Ok((seconds, last))
}

fn unet(network: &Network) -> Result<Measured, Failure> {
    let spec = UNet2d::new(&network.config()?)?;
    let sample: Tensor<4> = network.tensor(network.get("sample")?);
    let context: Tensor<3> = network.tensor(network.get("context")?);
    let timestep = f64::from(network.get("timestep")?.values[0]);
    let [batch, _, height, width] = sample.dims();
    let graph = spec.graph(1, [batch, height, width], context.dims()[1]);
    let all: Vec<_> = graph.iter().map(|(id, _)| id).collect();
    let unet = {
        let file = network.weights()?;
        let weights = file.read()?;
        UNet::load(&spec, &weights, None, &all, &network.device, network.dtype)?
    };
    let load = network.start.elapsed().as_secs_f64();
    let loaded = peak();

    let added = match (network.find("text_embeds"), network.find("time_ids")) {
        (Some(text), Some(ids)) => Some(AddedConditioning {
            text_embeds: Some(network.tensor(text)),
            time_ids: ids
                .values
                .chunks(ids.shape[1])
                .map(|row| row.iter().map(|number| f64::from(*number)).collect())
                .collect(),
        }),
        _ => None,
    };
    let conditioning = Conditioning {
        context,
        added,
        concat: None,
        mask: None,
        frames: 1,
    };
    let given = Box::new(|_| unreachable!("a denoiser call reads nothing else"));
    let mut denoiser = unet.denoiser(conditioning, [height, width], given);
    let mut fastest: Option<(f64, BTreeMap<String, f64>)> = None;
    let (seconds, result) = repeated(network.repeats, || {
        let mut blocks = BTreeMap::new();
        let mut outputs: Vec<Tensor<4>> = Vec::new();
        for (id, block) in graph.iter() {
            let inputs = block.inputs.iter().map(|input| match input {
                Input::Latents => sample.clone(),
                Input::Block(from) => outputs[from.0].clone(),
            });
            let start = Instant::now();
            outputs.push(denoiser.run(id, Branch::Both, timestep, inputs.collect())?);
            blocks.insert(block.name.clone(), start.elapsed().as_secs_f64());
        }
        let total: f64 = blocks.values().sum();
        if fastest.as_ref().is_none_or(|(least, _)| total < *least) {
            fastest = Some((total, blocks));
        }
        Ok(outputs.pop().expect("a graph has blocks"))
    })?;
    let blocks = fastest.map(|(_, blocks)| blocks);
    Ok(Measured {
        report: json!({
            "load": load, "seconds": seconds, "loaded": loaded, "peak": peak(), "blocks": blocks,
        }),
        result: numbers(result)?,
    })
}

fn vae(network: &Network) -> Result<Measured, Failure> {
    let config: VaeConfig = network.config()?;
    let latents: Tensor<4> = network.tensor(network.get("latents")?);
    let vae = {
        let file = network.weights()?;
        let weights = file.read()?;
        AutoencoderKl::load(&config, &weights.on(&network.device, network.dtype))?
    };
    let load = network.start.elapsed().as_secs_f64();
    let (seconds, result) = repeated(network.repeats, || Ok(vae.decode(latents.clone())))?;
    Ok(Measured {
        report: json!({ "load": load, "seconds": seconds, "peak": peak() }),
        result: numbers(result)?,
    })
}

fn picture(
    prompt: &str,
    steps: usize,
    threads: usize,
    repeats: usize,
) -> Result<Measured, Failure> {
    let start = Instant::now();
    let pipeline = Arc::new(StableDiffusion::open(Checkpoint::embedded())?);
    let mut request = pipeline.request(prompt);
    request.shape.steps = steps;
    let run = pipeline.plan(&request.shape, &Strategy::sequential())?;
    let mut session = Session::new(&pipeline, workers("cpu", Some(threads))?)?;
    let load = start.elapsed().as_secs_f64();
    let (seconds, output) = repeated(repeats, || {
        Ok(session.generate(&run, &request.content, &mut ())?)
    })?;
    Ok(Measured {
        report: json!({
            "load": load, "seconds": seconds, "peak": peak(),
            "scheduler": request.shape.scheduler, "guidance": request.shape.guidance_scale,
            "seed": request.content.seed,
        }),
        result: output.images[0].rgb.clone(),
    })
}
