//! The tensors of one network in a file that holds several.

use std::collections::BTreeMap;

use asyncdiff_burn::weights::{Form, Stored};

use super::super::error::CheckpointError;

/// The tensors of one network in a file that holds several: their shapes, by name without the network's prefix.
pub(super) struct Part<'a> {
    file: &'a str,
    prefix: &'a str,
    shapes: BTreeMap<&'a str, &'a [usize]>,
}

/// Where each of a network's tensors is, by diffusers' or transformers' name.
pub(super) type Names = BTreeMap<String, Stored>;

impl<'a> Part<'a> {
    /// The tensors below `prefix`, which ends in a dot, except those that are `surplus`.
    pub fn new(
        file: &'a str,
        prefix: &'a str,
        shapes: &'a BTreeMap<String, Vec<usize>>,
        surplus: impl Fn(&str) -> bool,
    ) -> Self {
        let below = |(name, shape): (&'a String, &'a Vec<usize>)| {
            Some((name.strip_prefix(prefix)?, shape.as_slice()))
        };
        let shapes = shapes
            .iter()
            .filter_map(below)
            .filter(|(name, _)| !surplus(name))
            .collect();
        Self {
            file,
            prefix,
            shapes,
        }
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &'a str> {
        self.shapes.keys().copied()
    }

    pub fn has(&self, name: &str) -> bool {
        self.shapes.contains_key(name)
    }

    /// Whether there is a tensor below the module `name`.
    pub fn has_module(&self, name: &str) -> bool {
        self.names()
            .any(|tensor| matches!(tensor.strip_prefix(name), Some(rest) if rest.starts_with('.')))
    }

    /// How many modules `list.0`, `list.1`, … there are.
    pub fn count(&self, list: &str) -> usize {
        (0..)
            .take_while(|index| self.has_module(&format!("{list}.{index}")))
            .count()
    }

    pub fn shape(&self, name: &str) -> Result<&'a [usize], CheckpointError> {
        self.shapes
            .get(name)
            .copied()
            .ok_or_else(|| CheckpointError::NoTensor {
                file: self.file.to_owned(),
                name: format!("{}{name}", self.prefix),
            })
    }

    /// A shape of `D` dimensions.
    pub fn dims<const D: usize>(&self, name: &str) -> Result<[usize; D], CheckpointError> {
        let shape = self.shape(name)?;
        shape.try_into().map_err(|_| CheckpointError::Dimensions {
            file: self.file.to_owned(),
            name: format!("{}{name}", self.prefix),
            found: shape.to_vec(),
            expected: D,
        })
    }

    /// Where the tensor `name` is.
    pub fn stored(&self, name: &str, form: Form) -> Stored {
        Stored {
            name: format!("{}{name}", self.prefix),
            form,
        }
    }

    pub fn not_understood(&self, name: &str) -> CheckpointError {
        CheckpointError::NotUnderstood {
            file: self.file.to_owned(),
            name: format!("{}{name}", self.prefix),
        }
    }

    /// Attention heads of a network with `channels`, where its makers gave each head `per_head` of them.
    pub fn heads(&self, channels: usize, per_head: usize) -> Result<usize, CheckpointError> {
        if channels == 0 || !channels.is_multiple_of(per_head) {
            return Err(CheckpointError::Heads {
                file: self.file.to_owned(),
                part: self.prefix.trim_end_matches('.').to_owned(),
                channels,
                per_head,
            });
        }
        Ok(channels / per_head)
    }
}

/// The first of `table` whose first entry, a module, has the tensor `name`: its second entry with the rest of the name.
pub(super) fn rename(name: &str, table: &[(&str, &str)]) -> Option<String> {
    table.iter().find_map(|(from, to)| {
        let rest = name.strip_prefix(from)?;
        (rest.starts_with('.')).then(|| format!("{to}{rest}"))
    })
}
