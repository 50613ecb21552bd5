//! What motion adapters promise beside the reference data: a rank loads its own blocks only, from both files; videos of a batch
//! keep apart; and adapters that do not fit say why. On the AnimateDiff fixture's models.
#![cfg(feature = "flex")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use asyncdiff_burn::weights::read_tensors;
use asyncdiff_core::scheduler::SchedulerConfig;
use asyncdiff_core::{AsyncDiff, Schedule};
use asyncdiff_models::device::workers;
use asyncdiff_models::image::Image;
use asyncdiff_models::lora::Lora;
use asyncdiff_models::quality::relative_error;
use asyncdiff_models::random::TorchRng;
use asyncdiff_models::{
    Checkpoint, Error, InitImage, MotionAdapter, NamedTensor, Output, PartitionChoice, Request,
    Session, Spread, StableDiffusion, Strategy,
};
use safetensors::tensor::{Dtype, TensorView};

const WEIGHTS: &str = "diffusion_pytorch_model.safetensors";

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/animatediff/checkpoint")
}

fn image_model() -> Arc<StableDiffusion> {
    Arc::new(open())
}

fn open() -> StableDiffusion {
    StableDiffusion::open(Checkpoint::folder(fixture()).unwrap()).unwrap()
}

fn with_adapter(folder: &Path) -> Result<Arc<StableDiffusion>, Error> {
    let adapter = MotionAdapter::open(Checkpoint::part(folder)?)?;
    Ok(Arc::new(open().with_motion(adapter)?))
}

fn video_model() -> Arc<StableDiffusion> {
    with_adapter(&fixture().join("motion_adapter")).unwrap()
}

/// A copy of the fixture's adapter with another configuration, and those of its tensors that `keep`, as `change` makes them.
fn changed_adapter(
    name: &str,
    config: &[(&str, serde_json::Value)],
    change: impl Fn(&str, &mut Vec<f32>) -> bool,
) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).unwrap();
    let from = fixture().join("motion_adapter");
    let text = fs::read(from.join("config.json")).unwrap();
    let mut settings: serde_json::Value = serde_json::from_slice(&text).unwrap();
    for (key, value) in config {
        settings[key] = value.clone();
    }
    fs::write(folder.join("config.json"), settings.to_string()).unwrap();
    let mut tensors = read_tensors(&from.join(WEIGHTS)).unwrap();
    tensors.retain_mut(|tensor| change(&tensor.name, &mut tensor.values));
    write_weights(&folder.join(WEIGHTS), &tensors);
    folder
}

fn write_weights(path: &Path, tensors: &[NamedTensor]) {
    let bytes: BTreeMap<&str, Vec<u8>> = tensors
        .iter()
        .map(|tensor| {
            let values = tensor.values.iter().flat_map(|value| value.to_le_bytes());
            (tensor.name.as_str(), values.collect())
        })
        .collect();
    let views = tensors.iter().map(|tensor| {
        let values = &bytes[tensor.name.as_str()];
        let view = TensorView::new(Dtype::F32, tensor.shape.clone(), values).unwrap();
        (tensor.name.clone(), view)
    });
    let file = safetensors::serialize(views.collect::<Vec<_>>(), None).unwrap();
    fs::write(path, file).unwrap();
}

/// Three small frames in three steps.
fn request(pipeline: &StableDiffusion) -> Request {
    let mut request = pipeline.request("a red fox");
    (request.shape.width, request.shape.height) = (64, 64);
    request.shape.frames = 3;
    request.shape.steps = 3;
    request
}

fn generate(pipeline: &Arc<StableDiffusion>, request: &Request) -> Output {
    let run = pipeline
        .plan(&request.shape, &Strategy::sequential())
        .unwrap();
    let mut session = Session::new(pipeline, workers("cpu", None).unwrap()).unwrap();
    session.generate(&run, &request.content, &mut ()).unwrap()
}

fn noise(rows: usize) -> NamedTensor {
    NamedTensor {
        name: "noise".to_owned(),
        shape: vec![rows, 4, 8, 8],
        values: TorchRng::new(3).randn(rows * 4 * 64),
    }
}

