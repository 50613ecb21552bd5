//! Computing in other types than `f32`, and weights that are stored in others.
#![cfg(all(feature = "flex", feature = "embedded"))]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use asyncdiff_core::AsyncDiff;
use asyncdiff_models::device::workers;
use asyncdiff_models::image::{Image, Mask};
use asyncdiff_models::quality::{psnr, relative_error};
use asyncdiff_models::{
    Checkpoint, Dtype, InitImage, Output, PartitionChoice, Request, Run, Session, Spread,
    StableDiffusion, Strategy,
};
use half::f16;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype as Stored, TensorView};

fn fixture(model: &str) -> PathBuf {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
    fixtures.join(model).join("checkpoint")
}

fn request(pipeline: &StableDiffusion) -> Request {
    let mut request = pipeline.request("red apple, fluent style");
    request.shape.steps = 8;
    (request.shape.width, request.shape.height) = (64, 64);
    request
}

fn generate(pipeline: &Arc<StableDiffusion>, strategy: &Strategy) -> (Output, Run, Vec<u64>) {
    let request = request(pipeline);
    let run = pipeline.plan(&request.shape, strategy).unwrap();
    let mut session = Session::new(pipeline, workers("cpu:3", Some(3)).unwrap()).unwrap();
    let output = session.generate(&run, &request.content, &mut ()).unwrap();
    let loaded = session.loaded_bytes();
    (output, run, loaded)
}

/// Three ranks whose every input is fresh: the sequential computation.
fn distributed(calls: usize) -> Strategy {
    Strategy::from(Spread::AsyncDiff {
        partition: PartitionChoice::Published(3),
        parameters: AsyncDiff {
            warm_up: calls,
            ..AsyncDiff::default()
        },
    })
}

/// How far latents may be off, in roundings: a denoiser call rounds some 250 results one after the other, each independent
/// of the others, so that the root of their number adds up.
const ROUNDINGS: f64 = 16.0;

#[test]
fn narrow_types_make_nearly_the_same_picture() {
    for (name, checkpoint) in [
        ("embedded", Checkpoint::embedded()),
        ("sd15", Checkpoint::folder(fixture("sd15")).unwrap()),
        ("sd21", Checkpoint::folder(fixture("sd21")).unwrap()),
        ("sdxl", Checkpoint::folder(fixture("sdxl")).unwrap()),
    ] {
        let open = |dtype| {
            let pipeline = StableDiffusion::open(checkpoint.clone()).unwrap();
            Arc::new(pipeline.with_dtype(dtype))
        };
        let (exact, wide, loaded) = generate(&open(Dtype::F32), &Strategy::sequential());
        assert_eq!(loaded[0], wide.summary.ranks[0].weight_bytes);
        for (dtype, rounding) in [(Dtype::F16, 2_f64.powi(-11)), (Dtype::Bf16, 2_f64.powi(-8))] {
            let pipeline = open(dtype);
            let (found, run, loaded) = generate(&pipeline, &Strategy::sequential());
            let error = relative_error(&found.latents, &exact.latents).unwrap();
            let decibels = psnr(&found.images[0], &exact.images[0]).unwrap();
            assert!(error > 0.0, "{name}: nothing was computed in {dtype}");

            assert!(
                error < ROUNDINGS * rounding,
                "{name} in {dtype} is {error} off"
            );
            // The decoder keeps the relative error; half of the range is the most that a picture's values deviate by.
            let least = -20.0 * (0.5 * ROUNDINGS * rounding).log10();
            // Of a model that was trained, nobody sees the difference.
            let least = if name == "embedded" {
                f64::max(least, 40.0)
            } else {
                least
            };
            assert!(decibels > least, "{name} in {dtype}: {decibels} dB");

            // Half the bytes, in the plan and on the device.
            let weights = run.summary.ranks[0].weight_bytes;
            assert_eq!(2 * weights, wide.summary.ranks[0].weight_bytes);
            assert_eq!(loaded[0], weights);
            // Nothing is rounded on the way from rank to rank.
            let (spread, run, _) = generate(&pipeline, &distributed(run.plan.calls));
            assert_eq!(
                spread.latents, found.latents,
                "{name} in {dtype} on three ranks"
            );
            let wide = open(Dtype::F32)
                .plan(&run.shape, &distributed(run.plan.calls))
                .unwrap();
            for (narrow, wide) in run.summary.edges.iter().zip(&wide.summary.edges) {
                assert_eq!(2 * narrow.bytes, wide.bytes);
            }
            assert!(run.summary.bytes_per_call < 0.6 * wide.summary.bytes_per_call);
        }
    }
}

/// Inpainting a weighted prompt on two ranks that forecast: everything that brings `f32` numbers to the blocks.
fn everything(pipeline: &Arc<StableDiffusion>) -> Output {
    let mut request = request(pipeline);
    request.content.prompt = "a (red:1.4) apple".to_owned();
    let (width, height) = (request.shape.width, request.shape.height);
    let image = Image {
        width,
        height,
        rgb: (0..3 * width * height).map(|at| (at % 251) as u8).collect(),
    };
    let grey = (0..width * height)
        .map(|at| if at % width < width / 2 { 255 } else { 0 })
        .collect();
    let mask = Mask {
        width,
        height,
        grey,
    };
    request.start_from(InitImage::inpaint(image, mask));
    let strategy = Strategy::from(Spread::AsyncDiff {
        partition: PartitionChoice::Published(2),
        parameters: AsyncDiff {
            warm_up: 2,
            forecast: 1,
            ..AsyncDiff::default()
        },
    });
    let run = pipeline.plan(&request.shape, &strategy).unwrap();
    let mut session = Session::new(pipeline, workers("cpu:2", Some(2)).unwrap()).unwrap();
    session.generate(&run, &request.content, &mut ()).unwrap()
}

