//! Several seeds and prompts in one command.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};

use super::sandbox::{Sandbox, pixels, png, quick};

#[test]
fn every_seed_of_a_list_gives_the_picture_that_it_gives_alone() {
    let sandbox = Sandbox::new();
    // A scheduler that draws noise in every step: what one run has drawn must not reach the next.
    let stochastic = ["--scheduler", "euler-ancestral"];
    let generate = |more: &[&str]| {
        sandbox.ok(&quick(&[&stochastic, more].concat()));
    };
    generate(&["--seed", "8,3-4", "-o", "list.png"]);
    for (number, seed) in ["8", "3", "4"].into_iter().enumerate() {
        generate(&["--seed", seed, "-o", "alone.png"]);
        let file = |name: &str| fs::read(sandbox.path(name)).unwrap();
        assert_eq!(file(&format!("list-{number}.png")), file("alone.png"));
    }
    assert!(!sandbox.path("list-3.png").exists());
}

#[test]
fn a_seed_of_minus_one_is_random_and_printed() {
    let sandbox = Sandbox::new();
    let draw = || {
        let text = sandbox.ok(&[
            "generate", "x", "--steps", "1", "--seed", "-1", "-o", "a.png",
        ]);
        let seed = text.split("seed ").nth(1).unwrap();
        let seed = seed.split(',').next().unwrap().to_owned();
        let parameters = png(&sandbox.path("a.png")).2;
        assert!(
            parameters.contains(&format!("Seed: {seed},")),
            "{parameters}"
        );
        (seed, pixels(&sandbox.path("a.png")))
    };
    let (first, picture) = draw();
    assert_ne!(draw().0, first);
    // It is that seed's.
    sandbox.ok(&[
        "generate", "x", "--steps", "1", "--seed", &first, "-o", "b.png",
    ]);
    assert_eq!(pixels(&sandbox.path("b.png")), picture);
    let text = sandbox.ok(&["plan", "--seed", "-1", "--steps", "4"]);
    assert!(
        text.contains("seed ") && !text.contains("seed -1"),
        "{text}"
    );
}

#[test]
fn prompts_come_from_a_file_or_from_standard_input() {
    let sandbox = Sandbox::new();
    let lines = "\u{feff}# emoji\r\n\r\nred apple, fluent style\r\n  pizza, flat style  \r\n";
    fs::write(sandbox.path("prompts.txt"), lines).unwrap();
    let arguments = |file| {
        let base = ["generate", "--prompt-file", file, "--seed", "1,2"];
        [
            &base,
            &["--steps", "2", "--num-images", "2", "--json"] as &[_],
        ]
        .concat()
    };
    let text = sandbox.ok(&arguments("prompts.txt"));
    let report: Value = serde_json::from_str(&text).unwrap();
    let name = |number: usize| format!("asyncdiff-{number}.png");
    let names = (0..8).map(name).collect::<Vec<_>>();
    assert_eq!(report["files"], json!(names));
    let runs = report["runs"].as_array().unwrap();
    let expected = [
        ("red apple, fluent style", 1),
        ("red apple, fluent style", 2),
        ("pizza, flat style", 1),
        ("pizza, flat style", 2),
    ];
    assert_eq!(runs.len(), expected.len());
    let mut denoise = 0.0;
    for (index, (run, (prompt, seed))) in runs.iter().zip(expected).enumerate() {
        assert_eq!(
            (&run["prompt"], &run["seed"]),
            (&json!(prompt), &json!(seed))
        );
        assert_eq!(run["files"], json!(names[2 * index..2 * index + 2]));
        let parameters = png(&sandbox.path(&names[2 * index])).2;
        assert!(parameters.starts_with(prompt), "{parameters}");
        assert!(
            parameters.contains(&format!("Seed: {seed},")),
            "{parameters}"
        );
        denoise += run["seconds"]["denoise"].as_f64().unwrap();
    }
    let total = report["seconds"]["denoise"].as_f64().unwrap();
    assert!((total - denoise).abs() < 1e-9, "{total} {denoise}");

    let files = || {
        names
            .iter()
            .map(|name| fs::read(sandbox.path(name)).unwrap())
    };
    let from_file: Vec<_> = files().collect();
    names
        .iter()
        .for_each(|name| fs::remove_file(sandbox.path(name)).unwrap());
    let mut child = sandbox
        .command(&arguments("-"))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(lines.as_bytes())
        .unwrap();
    assert!(child.wait().unwrap().success());
    assert!(files().eq(from_file));
}

#[test]
fn a_prompt_of_a_file_that_is_too_long_is_named_by_its_line() {
    let sandbox = Sandbox::new();
    let long = format!("red apple{} and a blue whale", ", very red".repeat(20));
    fs::write(sandbox.path("p.txt"), format!("pizza\n\n{long}\n")).unwrap();
    let arguments = [
        "generate",
        "--prompt-file",
        "p.txt",
        "--steps",
        "1",
        "--quiet",
    ];
    let output = sandbox.run(&arguments);
    assert!(output.status.success());
    let warning = String::from_utf8(output.stderr).unwrap();
    assert!(
        warning.starts_with("warning: the prompt in line 3 of p.txt") && warning.contains("whale"),
        "{warning}"
    );
}

#[test]
fn lists_that_cannot_be_are_one_clear_sentence() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path("empty.txt"), "# nothing\n\n").unwrap();
    fs::write(sandbox.path("latin1.txt"), b"pizza\ncaf\xe9\n").unwrap();
    for (file, expected) in [
        ("none.txt", ["none.txt", "cannot read"]),
        ("empty.txt", ["empty.txt", "one on each line"]),
        ("latin1.txt", ["line 2", "UTF-8"]),
        (".", ["cannot read", "prompts in ."]),
    ] {
        let error = sandbox.fails(&["generate", "--prompt-file", file]);
        for part in expected {
            assert!(error.contains(part), "{file}: {error}");
        }
    }
    let error = sandbox.fails(&quick(&["--seed", "1-5000", "--num-images", "3"]));
    assert!(
        error.contains("15000 pictures") && error.contains("at most 10000"),
        "{error}"
    );
    // All files are looked at before the first run: the third name is taken by a folder.
    fs::create_dir(sandbox.path("a-2.png")).unwrap();
    let error = sandbox.fails(&quick(&["--seed", "1-3", "-o", "a.png"]));
    assert!(
        error.contains("a-2.png") && error.contains("folder"),
        "{error}"
    );
    // What the parser refuses has its usual exit code.
    for arguments in [
        &["generate", "x", "--seed", "4-1"] as &[_],
        &["generate", "x", "--seed", "1,a"],
        &["generate", "x", "--prompt-file", "p.txt"],
        &["compare", "x", "--seed", "1,2"],
    ] {
        assert_eq!(
            sandbox.run(arguments).status.code(),
            Some(2),
            "{arguments:?}"
        );
    }
}
