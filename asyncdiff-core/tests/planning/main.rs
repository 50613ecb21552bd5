//! From a configuration to a plan to a run, without tensors.

mod common;
mod engine;
mod graph;
mod motion;
mod plan;
mod simulate;