fn sentence<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn ranks_load_their_own_blocks_of_both_files_only() {
    let pipeline = video_model();
    let strategy = Strategy::from(Spread::AsyncDiff {
        partition: PartitionChoice::Published(3),
        parameters: AsyncDiff {
            warm_up: 1,
            ..AsyncDiff::default()
        },
    });
    let request = request(&pipeline);
    let run = pipeline.plan(&request.shape, &strategy).unwrap();
    assert!(!run.fell_back);
    let mut session = Session::new(&pipeline, workers("cpu:3", None).unwrap()).unwrap();
    session.prepare(&run).unwrap();
    let planned: Vec<_> = run
        .summary
        .ranks
        .iter()
        .map(|rank| rank.weight_bytes)
        .collect();
    assert_eq!(session.loaded_bytes(), planned);
    // The same session makes a picture with other weights, and a video again.
    let video = session.generate(&run, &request.content, &mut ()).unwrap();
    let mut picture = request.clone();
    picture.shape.frames = 1;
    let picture = pipeline.plan(&picture.shape, &strategy).unwrap();
    let bytes: u64 = planned.iter().sum();
    assert_eq!(
        session
            .generate(&picture, &request.content, &mut ())
            .unwrap()
            .images
            .len(),
        1
    );
    assert!(session.loaded_bytes().iter().sum::<u64>() < bytes);
    assert_eq!(
        session
            .generate(&run, &request.content, &mut ())
            .unwrap()
            .latents,
        video.latents
    );
}

#[test]
fn the_videos_of_a_batch_keep_apart() {
    let pipeline = video_model();
    let mut request = request(&pipeline);
    request.shape.num_images = 2;
    request.content.latents = Some(noise(6));
    let both = generate(&pipeline, &request);
    assert_eq!(
        both.videos().map(<[Image]>::len).collect::<Vec<_>>(),
        [3, 3]
    );
    let half = both.latents.len() / 2;
    request.shape.num_images = 1;
    for (index, latents) in both.latents.chunks(half).enumerate() {
        let values = noise(6).values[index * half..(index + 1) * half].to_vec();
        request.content.latents = Some(NamedTensor { values, ..noise(3) });
        let alone = generate(&pipeline, &request);
        assert!(relative_error(&alone.latents, latents).unwrap() < 1e-5);
        // Frames are not all alike, and neither are the videos.
        assert_ne!(alone.images[0], alone.images[1]);
    }
    assert!(relative_error(&both.latents[..half], &both.latents[half..]).unwrap() > 0.1);
}

/// What a motion module adds is its last layer's output. Without it, every frame is a picture of the image model.
#[test]
fn without_motion_every_frame_is_a_picture_of_the_image_model() {
    let still = changed_adapter("still", &[], |name, values| {
        if name.contains("proj_out") {
            values.fill(0.0);
        }
        true
    });
    let video_model = with_adapter(&still).unwrap();
    let mut frames = request(&video_model);
    frames.content.latents = Some(noise(3));
    let mut pictures = frames.clone();
    (pictures.shape.frames, pictures.shape.num_images) = (1, 3);
    let config: SchedulerConfig = r#"{"_class_name": "DDIMScheduler", "beta_start": 0.00085,
        "beta_end": 0.012, "beta_schedule": "linear", "clip_sample": false, "set_alpha_to_one": false,
        "steps_offset": 1, "timestep_spacing": "linspace"}"#
        .parse()
        .unwrap();
    let expected = generate(&Arc::new(open().with_scheduler(config)), &pictures);
    let found = generate(&video_model, &frames);
    assert!(relative_error(&found.latents, &expected.latents).unwrap() < 1e-5);
    // The fixture's own adapter moves.
    let moving = generate(&self::video_model(), &frames);
    assert!(relative_error(&moving.latents, &expected.latents).unwrap() > 0.01);
}

#[test]
fn adapters_without_a_middle_module_work() {
    let config = [("use_motion_mid_block", false.into())];
    let without = |name: &str, _: &mut Vec<f32>| !name.starts_with("mid_block");
    let pipeline = with_adapter(&changed_adapter("early", &config, without)).unwrap();
    let early = generate(&pipeline, &request(&pipeline));
    assert_eq!((early.images.len(), early.frames), (3, 3));
    let pipeline = video_model();
    let late = generate(&pipeline, &request(&pipeline));
    assert_ne!(early.latents, late.latents);
}

