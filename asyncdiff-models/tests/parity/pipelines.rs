//! Whole denoising runs against the reference: sequential step by step, and every asynchronous case.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use asyncdiff_core::{AsyncDiff, Partition};
use asyncdiff_models::device::workers;
use asyncdiff_models::image::Image;
use asyncdiff_models::{
    NamedTensor, Output, PartitionChoice, Progress, Request, Session, Shape, Spread, Strategy,
};
use burn::tensor::Tensor;

use super::animatediff;
use super::fixtures::{Model, Reference, distance, models, workers_of_each_kind};
use super::image_to_video;
use super::networks::{self, tensor};

/// Keeps the latents after every step.
#[derive(Default)]
pub struct Steps(pub Vec<Vec<f32>>);

impl Progress for Steps {
    fn step(&mut self, done: usize, _: usize, latents: &Tensor<4>) -> ControlFlow<()> {
        self.0
            .push(latents.clone().into_data().try_to_vec::<f32>().unwrap());
        assert_eq!(self.0.len(), done);
        ControlFlow::Continue(())
    }
}

/// What the reference was made from. `None` if it started from a picture: the noise in its latents is not in the data.
/// `image_to_image` checks such runs.
fn request(model: &Model, sequential: &Reference) -> Option<Request> {
    if model.pipeline.image_encoder().is_some() {
        return Some(image_to_video::request(model, sequential));
    }
    if sequential.has("in.image") {
        println!(
            "passing over {}'s pipeline: it starts from a picture",
            model.name
        );
        return None;
    }
    let params = &sequential.params;
    let number = |key: &str| params[key].as_u64().unwrap() as usize;
    let mut request = model.pipeline.request(params["prompt"].as_str().unwrap());
    request.content.negative_prompt = params["negative_prompt"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    request.shape.steps = number("steps");
    request.shape.guidance_scale = params["guidance"].as_f64().unwrap();
    request.shape.width = number("width");
    request.shape.height = number("height");
    request.shape.num_images = sequential.shape("in.init_noise")[0];
    let (mut shape, mut values) = (
        sequential.shape("in.init_noise").to_vec(),
        sequential.values("in.init_noise").to_vec(),
    );
    if model.pipeline.motion_unet().is_some() {
        request.shape.frames = number("frames");
        let noise: Tensor<5> = tensor(sequential, "in.init_noise");
        let (rows, frames) = animatediff::frame_by_frame(noise);
        assert_eq!(frames, request.shape.frames);
        shape = rows.dims().to_vec();
        values = networks::values(rows);
    }
    request.content.latents = Some(NamedTensor {
        name: "in.init_noise".to_owned(),
        shape,
        values,
    });
    Some(request)
}

/// The latents are in the order of the reference's.
fn run(
    session: &mut Session,
    model: &Model,
    request: &Request,
    strategy: &Strategy,
) -> (Output, Vec<Vec<f32>>) {
    let run = model.pipeline.plan(&request.shape, strategy).unwrap();
    let mut steps = Steps::default();
    let mut output = session
        .generate(&run, &request.content, &mut steps)
        .unwrap();
    if model.pipeline.motion_unet().is_some() {
        let [_, channels, ..] = run.graph.latents;
        for latents in steps.0.iter_mut().chain([&mut output.latents]) {
            let Shape {
                num_images, frames, ..
            } = request.shape;
            *latents = animatediff::as_in_diffusers(latents, num_images, frames, channels);
        }
    }
    (output, steps.0)
}

pub fn check_steps(reference: &Reference, what: &str, name: &str, steps: &[Vec<f32>]) {
    let size = steps[0].len();
    let expected: Vec<&[f32]> = reference.values(name).chunks(size).collect();
    assert_eq!(steps.len(), expected.len(), "{what}: number of steps");
    for (step, (found, expected)) in steps.iter().zip(expected).enumerate() {
        reference.check_part(
            &format!("{what}, latents after step {step}"),
            expected,
            found,
        );
    }
}

#[test]
fn sequential_pipelines() {
    for model in models() {
        let Some(reference) = model.reference("pipeline_sequential") else {
            continue;
        };
        let Some(request) = request(&model, &reference) else {
            continue;
        };
        let plan = model
            .pipeline
            .plan(&request.shape, &Strategy::sequential())
            .unwrap();
        let timesteps: Vec<f32> = plan
            .schedule
            .timesteps
            .iter()
            .map(|timestep| *timestep as f32)
            .collect();
        let expected = reference.values("unet_timesteps");
        assert_eq!(timesteps.len(), expected.len(), "{}", model.name);
        for (found, expected) in timesteps.iter().zip(expected) {
            // Whole numbers are exact; logarithms may be rounded differently, in the last place and by what is scaled with it.
            let places = if expected.fract() == 0.0 { 0 } else { 2 };
            assert!(
                found.to_bits().abs_diff(expected.to_bits()) <= places,
                "{}: timestep {found}, expected {expected}",
                model.name
            );
        }

        for workers in workers_of_each_kind(1) {
            let what = format!("{} on {}", model.name, workers[0].name());
            let mut session = Session::new(&model.pipeline, workers).unwrap();
            let (output, steps) = run(&mut session, &model, &request, &Strategy::sequential());
            check_steps(&reference, &what, "step_latents", &steps);
            reference.check(
                &format!("{what}: final latents"),
                "final_latents",
                &output.latents,
            );

            // Of a video, the first and the last frame.
            let found = [output.images.first(), output.images.last()];
            let shape = reference.shape("decoded");
            let size = [shape[1], shape[2], shape[3]];
            let decoded = reference.values("decoded").chunks(size.iter().product());
            for (decoded, found) in decoded.zip(found.into_iter().flatten()) {
                let expected = Image::from_samples(decoded, size).unwrap();
                check_picture(&what, found, &expected);
            }
        }
    }
}

/// Fails unless the pictures are the same up to the rounding of their bytes.
pub fn check_picture(what: &str, found: &Image, expected: &Image) {
    assert_eq!(
        (found.width, found.height),
        (expected.width, expected.height),
        "{what}: size"
    );
    let pairs = found.rgb.iter().zip(&expected.rgb);
    let worst = pairs.map(|(a, b)| a.abs_diff(*b)).max();
    // A difference within the tolerance can still fall on two sides of a rounding edge.
    assert!(
        worst <= Some(1),
        "{what}: picture is off by {worst:?} levels"
    );
}

/// The manifest's table as a map, with the norm that belongs to `conv_out` left to that block.
fn partition(reference: &Reference, segments: usize) -> BTreeMap<String, usize> {
    let table = reference.params["components"][segments.to_string()]
        .as_array()
        .unwrap();
    table
        .iter()
        .enumerate()
        .flat_map(|(segment, entries)| {
            entries
                .as_array()
                .unwrap()
                .iter()
                .map(move |entry| (entry.as_str().unwrap().to_owned(), segment))
        })
        .filter(|(entry, _)| entry != "conv_norm_out")
        .collect()
}

/// `n{segments}_s{stride}_w{warm_up}_ts{time_shift}`
fn parse(case: &str) -> (usize, AsyncDiff) {
    let numbers: Vec<usize> = case
        .split('_')
        .map(|part| {
            part.trim_start_matches(char::is_alphabetic)
                .parse()
                .unwrap()
        })
        .collect();
    let [segments, stride, warm_up, time_shift] = numbers[..] else {
        panic!("{case}")
    };
    let strategy = AsyncDiff {
        stride,
        warm_up,
        time_shift: time_shift == 1,
        forecast: 0,
    };
    (segments, strategy)
}

fn asynchronous(file: &str, stride: usize) {
    let mut cases = 0;
    for model in models() {
        let Some(reference) = model.reference(file) else {
            continue;
        };
        let sequential = model.reference("pipeline_sequential").unwrap();
        let Some(request) = request(&model, &sequential) else {
            continue;
        };
        let names: Vec<String> = reference
            .names()
            .filter_map(|name| name.strip_suffix("/final_latents"))
            .filter(|case| parse(case).1.stride == stride)
            .map(str::to_owned)
            .collect();
        for workers in workers_of_each_kind(5) {
            let device = workers[0].name().to_owned();
            let mut session = Session::new(&model.pipeline, workers).unwrap();
            for case in &names {
                let (segments, asyncdiff) = parse(case);
                let what = format!("{} {case} on {device}", model.name);
                let map = partition(&reference, segments);
                let graph = model
                    .pipeline
                    .plan(&request.shape, &Strategy::sequential())
                    .unwrap()
                    .graph;
                let published = Partition::published(&graph, segments);
                assert_eq!(
                    published,
                    Partition::from_map(&graph, &map),
                    "{what}: published partition"
                );

                let strategy = Strategy::from(Spread::AsyncDiff {
                    partition: PartitionChoice::Map(map),
                    parameters: asyncdiff,
                });
                let (output, steps) = run(&mut session, &model, &request, &strategy);
                let name = format!("{case}/final_latents");
                reference.check(&what, &name, &output.latents);
                let all = format!("{case}/step_latents");
                if reference.has(&all) {
                    check_steps(&reference, &what, &all, &steps);
                }
                // Otherwise the sequential result would pass too.
                let expected = reference.values(&name);
                let off = distance(&output.latents, expected);
                let sequential = distance(sequential.values("final_latents"), expected);
                assert!(
                    5.0 * off <= sequential,
                    "{what}: off by {off:e}, sequential by {sequential:e}"
                );
                cases += 1;
            }
        }
    }
    println!("{cases} asynchronous cases of stride {stride} checked");
    assert!(cases > 0 || models().is_empty());
}

#[test]
fn asynchronous_stride_1() {
    asynchronous("asyncdiff_upstream", 1);
}

#[test]
fn asynchronous_stride_2() {
    asynchronous("asyncdiff_intended", 2);
}

/// Where the latents live must not show: not in the noise that is drawn, nor in the order of several pictures.
#[test]
fn a_warm_up_to_the_end_is_the_sequential_run_wherever_the_latents_are() {
    let mut ranks = BTreeSet::new();
    for model in models() {
        let unet = &model.pipeline.unet().config;
        let mut request = model.pipeline.request("a red fox");
        if model.pipeline.image_encoder().is_some() {
            request = image_to_video::small_request(&model);
        } else if unet.in_channels > unet.out_channels {
            println!("passing over {}: it needs a picture", model.name);
            continue;
        }
        request.shape.steps = 3;
        request.shape.num_images = 2;
        request.shape.frames = request.shape.frames.min(3);
        request.content.seed = 7;
        request.shape.scheduler = Some("euler-ancestral".to_owned());
        let mut session = Session::new(&model.pipeline, workers("cpu:4", None).unwrap()).unwrap();
        let (exact, _) = run(&mut session, &model, &request, &Strategy::sequential());
        for (segments, stride) in [(2, 1), (3, 1), (3, 2)] {
            let strategy = Strategy::from(Spread::AsyncDiff {
                partition: PartitionChoice::Published(segments),
                parameters: AsyncDiff {
                    stride,
                    warm_up: 3,
                    ..AsyncDiff::default()
                },
            });
            let plan = model.pipeline.plan(&request.shape, &strategy).unwrap().plan;
            ranks.insert(plan.latents_rank);
            let (found, steps) = run(&mut session, &model, &request, &strategy);
            let what = format!("{} with {segments} segments, stride {stride}", model.name);
            assert_eq!(steps.len(), 3, "{what}");
            assert_eq!(found.latents, exact.latents, "{what}");
            assert_eq!(found.images, exact.images, "{what}");
        }
    }
    println!("latents on ranks {ranks:?}");
}
