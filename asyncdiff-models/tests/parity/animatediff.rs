//! Videos of motion adapters. diffusers has them as `[videos, channels, frames, height, width]`, we have a row for each frame; and
//! their noise scheduler is the adapter's or the published one, which a manifest may replace.

use std::sync::Arc;

use asyncdiff_core::Schedule;
use asyncdiff_core::scheduler::SchedulerConfig;
use asyncdiff_models::device::workers;
use asyncdiff_models::{Checkpoint, MotionAdapter, Request, Session, StableDiffusion, Strategy};
use burn::tensor::Tensor;

use super::fixtures::{Model, Reference, models};

/// A reference tensor of videos, to a row for each frame; and the number of frames.
pub fn frame_by_frame(videos: Tensor<5>) -> (Tensor<4>, usize) {
    let frames = videos.dims()[2];
    (videos.swap_dims(1, 2).flatten(0, 1), frames)
}

/// The other way round, for elements in row-major order, of `channels` channels.
pub fn as_in_diffusers(rows: &[f32], videos: usize, frames: usize, channels: usize) -> Vec<f32> {
    let plane = rows.len() / (videos * frames * channels);
    let mut values = Vec::with_capacity(rows.len());
    for video in rows.chunks(frames * channels * plane) {
        for channel in 0..channels {
            for frame in video.chunks(channels * plane) {
                values.extend_from_slice(&frame[channel * plane..(channel + 1) * plane]);
            }
        }
    }
    values
}

/// The pipeline of a model's folder, with the motion adapter that is beside it, if there is one, and then with the noise
/// scheduler that its references were made with.
pub fn open(
    checkpoint: &std::path::Path,
    manifest: &serde_json::Value,
) -> Result<StableDiffusion, asyncdiff_models::Error> {
    let pipeline = StableDiffusion::open(Checkpoint::folder(checkpoint)?)?;
    let adapter = checkpoint.join("motion_adapter");
    if !adapter.is_dir() {
        return Ok(pipeline);
    }
    let adapter = MotionAdapter::open(Checkpoint::part(adapter)?)?;
    let pipeline = pipeline.with_motion(adapter)?;
    let params = &manifest["files"]["pipeline_sequential.safetensors"]["params"];
    Ok(match given_scheduler(params) {
        Some(config) => pipeline.with_scheduler(config),
        None => pipeline,
    })
}

fn given_scheduler(params: &serde_json::Value) -> Option<SchedulerConfig> {
    let config = params.get("scheduler_config")?;
    Some(config.to_string().parse().unwrap())
}

/// A model with a motion adapter, its pipeline opened anew as a user does, and the reference of its pipeline.
fn as_opened_by_users() -> Vec<(Model, Arc<StableDiffusion>, Reference)> {
    let models = models().into_iter();
    let videos = models.filter(|model| model.pipeline.motion_unet().is_some());
    videos
        .filter_map(|model| {
            let folder = model.folder.join("checkpoint");
            let adapter = Checkpoint::part(folder.join("motion_adapter")).unwrap();
            let pipeline = StableDiffusion::open(Checkpoint::folder(folder).unwrap())
                .and_then(|pipeline| pipeline.with_motion(MotionAdapter::open(adapter)?))
                .unwrap();
            let reference = model.reference("pipeline_sequential")?;
            Some((model, Arc::new(pipeline), reference))
        })
        .collect()
}

fn small_request(pipeline: &StableDiffusion) -> Request {
    let mut request = pipeline.request("a red fox");
    request.shape.steps = 2;
    request.shape.width /= 2;
    request.shape.height /= 2;
    request
}

/// The references' pipelines were given DDIM, linear and linspace by hand, as AnimateDiff's documentation says. Users get it
/// without asking.
#[test]
fn the_noise_scheduler_of_videos_is_the_published_one() {
    for (model, pipeline, reference) in as_opened_by_users() {
        let config = given_scheduler(&reference.params).unwrap();
        let published = config.class_name == "DDIMScheduler"
            && config.beta_schedule.as_deref() == Some("linear")
            && config.timestep_spacing.as_deref() == Some("linspace");
        if !published
            || model
                .folder
                .join("checkpoint/motion_adapter/scheduler")
                .is_dir()
        {
            println!("passing over {}: made with another scheduler", model.name);
            continue;
        }
        let run = pipeline
            .plan(&small_request(&pipeline).shape, &Strategy::sequential())
            .unwrap();
        assert_eq!(
            run.schedule,
            Schedule::new(&config, 2).unwrap(),
            "{}",
            model.name
        );
    }
}

#[test]
fn one_frame_is_the_picture_of_the_image_model() {
    for (model, pipeline, _) in as_opened_by_users() {
        let checkpoint = Checkpoint::folder(model.folder.join("checkpoint")).unwrap();
        let image_model = Arc::new(StableDiffusion::open(checkpoint).unwrap());
        let mut request = small_request(&pipeline);
        assert!(request.shape.frames > 1, "{}", model.name);
        request.shape.frames = 1;
        let make = |pipeline: &Arc<StableDiffusion>| {
            let run = pipeline
                .plan(&request.shape, &Strategy::segments(2))
                .unwrap();
            let workers = workers("cpu:2", None).unwrap();
            let mut session = Session::new(pipeline, workers).unwrap();
            let output = session.generate(&run, &request.content, &mut ()).unwrap();
            (
                run.plan,
                run.schedule,
                output.latents,
                output.images,
                session.loaded_bytes(),
            )
        };
        assert!(make(&pipeline) == make(&image_model), "{}", model.name);
    }
}
