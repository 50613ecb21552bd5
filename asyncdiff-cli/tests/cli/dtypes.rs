//! `--dtype`.

use serde_json::Value;

use super::sandbox::{Sandbox, quick};

#[test]
fn the_type_halves_the_bytes_and_is_reported() {
    let sandbox = Sandbox::new();
    let report = |dtype: &str| -> Value {
        let args = ["generate", "x", "--steps", "2", "--json", "--dtype", dtype];
        serde_json::from_str(&sandbox.ok(&args)).unwrap()
    };
    let (wide, narrow) = (report("f32"), report("bf16"));
    assert_eq!(narrow["dtype"], "bf16");
    let bytes = |report: &Value| report["loaded_weight_bytes"][0].as_u64().unwrap();
    assert_eq!(bytes(&wide), 2 * bytes(&narrow));
    assert!(sandbox.ok(&["plan", "--dtype", "f16"]).contains(", f16"));
}

#[test]
fn an_unknown_type_is_refused_with_those_that_exist() {
    let sandbox = Sandbox::new();
    let output = sandbox.run(&quick(&["--dtype", "f8"]));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(
        error.contains("f8") && error.contains("use f32, f16 or bf16"),
        "{error}"
    );
    assert!(!sandbox.path("asyncdiff.png").exists());
}
