//! Guidance split against the whole batch, on every kind of model: the halves are computed by ranks of their own.

use std::sync::Arc;

use asyncdiff_models::device::workers;
use asyncdiff_models::image::{Image, Mask};
use asyncdiff_models::quality::relative_error;
use asyncdiff_models::{InitImage, Request, Session, Spread, StableDiffusion, Strategy};

use super::fixtures::models;
use super::image_to_video;

/// The order in which a kernel adds up may depend on the size of the batch. A few steps through few layers make little of that.
const ROUNDING: f64 = 1e-5;

/// Several small pictures or videos in a few steps with noise between them, started from what the model needs; with `mask`, inside
/// one.
pub fn request(
    pipeline: &Arc<StableDiffusion>,
    video_of_picture: Option<Request>,
    mask: bool,
) -> Request {
    let mut request = video_of_picture.unwrap_or_else(|| pipeline.request("a red fox"));
    let shape = &mut request.shape;
    shape.steps = 5;
    shape.num_images = 2;
    shape.frames = shape.frames.min(3);
    shape.guidance_scale = 5.0;
    shape.scheduler = Some("euler-ancestral".to_owned());
    request.content.seed = 7;
    if pipeline.text_encoders().is_some() {
        request.content.negative_prompt = "blue".to_owned();
    }
    if mask {
        let (width, height) = (request.shape.width, request.shape.height);
        let rgb = (0..3 * width * height).map(|at| (at % 251) as u8).collect();
        let grey = (0..width * height).map(|at| if at % width < width / 2 { 255 } else { 0 });
        let grey = grey.collect();
        request.start_from(InitImage::inpaint(
            Image { width, height, rgb },
            Mask {
                width,
                height,
                grey,
            },
        ));
        request.shape.start = request.shape.start.with_strength(0.9);
    }
    request
}

/// Whether there is a mask: both, for a model that can do with and without.
pub fn masks(pipeline: &StableDiffusion) -> Vec<bool> {
    let unet = &pipeline.unet().config;
    let of_picture = pipeline.image_encoder().is_some();
    let reads_mask = !of_picture && unet.in_channels > unet.out_channels;
    match (of_picture || pipeline.motion_unet().is_some(), reads_mask) {
        (true, _) => vec![false],
        (_, true) => vec![true],
        _ => vec![false, true],
    }
}

#[test]
fn split_guidance_is_the_whole_batch() {
    let (mut runs, mut equal) = (0, 0);
    for model in models() {
        let pipeline = &model.pipeline;
        let of_picture = pipeline.image_encoder().is_some();
        let mut session = Session::new(pipeline, workers("cpu:4", None).unwrap()).unwrap();
        for mask in masks(pipeline) {
            let small = of_picture.then(|| image_to_video::small_request(&model));
            let request = request(pipeline, small, mask);
            for spread in [Spread::Whole, Spread::segments(2)] {
                let whole = Strategy::from(spread);
                let mut latents = |strategy: &Strategy| {
                    let run = pipeline.plan(&request.shape, strategy).unwrap();
                    let ranks = run.plan.ranks.len();
                    let made = session.generate(&run, &request.content, &mut ()).unwrap();
                    (made.latents, ranks)
                };
                let (expected, ranks) = latents(&whole);
                let (found, twice) = latents(&whole.clone().split());
                let what = format!("{}, mask: {mask}, {whole}", model.name);
                assert_eq!(twice, 2 * ranks, "{what}");
                let error = relative_error(&found, &expected).unwrap();
                assert!(error <= ROUNDING, "{what}: {error:e} off");
                runs += 1;
                equal += usize::from(found == expected);
            }
        }
    }
    println!("{runs} runs checked, {equal} of them equal to the last bit");
    assert!(runs > 0 || models().is_empty());
}