#[test]
fn an_adapters_own_noise_scheduler_wins() {
    let folder = changed_adapter("own_scheduler", &[], |_, _| true);
    fs::create_dir_all(folder.join("scheduler")).unwrap();
    let config = r#"{"_class_name": "EulerDiscreteScheduler", "beta_schedule": "scaled_linear", "clip_sample": false}"#;
    fs::write(folder.join("scheduler/scheduler_config.json"), config).unwrap();
    let pipeline = with_adapter(&folder).unwrap();
    let schedule = |pipeline: &StableDiffusion, request: &Request| {
        pipeline
            .plan(&request.shape, &Strategy::sequential())
            .unwrap()
            .schedule
    };
    let mut request = request(&pipeline);
    let config: SchedulerConfig = config.parse().unwrap();
    assert_eq!(
        schedule(&pipeline, &request),
        Schedule::new(&config, 3).unwrap()
    );
    // A name changes the class and nothing else.
    request.shape.scheduler = Some("ddim".to_owned());
    let renamed = config.with_class("ddim").unwrap();
    assert_eq!(
        schedule(&pipeline, &request),
        Schedule::new(&renamed, 3).unwrap()
    );
    // Pictures keep the checkpoint's.
    request.shape.frames = 1;
    assert_eq!(
        schedule(&pipeline, &request),
        schedule(&image_model(), &request)
    );
}

/// A LoRA of one matrix of `part`.
fn lora(path: &Path, part: &str, module: &str, [output, input]: [usize; 2]) {
    let tensor = |end: &str, shape: Vec<usize>, seed| NamedTensor {
        name: format!("{part}.{module}.{end}.weight"),
        values: TorchRng::new(seed).randn(shape.iter().product()),
        shape,
    };
    let (down, up) = (
        tensor("lora_A", vec![2, input], 1),
        tensor("lora_B", vec![output, 2], 2),
    );
    write_weights(path, &[down, up]);
}

/// The small motion adapter of the embedded model comes with one.
#[test]
fn an_adapters_lora_changes_videos_only() {
    let folder = changed_adapter("with_lora", &[], |_, _| true);
    let path = folder.join("pytorch_lora_weights.safetensors");
    let module = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k";
    lora(&path, "unet", module, [16, 32]);
    let with_lora = with_adapter(&folder).unwrap();
    let request = request(&with_lora);
    let found = generate(&with_lora, &request).latents;

    // The same LoRA, given to the model.
    let given = vec![(Lora::open(&path).unwrap(), 1.0)];
    let adapter = Checkpoint::part(fixture().join("motion_adapter")).unwrap();
    let given = open()
        .with_motion(MotionAdapter::open(adapter).unwrap())
        .and_then(|pipeline| pipeline.with_loras(given))
        .unwrap();
    let given = Arc::new(given);
    assert_eq!(found, generate(&given, &request).latents);
    assert_ne!(found, generate(&video_model(), &request).latents);
    let mut picture = request.clone();
    picture.shape.frames = 1;
    assert_eq!(
        generate(&with_lora, &picture).latents,
        generate(&image_model(), &picture).latents
    );

    // The text encoder serves pictures too.
    let module = "text_model.encoder.layers.0.self_attn.q_proj";
    lora(&path, "text_encoder", module, [32, 32]);
    let text = sentence(with_adapter(&folder));
    assert!(
        text.contains("with_lora/pytorch_lora_weights.safetensors"),
        "{text}"
    );
    assert!(text.contains("text_encoder"), "{text}");
}

/// diffusers' `AnimateDiffPipeline` draws `[videos, channels, frames, height, width]`.
#[test]
fn a_seed_means_the_noise_that_it_means_in_diffusers() {
    let pipeline = video_model();
    let mut request = request(&pipeline);
    request.content.seed = 7;
    let drawn = TorchRng::new(7).randn(4 * 3 * 64);
    let mut latents = noise(3);
    for (index, value) in latents.values.iter_mut().enumerate() {
        let (frame, channel, pixel) = (index / (4 * 64), index / 64 % 4, index % 64);
        *value = drawn[(channel * 3 + frame) * 64 + pixel];
    }
    let seeded = generate(&pipeline, &request);
    request.content.latents = Some(latents);
    assert_eq!(seeded.latents, generate(&pipeline, &request).latents);
}

