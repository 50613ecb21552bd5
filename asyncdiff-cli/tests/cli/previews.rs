//! The picture so far, and pictures in tiles.

use std::fs;

use super::sandbox::{Sandbox, pixels, png, quick};

#[test]
fn previews_are_written_and_change_nothing() {
    let sandbox = Sandbox::new();
    let file = |name: &str| fs::read(sandbox.path(name)).unwrap();
    for segments in ["1", "3"] {
        let common = ["--segments", segments, "--num-images", "2", "--steps", "5"];
        let generate = |more: &[&str]| {
            sandbox.ok(&quick(&[&common, more].concat()));
        };
        generate(&["-o", "plain.png"]);
        let preview = ["--preview", "so-far.png", "--preview-every"];
        generate(&[&preview[..], &["2", "-o", "watched.png"]].concat());
        for number in 0..2 {
            assert_eq!(
                file(&format!("plain-{number}.png")),
                file(&format!("watched-{number}.png"))
            );
        }
        // Both pictures side by side, after call 4 of 5: another picture than after call 3.
        let decoder = |name: &str| {
            let bytes = std::io::Cursor::new(file(name));
            png::Decoder::new(bytes).read_info().unwrap()
        };
        let info = decoder("so-far.png");
        assert_eq!((info.info().width, info.info().height), (128, 64));
        let fourth = file("so-far.png");
        generate(&[&preview[..], &["3", "-o", "watched.png"]].concat());
        assert_ne!(file("so-far.png"), fourth);
        fs::remove_file(sandbox.path("so-far.png")).unwrap();
        // The end is the picture, not a preview.
        generate(&[&preview[..], &["5", "-o", "watched.png"]].concat());
        assert!(!sandbox.path("so-far.png").exists());
    }
}

#[test]
fn previews_that_cannot_be_written_are_told_before_the_run() {
    let sandbox = Sandbox::new();
    for (preview, expected) in [
        ("nowhere/p.png", "nowhere"),
        (".", "folder"),
        ("p.bmp", "p.bmp"),
    ] {
        let error = sandbox.fails(&quick(&["--preview", preview]));
        assert!(error.contains(expected), "{error}");
    }
    for arguments in [
        quick(&["--preview", "p.png", "--preview-every", "0"]),
        quick(&["--preview-every", "2"]),
    ] {
        assert_eq!(sandbox.run(&arguments).status.code(), Some(2));
    }
}

#[test]
fn tiles_are_for_pictures_larger_than_the_models() {
    let sandbox = Sandbox::new();
    let pictures = |width: &str| {
        let size = ["--width", width, "--steps", "2"];
        sandbox.ok(&quick(&[&size[..], &["-o", "whole.png"]].concat()));
        sandbox.ok(&quick(
            &[&size[..], &["--vae-tiling", "-o", "tiles.png"]].concat(),
        ));
        let found = ["whole.png", "tiles.png"].map(|name| {
            assert_eq!(png(&sandbox.path(name)).0.to_string(), width);
            pixels(&sandbox.path(name))
        });
        found[0] == found[1]
    };
    assert!(pictures("64"));
    assert!(!pictures("100"));
}
