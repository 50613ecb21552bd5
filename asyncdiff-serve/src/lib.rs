//! An HTTP service that keeps models loaded, and its page.
//!
//! [`Server::start`] takes [`Settings`] and serves, on one address: OpenAI's interface for pictures, that of AUTOMATIC1111's web UI,
//! and a page on which a person watches a picture come. What a request may name, it names by [`ModelSource`] and [`LoraSource`];
//! how much it may ask for, [`Limits`] say. Each set of [`Devices`] makes one picture at a time, the others wait in a queue.
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::{SocketAddr, TcpStream};
//! use std::sync::Arc;
//!
//! use asyncdiff_models::{Checkpoint, StableDiffusion};
//! use asyncdiff_serve::{ModelSource, Server, Settings};
//!
//! let embedded = ModelSource {
//!     name: "embedded".to_owned(),
//!     open: Arc::new(|| Ok(StableDiffusion::open(Checkpoint::embedded())?)),
//! };
//! let mut settings = Settings::new(vec![embedded]);
//! settings.listen = SocketAddr::from(([127, 0, 0, 1], 0)); // any port that is free
//! let server = Server::start(settings)?;
//!
//! let mut stream = TcpStream::connect(server.address())?;
//! stream.write_all(b"GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
//! let mut answer = String::new();
//! stream.read_to_string(&mut answer)?;
//! assert!(answer.starts_with("HTTP/1.0 200 OK"), "{answer}");
//!
//! server.stopper().stop();
//! server.wait()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![deny(missing_docs)]

mod automatic1111;
mod body;
mod catalog;
mod documents;
mod door;
mod engine;
mod files;
mod infotext;
mod job;
mod limits;
mod lora_tag;
mod metrics;
mod openai;
mod order;
mod page;
mod pictures;
mod plans;
mod queue;
mod refusal;
mod server;
mod service;

pub use catalog::{LoraSource, ModelSource, Open};
pub use engine::Devices;
pub use limits::Limits;
pub use plans::Planning;
pub use server::{ServeError, Server, Settings, Stopper};
