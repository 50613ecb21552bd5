//! `plan`, completions and the man page.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use super::sandbox::Sandbox;

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
        "3 segments on 4 devices",
        "staleness",
        "conv_in",
        "moved per denoiser call",
        "ideal speed-up",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let svg = fs::read_to_string(sandbox.path("plan.svg")).unwrap();
    assert!(
        svg.starts_with("<svg") && svg.contains("rank 3") && svg.trim_end().ends_with("</svg>")
    );
    let report: Value =
        serde_json::from_str(&sandbox.ok(&[&args[..], &["--json"]].concat())).unwrap();
    assert_eq!(report["plan"]["ranks"].as_array().unwrap().len(), 4);
    assert_eq!(
        report["schedule"]["timesteps"].as_array().unwrap().len(),
        12
    );
}

#[test]
fn a_partition_of_ones_own_is_taken_from_a_file() {
    let sandbox = Sandbox::new();
    let map =
        json!({"conv_in": 1, "down_blocks": 0, "mid_block": 0, "up_blocks": 1, "conv_out": 1});
    fs::write(sandbox.path("map.json"), map.to_string()).unwrap();
    let text = sandbox.ok(&["plan", "--segments", "2", "--partition", "map.json"]);
    assert!(text.contains("custom partition"), "{text}");
    let text = sandbox.ok(&["plan", "--partition", "map.json"]);
    assert!(text.contains("2 segments on 2 devices"), "{text}");
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
        .args(["plan", "--json"])
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
