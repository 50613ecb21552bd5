//! Times blocks and messages.

use std::convert::Infallible;
use std::hint::black_box;
use std::time::{Duration, Instant};

use asyncdiff_burn::device::Worker;
use asyncdiff_burn::exchange::{OnDevice, element};
use asyncdiff_burn::latents::Blocks;
use asyncdiff_burn::ranks::on_each;
use asyncdiff_comm::{Form, PeerExchange, local};
use asyncdiff_core::plan::Branch;
use asyncdiff_core::{BlockId, EngineError, Input, Machine, SegmentGraph, Strategy};
use burn::tensor::{Device, Distribution, FloatDType, Tensor};

use super::Session;
use super::rank::Rank;
use crate::error::Error;
use crate::measured::{MeasuredMachine, passes};
use crate::pipeline::{Run, StableDiffusion};
use crate::request::Shape;
use crate::unet::{AddedConditioning, Conditioning};

/// How long a rank waits for a message that is timed.
const DEADLINE: Duration = Duration::from_secs(60);

/// Blocks that are timed on every worker, to compare them.
const COMPARED: usize = 3;

/// Any timestep does.
const TIMESTEP: f64 = 500.0;

/// Shorter than any clock sees: what a message takes beyond its latency may be less than the clock's noise.
const INSTANT: f64 = 1e-9;

impl Session {
    /// Times each block of the denoiser of `shape` on the first worker, the heaviest few on each other, and messages between
    /// the first and each other, with random numbers. Of `repeat` times each, the median counts; of several links, the slowest.
    ///
    /// While one worker computes, the others rest. One block is loaded at a time; those that were loaded before are dropped.
    ///
    /// # Errors
    ///
    /// [`Error`] for a shape that the model cannot make, for weights that do not fit, and for a worker that fails.
    pub fn measure(&mut self, shape: &Shape, repeat: usize) -> Result<MeasuredMachine, Error> {
        let repeat = repeat.max(1);
        let run = self.pipeline.plan(shape, &Strategy::sequential())?;
        let graph = &run.graph;
        let all: Vec<BlockId> = graph.iter().map(|(id, _)| id).collect();
        let guided = passes(graph) == 2;
        let [first, others @ ..] = &mut self.ranks[..] else {
            unreachable!("a session has a worker")
        };
        let branches = if guided {
            &[Branch::Both, Branch::Positive][..]
        } else {
            &[Branch::Both]
        };
        let each = times(first, &self.pipeline, &run, &all, branches, repeat)?;
        let block_time: Vec<f64> = each.iter().map(|times| times[0]).collect();
        let half_time = each.iter().map(|times| match times[..] {
            [_, half] => half,
            _ => times[0] / 2.0,
        });
        let half_time = half_time.collect();
        let mut heaviest = all;
        heaviest.sort_by(|a, b| block_time[b.0].total_cmp(&block_time[a.0]));
        heaviest.truncate(COMPARED);
        // One after the other, so that both see the same machine.
        let seconds = |rank: &mut Rank| -> Result<f64, Error> {
            let both = &[Branch::Both];
            let times = times(rank, &self.pipeline, &run, &heaviest, both, repeat)?;
            Ok(times.iter().flatten().sum())
        };
        let mut speed = vec![1.0];
        let mut links = Vec::new();
        let largest = graph.iter().map(|(_, block)| block.output);
        let largest = largest.max_by_key(|shape| shape.iter().product::<usize>());
        for other in others {
            speed.push(seconds(first)? / seconds(other)?);
            let (ends, dtype) = ([first.worker(), other.worker()], run.dtype.of_tensors());
            let trip = |shape| trip(ends, shape, dtype, repeat);
            let latency = trip([1; 4])?;
            let shape = largest.unwrap_or([1; 4]);
            let bytes = shape.iter().product::<usize>() as f64 * run.dtype.bytes() as f64;
            // What is less than a tenth of the latency is its noise.
            let moving = (trip(shape)? - latency).max(latency / 10.0);
            links.push((latency, bytes / moving));
        }
        Ok(MeasuredMachine {
            blocks: graph.iter().map(|(_, block)| block.name.clone()).collect(),
            latents: graph.latents,
            guided,
            dtype: run.dtype,
            devices: self
                .workers()
                .map(|worker| worker.name().to_owned())
                .collect(),
            machine: Machine {
                block_time,
                half_time,
                speed,
                latency: links
                    .iter()
                    .map(|(latency, _)| *latency)
                    .fold(0.0, f64::max),
                // JSON knows no infinity.
                bandwidth: links
                    .iter()
                    .map(|(_, bandwidth)| *bandwidth)
                    .fold(f64::MAX, f64::min),
                element_bytes: run.dtype.bytes(),
            },
        })
    }
}

