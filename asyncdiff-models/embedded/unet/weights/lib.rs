//! The first of the two shards of the UNet of `asyncdiff-embedded`, in a package of its own because a registry takes at most 10 MiB.

#![deny(missing_docs)]

/// A safetensors file.
pub static FIRST_SHARD: &[u8] =
    include_bytes!("diffusion_pytorch_model-00001-of-00002.safetensors");
