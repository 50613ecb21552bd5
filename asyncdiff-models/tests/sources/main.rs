//! Where weights come from: the same model, kept in every way that people keep models, is the same model.
#![cfg(feature = "flex")]

mod files;
mod folder;
#[cfg(feature = "hub")]
mod hub;
mod inference;
#[cfg(feature = "hub")]
mod lying_hub;
mod original;
mod previews;
mod published;
#[cfg(feature = "hub")]
mod server;
mod single_file;
