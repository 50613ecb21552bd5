//! Pictures that start from a picture.

use std::fs;

use asyncdiff_media::picture;
use asyncdiff_models::image::Image;

use super::sandbox::{Sandbox, png, quick};

/// Mean difference of two pictures' bytes, inside or outside the left half.
fn difference(a: &Image, b: &Image, left: bool) -> f64 {
    let inside = |index: &usize| (index / 3 % a.width < a.width / 2) == left;
    let all = (0..a.rgb.len()).filter(inside);
    let differences: Vec<f64> = all
        .map(|index| f64::from(a.rgb[index].abs_diff(b.rgb[index])))
        .collect();
    differences.iter().sum::<f64>() / differences.len() as f64
}

/// A sandbox with `apple.png`, and `left.png`: a mask of its left half.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.ok(&quick(&["--steps", "12", "-o", "apple.png"]));
    let rows = (0..64 * 64).map(|index| if index % 64 < 32 { 255 } else { 0 });
    let mask = Image {
        width: 64,
        height: 64,
        rgb: rows.flat_map(|grey| [grey; 3]).collect(),
    };
    picture::write(&sandbox.path("left.png"), &mask, "").unwrap();
    sandbox
}

fn generate(sandbox: &Sandbox, more: &[&str]) -> Image {
    let base = [
        "generate",
        "rocket, fluent style",
        "--quiet",
        "--steps",
        "10",
    ];
    let start = ["--init-image", "apple.png", "-o", "out.png"];
    sandbox.ok(&[&base[..], &start, more].concat());
    picture::read(&sandbox.path("out.png")).unwrap()
}

#[test]
fn a_picture_is_changed_as_much_as_the_strength_says() {
    let sandbox = sandbox();
    let apple = picture::read(&sandbox.path("apple.png")).unwrap();
    let distance = |strength| {
        let out = generate(&sandbox, &["--strength", strength]);
        difference(&apple, &out, true) + difference(&apple, &out, false)
    };
    let distances = ["0.1", "0.5", "1"].map(distance);
    assert!(distances.is_sorted(), "{distances:?}");
    assert!(3.0 * distances[0] < distances[2], "{distances:?}");

    let (_, _, parameters) = png(&sandbox.path("out.png"));
    assert!(parameters.contains("Denoising strength: 1"), "{parameters}");
    // Two ranks, warm-up to the end: the same.
    let alone = generate(&sandbox, &["--strength", "0.3"]);
    let two = ["--strength", "0.3", "--segments", "2", "--warm-up", "3"];
    assert_eq!(generate(&sandbox, &two), alone);
    let text = sandbox.ok(&[
        "plan",
        "--init-image",
        "apple.png",
        "--strength",
        "0.3",
        "--steps",
        "10",
    ]);
    assert!(text.contains("from a picture at strength 0.3"), "{text}");
    assert!(text.contains("(3 denoiser calls)"), "{text}");
}

#[test]
fn a_mask_says_what_is_painted() {
    let sandbox = sandbox();
    let apple = picture::read(&sandbox.path("apple.png")).unwrap();
    let out = generate(&sandbox, &["--mask", "left.png"]);
    let (inside, outside) = (
        difference(&apple, &out, true),
        difference(&apple, &out, false),
    );
    // Outside, the picture has been through the autoencoder, and next to the mask's edge through its neighbours.
    assert!(inside > 4.0 * outside, "{inside} inside, {outside} outside");
}

#[test]
fn pictures_that_do_not_fit_are_errors() {
    let sandbox = sandbox();
    let apple = fs::read(sandbox.path("apple.png")).unwrap();
    fs::write(sandbox.path("torn.png"), &apple[..apple.len() / 2]).unwrap();
    let image = Image {
        width: 62,
        height: 64,
        rgb: vec![9; 62 * 64 * 3],
    };
    picture::write(&sandbox.path("narrow.png"), &image, "").unwrap();
    let start = ["--init-image", "apple.png"];
    let cases: &[(&[&str], &[&str])] = &[
        (&["--init-image", "none.png"], &["none.png", "no such file"]),
        (&["--init-image", "torn.png"], &["torn.png"]),
        (
            &["--init-image", "narrow.png"],
            &["width 62", "multiple of 4"],
        ),
        (
            &["--width", "32"],
            &["picture to start from", "64x64", "32x64"],
        ),
        (&["--mask", "narrow.png"], &["the mask", "62x64", "64x64"]),
        (&["--mask", "none.png"], &["none.png", "no such file"]),
        (&["--strength", "0"], &["strength 0", "more than 0"]),
        (&["--strength", "1.5"], &["strength 1.5", "at most 1"]),
        (&["--strength", "nan"], &["strength NaN"]),
        (
            &["--strength", "0.1", "--steps", "4"],
            &["4 of 4 steps", "larger strength"],
        ),
    ];
    for (args, expected) in cases {
        let start = if args[0] == "--init-image" {
            &[][..]
        } else {
            &start
        };
        let error = sandbox.fails(&quick(&[start, args].concat()));
        for part in *expected {
            assert!(
                error.contains(part),
                "{args:?}: {error:?} should contain {part:?}"
            );
        }
    }
    for flags in [["--mask", "left.png"], ["--strength", "0.5"]] {
        let output = sandbox.run(&quick(&flags));
        assert_eq!(output.status.code(), Some(2), "{flags:?} without a picture");
    }
}

#[test]
fn a_unet_that_reads_a_mask_paints_with_one_and_says_that_it_needs_one() {
    let sandbox = Sandbox::new();
    let model = sandbox.model("sdxl_inpaint");
    let model = model.to_str().unwrap();
    let grey = |value| Image {
        width: 64,
        height: 64,
        rgb: vec![value; 64 * 64 * 3],
    };
    picture::write(&sandbox.path("picture.png"), &grey(90), "").unwrap();
    picture::write(&sandbox.path("mask.png"), &grey(255), "").unwrap();
    let base = ["generate", "x", "--model", model, "--steps", "4"];
    let error = sandbox.fails(&base);
    assert!(
        error.contains("reads a mask") && error.contains("--init-image and --mask"),
        "{error}"
    );
    let painted = [
        "--init-image",
        "picture.png",
        "--mask",
        "mask.png",
        "--segments",
        "2",
        "-o",
        "out.png",
    ];
    let text = sandbox.ok(&[&base[..], &painted].concat());
    assert!(text.contains("inside a mask at strength 1"), "{text}");
    assert!(sandbox.path("out.png").is_file());
}
