//! Where pictures and videos go: standard output, and folders that hold something already.

use std::fs;

use super::sandbox::{Sandbox, quick};

#[test]
fn a_dash_is_standard_output() {
    let sandbox = Sandbox::new();
    sandbox.ok(&quick(&["-o", "a.png"]));
    let piped = sandbox.run(&quick(&["-o", "-"]));
    assert!(piped.status.success());
    assert_eq!(piped.stdout, fs::read(sandbox.path("a.png")).unwrap());
    assert!(piped.stderr.is_empty(), "it was to be quiet");
    // What is said of the run goes elsewhere.
    let base = [
        "generate",
        "red apple, fluent style",
        "--steps",
        "3",
        "-o",
        "-",
    ];
    let piped = sandbox.run(&base);
    assert_eq!(piped.stdout, fs::read(sandbox.path("a.png")).unwrap());
    let lines = String::from_utf8(piped.stderr).unwrap();
    assert!(
        lines.contains("seed 0") && lines.contains("wrote -"),
        "{lines}"
    );

    sandbox.ok(&quick(&["--frames", "2", "-o", "a.gif"]));
    let piped = sandbox.run(&quick(&["--frames", "2", "-o", "-"]));
    let begins: &[u8] = if cfg!(feature = "mp4") {
        b"ftyp"
    } else {
        b"9a"
    };
    assert_eq!(&piped.stdout[4..4 + begins.len()], begins);

    let compared = ["compare", "x", "--steps", "4", "--repeat", "1", "-o", "-"];
    let piped = sandbox.run(&compared);
    assert!(piped.stdout.starts_with(b"\x89PNG"));
    assert!(
        String::from_utf8(piped.stderr)
            .unwrap()
            .contains("speed-up")
    );
    assert!(!sandbox.path("-").exists());
}

#[test]
fn standard_output_takes_one_thing() {
    let sandbox = Sandbox::new();
    let error = sandbox.fails(&quick(&["-o", "-", "--num-images", "2"]));
    assert!(error.contains("these are 2"), "{error}");
    let error = sandbox.fails(&quick(&["-o", "-", "--seed", "1-3"]));
    assert!(error.contains("these are 3"), "{error}");
    for command in ["generate", "compare"] {
        let error = sandbox.fails(&[command, "x", "-o", "-", "--json"]);
        assert!(error.contains("--json"), "{error}");
    }
}

#[test]
fn a_folder_of_frames_is_replaced_by_force_only() {
    let sandbox = Sandbox::new();
    let base = ["--frames", "2", "--steps", "1", "-o", "frames/"];
    sandbox.ok(&quick(&base));
    let before = sandbox.files();
    let error = sandbox.fails(&quick(&base));
    assert!(
        error.contains("frames/") && error.contains("--force"),
        "{error}"
    );
    let compare = ["compare", "x", "--repeat", "1"];
    let error = sandbox.fails(&[&compare[..], &base].concat());
    assert!(error.contains("--force"), "{error}");
    let other = [&base[..], &["--seed", "1", "--force"]].concat();
    let frame = || fs::read(sandbox.path("frames/frame-0001.png")).unwrap();
    let old = frame();
    sandbox.ok(&quick(&other));
    assert_ne!(frame(), old);
    assert_eq!(sandbox.files(), before);
    // An empty folder is not in the way.
    fs::create_dir(sandbox.path("empty")).unwrap();
    sandbox.ok(&quick(&[&base[..5], &["empty"]].concat()));
}
