//! From a configuration to a plan to a run, without tensors.

mod choice;
mod common;
mod engine;
mod graph;
mod look_ahead;
mod motion;
mod numbers;
mod plan;
mod simulate;
mod spreads;
mod transfers;
