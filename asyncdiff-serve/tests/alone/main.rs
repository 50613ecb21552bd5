//! What is measured, and so needs a process of its own: each test waits for the others.

#[path = "../serve/client.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod client;
mod load;
mod speed;

/// Held by whoever measures.
static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());
