//! What a LoRA promises whatever the model: nothing at strength 0, sums, and files that do not fit. On the embedded model.
#![cfg(all(feature = "flex", feature = "embedded"))]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use asyncdiff_models::device::workers;
use asyncdiff_models::lora::Lora;
use asyncdiff_models::{Checkpoint, Session, StableDiffusion, Strategy};
use safetensors::tensor::{Dtype, TensorView};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures");

/// Names to shapes and values.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

fn pipeline() -> StableDiffusion {
    StableDiffusion::open(Checkpoint::embedded()).unwrap()
}

/// Values that are neither small nor regular.
fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut rng = asyncdiff_models::random::TorchRng::new(seed);
    rng.randn(count)
        .into_iter()
        .map(|value| 0.2 * value)
        .collect()
}

/// A layer of this rank for `conv_in`, in the names of PEFT.
fn layer(seed: u64, rank: usize) -> Tensors {
    let pipeline = pipeline();
    let config = &pipeline.unet().config;
    let (input, output) = (config.in_channels, config.block_out_channels[0]);
    let tensor = |shape: Vec<usize>, seed| {
        let count = shape.iter().product();
        (shape, noise(count, seed))
    };
    BTreeMap::from([
        (
            "unet.conv_in.lora_A.weight".to_owned(),
            tensor(vec![rank, input, 3, 3], seed),
        ),
        (
            "unet.conv_in.lora_B.weight".to_owned(),
            tensor(vec![output, rank, 1, 1], seed + 1),
        ),
    ])
}

fn write(folder: &Path, name: &str, tensors: &Tensors) -> PathBuf {
    let bytes: BTreeMap<_, Vec<u8>> = tensors
        .iter()
        .map(|(name, (_, values))| (name, values.iter().flat_map(|v| v.to_le_bytes()).collect()))
        .collect();
    let views = tensors.iter().map(|(name, (shape, _))| {
        let view = TensorView::new(Dtype::F32, shape.clone(), &bytes[name]).unwrap();
        (name.clone(), view)
    });
    let path = folder.join(name);
    let file = safetensors::serialize(views.collect::<Vec<_>>(), None).unwrap();
    std::fs::write(&path, file).unwrap();
    path
}

fn latents(loras: &[(&Path, f64)]) -> Vec<f32> {
    let open = |(path, strength): &(&Path, f64)| (Lora::open(path).unwrap(), *strength);
    let pipeline = pipeline()
        .with_loras(loras.iter().map(open).collect())
        .unwrap();
    let pipeline = Arc::new(pipeline);
    let mut request = pipeline.request("red apple, fluent style");
    request.shape.steps = 3;
    let run = pipeline
        .plan(&request.shape, &Strategy::sequential())
        .unwrap();
    let mut session = Session::new(&pipeline, workers("cpu", Some(1)).unwrap()).unwrap();
    session
        .generate(&run, &request.content, &mut ())
        .unwrap()
        .latents
}

