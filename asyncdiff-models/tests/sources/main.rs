//! Where weights come from: the same model, kept in every way that people keep models, is the same model.
#![cfg(feature = "flex")]

mod files;
mod folder;
mod inference;
mod original;
mod published;
mod single_file;
