//! Image to image and inpainting against diffusers: plans that start part-way, from a picture.

use std::collections::BTreeMap;

use asyncdiff_models::device::workers;
use asyncdiff_models::image::{Image, Mask};
use asyncdiff_models::{InitImage, Session, Spread, Strategy};
use serde::Deserialize;

use super::fixtures::{Reference, folder, models};
use super::pipelines::{Steps, check_steps};

#[derive(Deserialize)]
struct Params {
    prompt: String,
    negative_prompt: String,
    guidance: f64,
    seed: u64,
    cases: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Case {
    model: String,
    scheduler: String,
    steps: usize,
    strength: f64,
    mask: bool,
    num_images: usize,
}

#[test]
fn runs_that_start_from_a_picture() {
    let Some(folder) = folder("image_to_image") else {
        return;
    };
    let reference = Reference::of_folder(&folder, "image_to_image");
    let params: Params = serde_json::from_value(reference.params.clone()).unwrap();
    let [height, width, _] = *reference.shape("image") else {
        panic!("the picture is [height, width, 3]");
    };
    let bytes = |name: &str| -> Vec<u8> {
        let values = reference.values(name).iter();
        values.map(|value| *value as u8).collect()
    };
    let image = Image {
        width,
        height,
        rgb: bytes("image"),
    };
    let mask = Mask {
        width,
        height,
        grey: bytes("mask"),
    };

    let mut checked = 0;
    for model in models() {
        let mut session = Session::new(&model.pipeline, workers("cpu:2", None).unwrap()).unwrap();
        let cases = params.cases.iter();
        for (name, case) in cases.filter(|(_, case)| case.model == model.name) {
            let mut request = model.pipeline.request(&params.prompt);
            request
                .content
                .negative_prompt
                .clone_from(&params.negative_prompt);
            request.shape.guidance_scale = params.guidance;
            request.content.seed = params.seed;
            (request.shape.width, request.shape.height) = (width, height);
            request.shape.steps = case.steps;
            request.shape.scheduler = Some(case.scheduler.clone());
            request.shape.num_images = case.num_images;
            request.content.batch_noise = true;
            request.start_from(if case.mask {
                InitImage::inpaint(image.clone(), mask.clone())
            } else {
                InitImage::new(image.clone())
            });
            request.shape.start = request.shape.start.with_strength(case.strength);

            let run = model
                .pipeline
                .plan(&request.shape, &Strategy::sequential())
                .unwrap();
            let mut steps = Steps::default();
            let sequential = session
                .generate(&run, &request.content, &mut steps)
                .unwrap();
            check_steps(&reference, name, name, &steps.0);

            // An asynchronous run that is all warm-up says whether the latents' rank alone knows the picture.
            let mut strategy = Strategy::segments(2);
            if let Spread::AsyncDiff { parameters, .. } = &mut strategy.spread {
                parameters.warm_up = run.plan.calls;
            }
            let run = model.pipeline.plan(&request.shape, &strategy).unwrap();
            let spread = session.generate(&run, &request.content, &mut ()).unwrap();
            assert_eq!(spread.latents, sequential.latents, "{name}: on two ranks");
            checked += 1;
        }
    }
    println!("{checked} runs from a picture checked");
    assert_eq!(checked, params.cases.len());
}
