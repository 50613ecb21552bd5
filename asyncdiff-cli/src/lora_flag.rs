//! The value of `--lora`.

use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;

use serde::Serialize;

/// A LoRA file and how much of it to take.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LoraFlag {
    pub file: PathBuf,
    pub strength: f64,
}

impl FromStr for LoraFlag {
    type Err = Infallible;

    /// What follows the last colon is the strength if it is a number, and otherwise part of the path.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        let split = text.rsplit_once(':').and_then(|(file, strength)| {
            let strength = strength.parse().ok()?;
            (!file.is_empty()).then(|| (file.into(), strength))
        });
        let (file, strength) = split.unwrap_or_else(|| (text.into(), 1.0));
        Ok(Self { file, strength })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_number_after_the_last_colon_is_a_strength() {
        for (text, file, strength) in [
            ("a.safetensors", "a.safetensors", 1.0),
            ("a.safetensors:0.5", "a.safetensors", 0.5),
            ("a.safetensors:-1", "a.safetensors", -1.0),
            ("v1:2/a.safetensors", "v1:2/a.safetensors", 1.0),
            ("v1:2/a:b.safetensors:1e-1", "v1:2/a:b.safetensors", 0.1),
            ("a.safetensors:", "a.safetensors:", 1.0),
            (":2", ":2", 1.0),
        ] {
            let expected = LoraFlag {
                file: file.into(),
                strength,
            };
            assert_eq!(text.parse(), Ok(expected), "{text}");
        }
    }
}
