//! What the project's own fuzz tests try, for libFuzzer.

#[path = "../../asyncdiff-models/tests/sources/files.rs"]
#[allow(dead_code, reason = "most of it is for tests")]
mod files;
#[path = "../../asyncdiff-models/tests/fuzz/targets.rs"]
pub mod targets;