#[test]
fn impossible_videos_are_errors() {
    let (pipeline, image_model) = (video_model(), image_model());
    let error = |pipeline: &StableDiffusion, change: fn(&mut Request)| {
        let mut request = request(pipeline);
        change(&mut request);
        let planned = pipeline.plan(&request.shape, &Strategy::sequential());
        let checked = planned.and_then(|_| Ok(pipeline.check(&request.shape, &request.content)?));
        checked.unwrap_err().to_string()
    };
    for (found, expected) in [
        (
            error(&image_model, |_| ()),
            "3 frames are a video, which needs a motion adapter: give one (--motion-adapter), or ask for 1 frame",
        ),
        (
            error(&pipeline, |request| request.shape.frames = 33),
            "33 frames are not possible: the motion adapter makes at most 32 (its motion_max_seq_length); ask for no more than that (--frames)",
        ),
        (
            error(&pipeline, |request| {
                let (width, height) = (request.shape.width, request.shape.height);
                let rgb = vec![0; 3 * width * height];
                request.start_from(InitImage::new(Image { width, height, rgb }));
            }),
            "a video of 3 frames cannot start from a picture: leave out the picture, or ask for 1 frame",
        ),
        (
            error(&pipeline, |request| {
                request.content.latents = Some(noise(2))
            }),
            "the initial latents have shape [2, 4, 8, 8], this request needs [3, 4, 8, 8]",
        ),
    ] {
        assert_eq!(found, expected);
    }
    assert!(error(&pipeline, |request| request.shape.frames = 0).contains("number of frames 0"));
    assert!(error(&pipeline, |request| request.content.fps = 0).contains("frames per second 0"));
}

#[test]
fn adapters_that_do_not_fit_say_why() {
    let nothing = sentence(with_adapter(Path::new("no/such/folder")));
    assert!(nothing.contains("no/such/folder"), "{nothing}");
    let pipeline = sentence(with_adapter(&fixture()));
    assert!(pipeline.contains("no config.json"), "{pipeline}");
    let unet = sentence(with_adapter(&fixture().join("unet")));
    assert!(
        unet.contains("unet/config.json is that of a UNet2DConditionModel, not of a MotionAdapter"),
        "{unet}"
    );
    let wide = [("block_out_channels", vec![320, 640, 1280, 1280].into())];
    let wide = sentence(with_adapter(&changed_adapter("wide", &wide, |_, _| true)));
    assert!(
        wide.contains("wide/config.json: the adapter does not fit this UNet: its block_out_channels is [320, 640, 1280, 1280]")
            && wide.contains("[16, 24, 32, 32]"),
        "{wide}"
    );
    let xl = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/sdxl/checkpoint");
    let xl = StableDiffusion::open(Checkpoint::folder(xl).unwrap()).unwrap();
    let adapter = Checkpoint::part(fixture().join("motion_adapter")).unwrap();
    let xl = sentence(xl.with_motion(MotionAdapter::open(adapter).unwrap()));
    assert!(xl.contains("StableDiffusionXLPipeline"), "{xl}");
}

#[test]
fn adapter_files_that_do_not_fit_their_configuration_are_errors() {
    let error = |folder: &Path| {
        let pipeline = with_adapter(folder).unwrap();
        let run = pipeline
            .plan(&request(&pipeline).shape, &Strategy::segments(2))
            .unwrap();
        let mut session = Session::new(&pipeline, workers("cpu:2", None).unwrap()).unwrap();
        session.prepare(&run).unwrap_err().to_string()
    };
    let no_middle = [("use_motion_mid_block", false.into())];
    let more = error(&changed_adapter("more", &no_middle, |_, _| true));
    assert!(
        more.contains("more/diffusion_pytorch_model.safetensors")
            && more.contains("mid_block.motion_modules.0"),
        "{more}"
    );
    let less = error(&changed_adapter("less", &[], |name, _| {
        !name.ends_with("pos_embed.pe")
    }));
    assert!(
        less.contains("no tensor down_blocks.0.motion_modules.0.transformer_blocks.0.pos_embed.pe"),
        "{less}"
    );
    let short = [("motion_max_seq_length", 24.into())];
    let short = error(&changed_adapter("short", &short, |_, _| true));
    assert!(
        short.contains("pos_embed.pe has shape [1, 32, 16]"),
        "{short}"
    );
    let cut = changed_adapter("cut", &[], |_, _| true);
    let whole = fs::read(cut.join(WEIGHTS)).unwrap();
    fs::write(cut.join(WEIGHTS), &whole[..whole.len() / 2]).unwrap();
    let cut = error(&cut);
    assert!(
        cut.contains("cut/diffusion_pytorch_model.safetensors is no whole safetensors file"),
        "{cut}"
    );
}