/// A session beside another one, whose pipeline is the same with another LoRA, loads what that changes and nothing else: all other
/// weights have meanwhile become zeros in the file.
#[test]
fn what_a_lora_does_not_change_is_shared() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    copy(&Path::new(FIXTURES).join("sd15/checkpoint"), &model);
    let plain = StableDiffusion::open(Checkpoint::folder(&model).unwrap()).unwrap();
    let config = &plain.unet().config;
    let (input, output) = (config.in_channels, config.block_out_channels[0]);
    let tensor = |shape: [usize; 4], seed| {
        let count = shape.iter().product();
        (shape.to_vec(), noise(count, seed))
    };
    let layer = BTreeMap::from([
        (
            "unet.conv_in.lora_A.weight".to_owned(),
            tensor([2, input, 3, 3], 1),
        ),
        (
            "unet.conv_in.lora_B.weight".to_owned(),
            tensor([output, 2, 1, 1], 2),
        ),
    ]);
    let path = write(folder.path(), "a.safetensors", &layer);
    let with = |strength| {
        let lora = Lora::open(&path).unwrap();
        let changed = plain.clone().with_loras(vec![(lora, strength)]);
        Arc::new(changed.unwrap())
    };
    let mut shape = plain.shape();
    shape.steps = 2;
    let run = plain.plan(&shape, &Strategy::sequential().split()).unwrap();
    let content = plain.content("red apple");
    let workers = || workers("cpu:2", Some(2)).unwrap();
    let make = |session: &mut Session| {
        let made = session.generate(&run, &content, &mut ()).unwrap();
        (made.latents, made.images)
    };
    let (half, whole) = (with(0.5), with(1.0));
    let expected = [&half, &whole].map(|pipeline| {
        let mut session = Session::new(pipeline, workers()).unwrap();
        make(&mut session)
    });
    let mut session = Session::new(&Arc::new(plain.clone()), workers()).unwrap();
    let without = make(&mut session);
    assert_ne!(without, expected[0]);

    let stem = "diffusion_pytorch_model.safetensors";
    zero_all_but(&model.join("unet").join(stem), "conv_in.");
    zero_all_but(&model.join("vae").join(stem), "nothing");
    zero_all_but(&model.join("text_encoder/model.safetensors"), "nothing");
    // One beside the other, with and without the LoRA, and back.
    for (pipeline, expected) in [
        (half, &expected[0]),
        (whole, &expected[1]),
        (Arc::new(plain.clone()), &without),
    ] {
        let mut next = session.beside(&pipeline, workers()).unwrap();
        next.share(&session, &run);
        session = next;
        assert_eq!(make(&mut session), *expected);
    }
    // A pipeline of its own shares nothing.
    let other = Arc::new(StableDiffusion::open(Checkpoint::folder(&model).unwrap()).unwrap());
    let mut alone = session.beside(&other, workers()).unwrap();
    alone.share(&session, &run);
    assert_ne!(make(&mut alone), without);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(path, target).unwrap();
        }
    }
}

/// Another file in its place, with zeros in all tensors but those whose names start so.
fn zero_all_but(path: &Path, start: &str) {
    let bytes = std::fs::read(path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let tensors: Vec<_> = file
        .tensors()
        .into_iter()
        .map(|(name, view)| {
            let data = match name.starts_with(start) {
                true => view.data().to_vec(),
                false => vec![0; view.data().len()],
            };
            (name, view.dtype(), view.shape().to_vec(), data)
        })
        .collect();
    let views = tensors.iter().map(|(name, dtype, shape, data)| {
        let view = TensorView::new(*dtype, shape.clone(), data).unwrap();
        (name, view)
    });
    let changed = safetensors::serialize(views.collect::<Vec<_>>(), None).unwrap();
    // What is mapped stays as it is.
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, changed).unwrap();
}

fn relative_distance(a: &[f32], b: &[f32]) -> f64 {
    asyncdiff_models::quality::relative_error(a, b).unwrap()
}

#[test]
fn strength_0_is_no_lora_to_the_last_bit() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "a.safetensors", &layer(1, 3));
    assert_eq!(latents(&[(&path, 0.0)]), latents(&[]));
}