/// Seconds that a rank takes for each block, for each of `branches`.
fn times(
    rank: &mut Rank,
    pipeline: &StableDiffusion,
    run: &Run,
    blocks: &[BlockId],
    branches: &[Branch],
    repeat: usize,
) -> Result<Vec<Vec<f64>>, Error> {
    let [_, _, height, width] = run.graph.latents;
    let device = rank.worker().device().clone();
    let conditioning = conditioning(pipeline, run, &device);
    let time = |id: &BlockId| {
        rank.keep(&[]);
        rank.load(run, &[*id])?;
        let mut blocks = rank.unet().blocks(conditioning.clone(), [height, width]);
        let inputs = branches.iter().map(|branch| {
            let inputs = inputs(&run.graph, *id, *branch, &device);
            (*branch, inputs)
        });
        let inputs: Vec<_> = inputs.collect();
        Ok(rank.worker().install(|| {
            medians(repeat, inputs.len(), |which| {
                let (branch, inputs) = &inputs[which];
                wait_for(blocks.run(*id, *branch, TIMESTEP, inputs.clone()));
            })
        }))
    };
    let times = blocks.iter().map(time).collect();
    rank.keep(&[]);
    times
}

/// Seconds of the median of `repeat` times for each of several jobs, taken in turn, so that all see the same machine. A first time
/// does not count: it compiles kernels and fills caches.
fn medians(repeat: usize, jobs: usize, mut job: impl FnMut(usize)) -> Vec<f64> {
    let mut times = vec![Vec::with_capacity(repeat); jobs];
    for round in 0..=repeat {
        for (which, times) in times.iter_mut().enumerate() {
            let start = Instant::now();
            job(which);
            if round > 0 {
                times.push(start.elapsed().as_secs_f64());
            }
        }
    }
    let median = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
        times[repeat / 2].max(INSTANT)
    };
    times.into_iter().map(median).collect()
}

/// A GPU computes behind the program's back: only when an element is here has the time passed.
fn wait_for(tensor: Tensor<4>) {
    let element = (0..4).fold(tensor, |tensor, dimension| tensor.narrow(dimension, 0, 1));
    black_box(element.into_data());
}

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

/// What a block reads, for both halves of the guidance batch or for one.
fn inputs(graph: &SegmentGraph, id: BlockId, branch: Branch, device: &Device) -> Vec<Tensor<4>> {
    let inputs = graph.block(id).inputs.iter().map(|input| match input {
        Input::Latents => random(graph.latents, device),
        Input::Block(from) => {
            let mut shape = graph.block(*from).output;
            shape[0] /= branch.divisor() as usize;
            random(shape, device)
        }
    });
    inputs.collect()
}

/// Everything that the denoiser of `run` may be told.
fn conditioning(pipeline: &StableDiffusion, run: &Run, device: &Device) -> Conditioning {
    let passes = passes(&run.graph);
    let samples = passes * run.shape.num_images;
    let motion = pipeline.motion(&run.shape);
    let config = &motion.map_or(&pipeline.unet, |motion| &motion.unet).config;
    let ids = pipeline.class.time_ids(run.shape.height, run.shape.width);
    let added = config.added().map(|added| match ids {
        Some(ids) => {
            let text = added.input_features - ids.len() * added.number_features;
            AddedConditioning {
                text_embeds: Some(random([samples, text], device)),
                time_ids: vec![ids.to_vec(); samples],
            }
        }
        None => {
            let numbers = added.input_features / added.number_features;
            AddedConditioning {
                text_embeds: None,
                time_ids: vec![vec![1.0; numbers]; samples],
            }
        }
    });
    let [batch, channels, height, width] = run.graph.latents;
    let beside = config.in_channels - channels;
    let tokens = pipeline.encoders.tokens();
    Conditioning {
        context: random([samples, tokens, config.cross_attention_dim], device),
        added,
        concat: (beside > 0).then(|| random([passes * batch, beside, height, width], device)),
        mask: None,
        frames: run.shape.frames,
    }
}

/// Seconds from one worker to another: half of the way there and back.
fn trip(
    ends: [&Worker; 2],
    shape: [usize; 4],
    dtype: FloatDType,
    repeat: usize,
) -> Result<f64, Error> {
    let peers = local::world(2);
    let results = on_each(&ends, peers, |rank, peer| {
        let device = ends[rank].device();
        let mut peers = OnDevice::new(peer, device);
        let value = random(shape, device).cast(dtype);
        let form = Form::new(shape, element(value.dtype()));
        let mut tag = 0;
        // Both do it equally often, so that nobody waits in vain.
        let mut failure = Ok(());
        let times = medians(repeat, 1, |_| {
            let mut once = || {
                if rank == 0 {
                    peers.send(1, tag, value.clone())?;
                    wait_for(peers.recv(1, tag, &form, DEADLINE)?);
                } else {
                    let received = peers.recv(0, tag, &form, DEADLINE)?;
                    peers.send(0, tag, received)?;
                }
                Ok(())
            };
            if failure.is_ok() {
                failure = once();
            }
            tag += 1;
        });
        failure.map(|()| times[0] / 2.0)
    });
    let times: Result<Vec<f64>, asyncdiff_burn::ranks::RankError<EngineError<Infallible>>> =
        results.into_iter().collect();
    Ok(times?[0])
}
