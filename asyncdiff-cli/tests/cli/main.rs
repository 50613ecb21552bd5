//! The program as a person uses it: the real binary, in a folder of its own.

mod info;
#[cfg(target_os = "linux")]
mod interrupts;
mod lists;
mod models;
mod pictures;
mod plans;
mod requests;
mod sandbox;
mod sources;
