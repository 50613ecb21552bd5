//! Everything that is computed, against reference tensors of diffusers and of the published AsyncDiff code.
//!
//! The data comes from `fixtures/`, or from the folder that `ASYNCDIFF_FIXTURES` names.

mod fixtures;
mod loras;
mod networks;
mod pipelines;
mod schedulers;
mod tokenizer;
