//! The service as its clients see it: over HTTP, with the embedded model.

mod access;
mod automatic1111;
mod client;
mod documents;
mod limits;
mod openai;
mod page;
mod queue;
mod recorded;
