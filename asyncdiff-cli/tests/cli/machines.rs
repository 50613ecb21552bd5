//! A machine that is measured, and plans that are balanced by it.

use serde_json::Value;

use super::sandbox::Sandbox;

#[test]
fn a_machine_is_measured_and_plans_are_balanced_by_it() {
    let sandbox = Sandbox::new();
    let measure = ["measure", "--devices", "cpu:2", "--repeat", "1"];
    let text = sandbox.ok(&[&measure[..], &["-o", "machine.json"]].concat());
    assert!(text.contains("ms for a denoiser call on cpu:0"), "{text}");
    assert!(text.contains("cpu:1 is"), "{text}");
    let written = std::fs::read(sandbox.path("machine.json")).unwrap();
    let machine: Value = serde_json::from_slice(&written).unwrap();
    let blocks = machine["blocks"].as_array().unwrap();
    assert_eq!(
        machine["machine"]["block_time"].as_array().unwrap().len(),
        blocks.len()
    );

    let plan = [
        "plan",
        "--segments",
        "2",
        "--partition",
        "balanced",
        "--machine",
        "machine.json",
    ];
    let text = sandbox.ok(&plan);
    assert!(text.contains("expected on the measured machine"), "{text}");
    let json = sandbox.ok(&[&plan[..], &["--json"]].concat());
    let report: Value = serde_json::from_str(&json).unwrap();
    assert!(report["seconds"].as_f64().unwrap() > 0.0);

    let error = sandbox.fails(&[&plan[..], &["--width", "128"]].concat());
    assert!(error.contains("measure it at this size"), "{error}");
    std::fs::write(sandbox.path("machine.json"), "{}").unwrap();
    let error = sandbox.fails(&plan);
    assert!(
        error.contains("machine.json is not what asyncdiff measure writes"),
        "{error}"
    );
    std::fs::remove_file(sandbox.path("machine.json")).unwrap();
    let error = sandbox.fails(&plan);
    assert!(error.contains("cannot read the machine"), "{error}");
}

#[test]
fn where_a_machine_cannot_be_written_is_said_before_it_is_measured() {
    let sandbox = Sandbox::new();
    let measure = ["measure", "--devices", "no such device"];
    let error = sandbox.fails(&[&measure[..], &["-o", "missing/machine.json"]].concat());
    assert!(error.contains("create it first"), "{error}");
}
