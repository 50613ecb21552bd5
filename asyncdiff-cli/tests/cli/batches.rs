//! Several images of one prompt: every one is that of a seed, and its file says which.

use std::fs;

use super::sandbox::{Sandbox, fixture, pixels, png, quick};

/// The seed that a file's parameters name.
fn seed(parameters: &str) -> String {
    let rest = parameters.split("Seed: ").nth(1).unwrap();
    rest.split(',').next().unwrap().to_owned()
}

/// Makes three images as a batch and, by the seed that each one's file names, alone.
fn check(sandbox: &Sandbox, base: &[&str]) {
    let name = "batch.png";
    let batch = ["--num-images", "3", "--seed", "5", "-o", name];
    sandbox.ok(&[base, &batch].concat());
    let mut seen = Vec::new();
    for number in 0..3 {
        let file = sandbox.path(&format!("batch-{number}.png"));
        let seed = seed(&png(&file).2);
        assert_eq!(seed, (5 + number).to_string());
        sandbox.ok(&[base, &["--seed", &seed, "-o", "alone.png"]].concat());
        // The settings in it, too.
        let whole = |file| fs::read(file).unwrap();
        assert_eq!(whole(file.clone()), whole(sandbox.path("alone.png")));
        seen.push(pixels(&file));
    }
    seen.dedup();
    assert_eq!(seen.len(), 3);
}

#[test]
fn every_image_of_a_batch_is_that_of_the_seed_that_its_file_names() {
    let sandbox = Sandbox::new();
    // A scheduler that draws noise in every step.
    let stochastic = ["--scheduler", "euler-ancestral"];
    check(&sandbox, &quick(&stochastic));
    // Asynchronously: the same noise wherever it is drawn.
    let spread = ["--segments", "2", "--warm-up", "1"];
    check(&sandbox, &quick(&[&stochastic[..], &spread].concat()));

    // The autoencoder's sample of the picture to start from is drawn, too.
    sandbox.ok(&quick(&["-o", "start.png"]));
    let start = ["--init-image", "start.png"];
    check(&sandbox, &quick(&[&stochastic[..], &start].concat()));
    let mask = ["--mask", "start.png", "--strength", "0.7"];
    check(&sandbox, &quick(&[&stochastic[..], &start, &mask].concat()));
}

#[test]
fn so_it_is_with_a_denoiser_that_reads_a_mask() {
    let sandbox = Sandbox::new();
    let model = fixture("sdxl_inpaint/checkpoint");
    sandbox.ok(&quick(&["-o", "start.png"]));
    let base = ["generate", "x", "--model", &model, "--steps", "2"];
    let start = ["--init-image", "start.png", "--mask", "start.png"];
    check(&sandbox, &[&base[..], &start].concat());
}

#[test]
fn so_it_is_with_videos() {
    let sandbox = Sandbox::new();
    let model = fixture("animatediff/checkpoint");
    let adapter = fixture("animatediff/checkpoint/motion_adapter");
    let size = [
        "--width", "64", "--height", "64", "--steps", "2", "--frames", "3",
    ];
    let base = [
        "generate",
        "x",
        "--model",
        &model,
        "--motion-adapter",
        &adapter,
    ];
    check(&sandbox, &[&base[..], &size].concat());

    // Of a picture: the noise on the picture is drawn, too.
    let model = fixture("svd/checkpoint");
    sandbox.ok(&quick(&["-o", "start.png"]));
    let moving = ["--image", "start.png", "--noise-aug-strength", "0.5"];
    let base = ["generate", "--model", &model];
    check(&sandbox, &[&base[..], &moving, &size].concat());
}

#[test]
fn the_noise_of_a_batch_can_be_drawn_from_one_seed() {
    let sandbox = Sandbox::new();
    let generate = |more: &[&str]| sandbox.ok(&quick(&[&["--seed", "5"], more].concat()));
    generate(&["--num-images", "2", "--batch-noise", "-o", "one.png"]);
    generate(&["--num-images", "2", "-o", "each.png"]);
    let same = |number: usize| {
        let [one, each] = ["one", "each"].map(|name| sandbox.path(&format!("{name}-{number}.png")));
        pixels(&one) == pixels(&each)
    };
    assert!(same(0) && !same(1));
    // No seed makes the second alone, and its file does not claim that one does.
    let parameters = png(&sandbox.path("one-1.png")).2;
    assert_eq!(seed(&parameters), "5");
    assert!(parameters.contains("Batch noise: 2 of 2"), "{parameters}");
    // Of one, it is the same.
    generate(&["-o", "plain.png"]);
    generate(&["--batch-noise", "-o", "alone.png"]);
    let file = |name: &str| fs::read(sandbox.path(name)).unwrap();
    assert_eq!(file("plain.png"), file("alone.png"));
}