#[test]
fn everything_that_can_be_asked_for_works_in_narrow_types() {
    for model in ["sd15", "sdxl_inpaint"] {
        let folder = tempfile::tempdir().unwrap();
        stored(&fixture(model), folder.path(), Stored::F16, |_, value| {
            value.to_f32()
        });
        // The autoencoder too: the fixtures' configurations keep it in f32.
        let config = folder.path().join("vae/config.json");
        let text = fs::read_to_string(&config).unwrap();
        let narrow = text.replace("\"force_upcast\": true", "\"force_upcast\": false");
        assert_ne!(text, narrow);
        fs::write(config, narrow).unwrap();
        let open = |dtype| {
            let checkpoint = Checkpoint::folder(folder.path()).unwrap();
            Arc::new(StableDiffusion::open(checkpoint).unwrap().with_dtype(dtype))
        };
        let exact = everything(&open(Dtype::F32));
        for (dtype, rounding) in [(Dtype::F16, 2_f64.powi(-11)), (Dtype::Bf16, 2_f64.powi(-8))] {
            let found = everything(&open(dtype));
            let error = relative_error(&found.latents, &exact.latents).unwrap();
            // What is extrapolated from two values has the errors of both: up to three times one's.
            assert!(
                error > 0.0 && error < 3.0 * ROUNDINGS * rounding,
                "{model} in {dtype} is {error} off"
            );
            let decibels = psnr(&found.images[0], &exact.images[0]).unwrap();
            let least = -20.0 * (0.5 * 3.0 * ROUNDINGS * rounding).log10();
            assert!(decibels > least, "{model} in {dtype}: {decibels} dB");
        }
    }
}

/// A copy of the checkpoint with its tensors changed and stored in another type.
fn stored(from: &Path, to: &Path, dtype: Stored, change: impl Fn(usize, f16) -> f32) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            fs::create_dir_all(&target).unwrap();
            stored(
                &source,
                &target,
                dtype,
                &change as &dyn Fn(usize, f16) -> f32,
            );
            continue;
        }
        if source
            .extension()
            .is_none_or(|extension| extension != "safetensors")
        {
            fs::copy(source, target).unwrap();
            continue;
        }
        let bytes = fs::read(&source).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let tensors: Vec<_> = file
            .iter()
            .map(|(name, view)| {
                assert_eq!(view.dtype(), Stored::F16, "{name}");
                let values = view.data().chunks_exact(2).enumerate();
                let data: Vec<u8> = values
                    .flat_map(|(index, pair)| {
                        let value = change(index, f16::from_le_bytes([pair[0], pair[1]]));
                        match dtype {
                            Stored::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
                            _ => value.to_le_bytes().to_vec(),
                        }
                    })
                    .collect();
                (name, view.shape().to_vec(), data)
            })
            .collect();
        let views = tensors.iter().map(|(name, shape, data)| {
            (*name, TensorView::new(dtype, shape.clone(), data).unwrap())
        });
        fs::write(target, safetensors::serialize(views, None).unwrap()).unwrap();
    }
}

#[test]
fn weights_stored_in_f16_are_computed_with_in_f32() {
    let latents = |folder: &Path| {
        let pipeline = StableDiffusion::open(Checkpoint::folder(folder).unwrap()).unwrap();
        let pipeline = Arc::new(pipeline);
        generate(&pipeline, &Strategy::sequential()).0.latents
    };
    let narrow = latents(&fixture("sd15"));
    let folder = tempfile::tempdir().unwrap();
    stored(&fixture("sd15"), folder.path(), Stored::F32, |_, value| {
        value.to_f32()
    });
    // The same numbers in another file type: the same bits.
    assert_eq!(latents(folder.path()), narrow);

    // Numbers that f16 rounds to the same: off by half a step, up and down.
    let near = |index: usize, value: f16| {
        let sign = if index.is_multiple_of(2) { 1.0 } else { -1.0 };
        value.to_f32() * (1.0 + sign * 0.49 * 2_f32.powi(-11))
    };
    let folder = tempfile::tempdir().unwrap();
    stored(&fixture("sd15"), folder.path(), Stored::F32, near);
    let wide = latents(folder.path());
    let folder = tempfile::tempdir().unwrap();
    stored(&fixture("sd15"), folder.path(), Stored::F16, near);
    assert_eq!(latents(folder.path()), narrow);
    let error = relative_error(&wide, &narrow).unwrap();
    // A hundred layers one after the other, each off by half a rounding in ways of its own: the root of their number.
    let bound = 5.0 * 2_f64.powi(-11);
    assert!(
        error > 0.0 && error < bound,
        "{error} should be less than {bound}"
    );
}
