//! `plan`, completions and the man page.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use super::sandbox::{Sandbox, png};

#[test]
fn plan_shows_ranks_edges_and_speed_up_and_draws() {
    let sandbox = Sandbox::new();
    let args = [
        "plan",
        "--segments",
        "3",
        "--stride",
        "2",
        "--warm-up",
        "3",
        "--steps",
        "12",
    ];
    let text = sandbox.ok(&[&args[..], &["--svg", "plan.svg"]].concat());
    for part in [
        "n=3 stride 2 warm-up 3 forecast 0, on 4 devices",
        "staleness",
        "conv_in",
        "moved per denoiser call",
        "ideal speed-up",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let svg = fs::read_to_string(sandbox.path("plan.svg")).unwrap();
    assert!(
        svg.starts_with("<svg")
            && svg.contains("3: last segment, second copy")
            && svg.trim_end().ends_with("</svg>")
    );
    let report: Value =
        serde_json::from_str(&sandbox.ok(&[&args[..], &["--json"]].concat())).unwrap();
    assert_eq!(report["plan"]["ranks"].as_array().unwrap().len(), 4);
    assert_eq!(
        report["schedule"]["timesteps"].as_array().unwrap().len(),
        12
    );
}

/// Two calls leave no room for the default warm-up of three.
#[test]
fn few_steps_lower_the_default_warm_up_and_say_so() {
    let sandbox = Sandbox::new();
    let note = |args: &[&str]| {
        let output = sandbox.run(args);
        assert!(output.status.success(), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let expected = "note: with 2 denoiser calls, the warm-up is 1 in place of 3\n";
    let segments = ["--segments", "2", "--steps", "2"];
    let spread = ["--devices", "cpu:2", "-o", "a.png"];
    let generate = ["generate", "x"];
    assert!(note(&[&generate[..], &segments, &spread].concat()).contains(expected));
    let parameters = png(&sandbox.path("a.png")).2;
    assert!(parameters.contains("warm-up 1 "), "{parameters}");
    let compare = ["compare", "x", "--repeat", "1"];
    assert!(note(&[&compare[..], &segments, &spread].concat()).contains(expected));
    let plan = |more: &[&str]| note(&[&["plan", "--segments", "2"], more].concat());
    assert_eq!(plan(&["--steps", "2"]), expected);
    assert_eq!(plan(&["--steps", "4"]), "");
    assert_eq!(plan(&["--steps", "2", "--warm-up", "2"]), "");
    // What was asked for is not changed.
    let error = sandbox.fails(&["plan", "--segments", "2", "--steps", "2", "--warm-up", "3"]);
    assert!(error.contains("warm-up of 3"), "{error}");
    let copies = ["--look-ahead", "2", "--steps", "1"];
    let copies = note(&[&["plan"], &copies[..]].concat());
    assert!(
        copies.contains("the warm-up is 1 in place of 2"),
        "{copies}"
    );
}

#[test]
fn a_partition_of_ones_own_is_taken_from_a_file() {
    let sandbox = Sandbox::new();
    let map =
        json!({"conv_in": 1, "down_blocks": 0, "mid_block": 0, "up_blocks": 1, "conv_out": 1});
    fs::write(sandbox.path("map.json"), map.to_string()).unwrap();
    let text = sandbox.ok(&["plan", "--segments", "2", "--partition", "map.json"]);
    assert!(text.contains("forecast 0 custom, on 2 devices"), "{text}");
    let text = sandbox.ok(&["plan", "--partition", "map.json"]);
    assert!(text.contains("n=2 stride 1"), "{text}");
    let error = sandbox.fails(&["plan", "--segments", "3", "--partition", "map.json"]);
    assert!(error.contains("map.json has 2 segments, not 3"), "{error}");
    sandbox.ok(&["plan", "--segments", "5", "--partition", "balanced"]);

    fs::write(sandbox.path("map.json"), json!({"conv_inn": 0}).to_string()).unwrap();
    let error = sandbox.fails(&["plan", "--partition", "map.json"]);
    assert!(error.contains("conv_inn"), "{error}");
    let error = sandbox.fails(&["plan", "--segments", "2", "--partition", "none.json"]);
    assert!(error.contains("none.json"), "{error}");
}

#[test]
fn completions_and_man_page_know_every_flag() {
    let sandbox = Sandbox::new();
    let (bash, man) = (sandbox.ok(&["completions", "bash"]), sandbox.ok(&["man"]));
    for flag in [
        "guidance-scale",
        "warm-up",
        "time-shift",
        "num-images",
        "forecast",
        "svg",
    ] {
        assert!(bash.contains(&format!("--{flag}")), "{flag}");
        assert!(man.contains(&flag.replace('-', "\\-")), "{flag}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    use std::io::Read;
    let mut child = Command::new(env!("CARGO_BIN_EXE_asyncdiff"))
        .args(["plan", "--segments", "2", "--json"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut start = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut start).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
}

#[test]
fn plan_is_a_table_of_what_the_devices_allow_with_the_choice_marked() {
    let sandbox = Sandbox::new();
    let base = [
        "plan",
        "--devices",
        "cpu:4",
        "--scheduler",
        "dpmpp-2m",
        "--steps",
        "20",
    ];
    let chosen = |more: &[&str]| {
        let text = sandbox.ok(&[&base[..], more].concat());
        let marked: Vec<_> = text.lines().filter(|line| line.starts_with("* ")).collect();
        // The mark, and the sentence that says what it is.
        assert_eq!(marked.len(), 2, "{text}");
        marked[0].to_owned()
    };
    assert!(chosen(&[]).starts_with("* guidance split x ring, warm-up 2 "));
    assert!(chosen(&["--prefer", "speed"]).starts_with("* guidance split x 2 copies, warm-up 2 "));
    assert!(chosen(&["--guidance-scale", "1"]).starts_with("* ring, warm-up 2 "));
    assert!(
        chosen(&["--memory", "17MiB"]).starts_with("* guidance split x ring with one deep rank")
    );
    let report: Value =
        serde_json::from_str(&sandbox.ok(&[&base[..], &["--json"]].concat())).unwrap();
    let chosen =
        json!({"guidance_split": true, "spread": {"ring": {"warm_up": 2, "one_deep": false}}});
    assert_eq!(report["chosen"], chosen);
    let plans = report["plans"].as_array().unwrap();
    assert_eq!(
        plans[0]["strategy"],
        json!({"guidance_split": false, "spread": "whole"})
    );
    assert!(plans.len() > 12);

    let error = sandbox.fails(&[&base[..], &["--memory", "1MiB"]].concat());
    assert!(
        error.contains("1048576 bytes") && error.contains("narrower type"),
        "{error}"
    );
    for (flag, value, expected) in [
        ("--memory", "much", "8GiB"),
        ("--look-ahead", "0", "\"0\" is no look-ahead: use ring"),
        ("--prefer", "beauty", "likeness or speed"),
    ] {
        let output = sandbox.run(&[&base[..], &[flag, value]].concat());
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(flag) && error.contains(expected), "{error}");
    }
    let error = sandbox.fails(&[&base[..], &["--svg", "x.svg"]].concat());
    assert!(error.contains("--look-ahead"), "{error}");
}

#[test]
fn a_plan_shows_branches_and_what_is_made_ahead() {
    let sandbox = Sandbox::new();
    let args = [
        "plan",
        "--guidance-split",
        "--look-ahead",
        "ring",
        "--steps",
        "12",
        "--svg",
        "plan.svg",
    ];
    let text = sandbox.ok(&args);
    for part in [
        "guidance split x ring, warm-up 2, on 4 devices",
        "outer, negative prompt",
        "deep, prompt",
        "ahead",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let svg = fs::read_to_string(sandbox.path("plan.svg")).unwrap();
    assert!(svg.contains("predicted latents") && svg.contains("3: deep, prompt"));
    let report: Value =
        serde_json::from_str(&sandbox.ok(&[&args[..6], &["--json"]].concat())).unwrap();
    assert_eq!(
        report["plan"]["roles"][1],
        json!({"branch": "negative", "place": "deep"})
    );
}