#[test]
fn several_loras_add_up() {
    let folder = tempfile::tempdir().unwrap();
    let (a, b) = (layer(1, 2), layer(3, 3));
    // Both as one layer: the matrices side by side are the sum of the products.
    let (a_down, b_down) = (
        &a["unet.conv_in.lora_A.weight"],
        &b["unet.conv_in.lora_A.weight"],
    );
    let (a_up, b_up) = (
        &a["unet.conv_in.lora_B.weight"],
        &b["unet.conv_in.lora_B.weight"],
    );
    let (rows, input) = (a_up.0[0], a_down.0[1]);
    let both = BTreeMap::from([
        (
            "unet.conv_in.lora_A.weight".to_owned(),
            (vec![5, input, 3, 3], [&a_down.1[..], &b_down.1].concat()),
        ),
        (
            "unet.conv_in.lora_B.weight".to_owned(),
            (
                vec![rows, 5, 1, 1],
                a_up.1
                    .chunks(2)
                    .zip(b_up.1.chunks(3))
                    .flat_map(|(a, b)| [a, b].concat())
                    .collect(),
            ),
        ),
    ]);
    let a = write(folder.path(), "a.safetensors", &a);
    let b = write(folder.path(), "b.safetensors", &b);
    let both = write(folder.path(), "both.safetensors", &both);
    let plain = latents(&[]);
    let apart = latents(&[(&a, 1.0), (&b, 1.0)]);
    // f32 sums in another order, through three steps.
    assert!(relative_distance(&apart, &latents(&[(&both, 1.0)])) < 1e-5);
    assert!(relative_distance(&apart, &latents(&[(&b, 1.0), (&a, 1.0)])) < 1e-5);
    // Strengths too: twice a half is one.
    let halves = latents(&[(&a, 0.5), (&a, 0.5), (&b, 1.0)]);
    assert!(relative_distance(&apart, &halves) < 1e-5);
    // And the opposite takes it back.
    let nothing = latents(&[(&a, 1.0), (&a, -1.0)]);
    assert!(relative_distance(&plain, &nothing) < 1e-5);
    for other in [&a, &b] {
        let change = relative_distance(&apart, &latents(&[(other, 1.0)]));
        assert!(
            change > 1e-3,
            "a LoRA that changes nothing proves nothing: {change}"
        );
    }
}

/// The error of using a file that `change` has been done to, and what it must name.
fn refused(change: impl Fn(&mut Tensors), expected: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let mut tensors = layer(1, 2);
    change(&mut tensors);
    let path = write(folder.path(), "adapter.safetensors", &tensors);
    let error = match Lora::open(&path) {
        Err(error) => error.to_string(),
        Ok(lora) => pipeline()
            .with_loras(vec![(lora, 1.0)])
            .unwrap_err()
            .to_string(),
    };
    for part in expected.iter().chain(&["adapter.safetensors"]) {
        assert!(error.contains(part), "{error:?} should contain {part:?}");
    }
}

fn rename(tensors: &mut Tensors, from: &str, to: &str) {
    let names: Vec<_> = tensors.keys().cloned().collect();
    for name in names {
        if name.contains(from) {
            let tensor = tensors.remove(&name).unwrap();
            tensors.insert(name.replace(from, to), tensor);
        }
    }
}

#[test]
fn loras_that_do_not_fit_are_named_with_the_first_key() {
    let (down, up) = ("unet.conv_in.lora_A.weight", "unet.conv_in.lora_B.weight");
    // Of a transformer, of another UNet, of an encoder that is not there.
    for path in [
        "transformer.single_transformer_blocks.0.attn.to_q",
        "unet.down_blocks.9.attentions.0.proj_in",
        "text_encoder_2.text_model.encoder.layers.0.mlp.fc1",
    ] {
        refused(
            |tensors| rename(tensors, "unet.conv_in", path),
            &["another architecture", path],
        );
    }
    refused(
        |tensors| rename(tensors, "unet.conv_in.", "lora_unet_conv_inn."),
        &["lora_unet_conv_inn.lora_A.weight", "the model's unet"],
    );
    // With both shapes.
    refused(
        |tensors| {
            tensors.insert(down.to_owned(), (vec![2, 7, 3, 3], noise(126, 1)));
        },
        &[
            "another architecture",
            down,
            ", 7, 3, 3]",
            "conv_in.weight",
            ", 4, 3, 3]",
        ],
    );
    refused(
        |tensors| {
            tensors.insert(down.to_owned(), (vec![2, 4], noise(8, 1)));
        },
        &["another architecture", down, ", 4]", ", 4, 3, 3]"],
    );
    refused(
        |tensors| {
            tensors.insert(up.to_owned(), (vec![5, 3, 1, 1], noise(15, 1)));
        },
        &[up, "[5, 3, 1, 1]", "[output, 2]"],
    );
    refused(
        |tensors| {
            tensors.insert(up.to_owned(), (vec![5], noise(5, 1)));
        },
        &[up, "[5]", "[output, 2]"],
    );
    refused(
        |tensors| {
            tensors.insert(down.to_owned(), (vec![0, 4, 3, 3], Vec::new()));
        },
        &[down, "[0, 4, 3, 3]"],
    );
}

