//! The program as a person uses it: the real binary, in a folder of its own.

mod batches;
mod devices;
mod documents;
mod dtypes;
mod hostile;
mod info;
mod init_images;
#[cfg(target_os = "linux")]
mod interrupts;
mod links;
mod lists;
mod loras;
mod machines;
mod models;
mod outputs;
mod pictures;
mod plans;
mod previews;
mod processes;
mod requests;
mod sandbox;
mod serve;
mod settings;
mod sources;
mod videos;
mod weights;
mod workers;
