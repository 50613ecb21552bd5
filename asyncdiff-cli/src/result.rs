//! What goes wrong is told to whoever typed the command: a sentence is enough.

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;
