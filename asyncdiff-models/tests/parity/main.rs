//! Everything that is computed, against reference tensors of diffusers and of the published AsyncDiff code.
//!
//! The data comes from `fixtures/`, or from the folder that `ASYNCDIFF_FIXTURES` names.

mod animatediff;
mod branches;
mod direct;
mod fixtures;
mod guidance_split;
mod image_to_image;
mod image_to_video;
mod loras;
mod members;
mod networks;
mod pipelines;
mod prompt_weighting;
mod schedulers;
mod tokenizer;
mod vae_tiling;