#[test]
fn incomplete_files_and_other_adapters_are_refused() {
    let (down, up) = ("unet.conv_in.lora_A.weight", "unet.conv_in.lora_B.weight");
    refused(
        |tensors| {
            tensors.remove(up);
        },
        &[down, "no matrix up"],
    );
    refused(
        |tensors| {
            tensors.remove(down);
        },
        &[up, "no matrix down"],
    );
    refused(
        |tensors| {
            tensors.insert(
                "lora_unet_conv_in.lora_down.weight".to_owned(),
                (vec![2, 4, 3, 3], noise(72, 1)),
            );
        },
        &[down, "twice"],
    );
    // By another name that the same module has.
    let other = "lora_unet_input_blocks_0_0.lora_down.weight";
    refused(
        |tensors| {
            for (name, (shape, values)) in tensors.clone() {
                let name = name
                    .replace(
                        "unet.conv_in.lora_A",
                        "lora_unet_input_blocks_0_0.lora_down",
                    )
                    .replace("unet.conv_in.lora_B", "lora_unet_input_blocks_0_0.lora_up");
                tensors.insert(name, (shape, values));
            }
        },
        &[down, other, "both lead to the model's conv_in.weight"],
    );
    refused(|tensors| tensors.clear(), &["no LoRA layers"]);
    refused(
        |tensors| rename(tensors, "lora_A.weight", "weight"),
        &["unet.conv_in.weight", "no LoRA that can be read"],
    );
    refused(
        |tensors| {
            tensors.insert("unet.conv_in.alpha".to_owned(), (vec![2], vec![1.0, 2.0]));
        },
        &["unet.conv_in.alpha", "[2]", "one finite number"],
    );
    for (key, kind) in [
        ("lora_unet_conv_in.dora_scale", "DoRA"),
        ("unet.conv_in.lora_magnitude_vector", "DoRA"),
        ("lora_unet_conv_in.hada_w1_a", "LoHa"),
        ("lora_unet_conv_in.lokr_w1", "LoKr"),
    ] {
        refused(
            |tensors| {
                tensors.insert(key.to_owned(), (vec![2], vec![1.0, 2.0]));
            },
            &[key, kind],
        );
    }
}

#[test]
fn damaged_files_and_impossible_strengths_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let whole = write(folder.path(), "whole.safetensors", &layer(1, 2));
    let bytes = std::fs::read(&whole).unwrap();
    for (name, contents) in [
        ("half.safetensors", &bytes[..bytes.len() / 2]),
        ("pickle.ckpt", b"\x80\x02}q\x00."),
        ("empty.safetensors", b""),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, contents).unwrap();
        let error = Lora::open(&path).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
        assert_eq!(
            error.contains("save_file"),
            name.ends_with("ckpt"),
            "{error}"
        );
    }
    let missing = folder.path().join("missing.safetensors");
    let error = Lora::open(&missing).unwrap_err().to_string();
    assert!(error.contains("missing.safetensors"), "{error}");
    for strength in [f64::NAN, f64::INFINITY] {
        let lora = Lora::open(&whole).unwrap();
        let error = pipeline().with_loras(vec![(lora, strength)]).unwrap_err();
        assert!(error.to_string().contains("finite"), "{error}");
    }
}
