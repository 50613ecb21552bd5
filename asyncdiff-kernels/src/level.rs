//! Which instructions the kernels use.

use std::fmt;
use std::sync::OnceLock;

/// A set of instructions that the kernels are compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// x86-64 with AVX-512F and the products of pairs of `bf16`.
    Avx512Bf16,
    /// x86-64 with AVX-512F.
    Avx512,
    /// x86-64 with AVX2, FMA and F16C.
    Avx2,
    /// Whatever the program was compiled for.
    Portable,
}

/// The environment variable that forces a [`Level`].
pub const VARIABLE: &str = "ASYNCDIFF_KERNELS";

/// Why a [`Level`] cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LevelError {
    /// No level of that name.
    #[error("{VARIABLE}={0}: there are no such kernels, use avx512bf16, avx512, avx2 or portable")]
    Unknown(String),
    /// The processor lacks the instructions.
    #[error("{VARIABLE}={0}: this processor has no such instructions, the best that it has is {1}")]
    Lacking(Level, Level),
}

impl Level {
    /// All of them, the best first.
    pub const ALL: [Level; 4] = [
        Level::Avx512Bf16,
        Level::Avx512,
        Level::Avx2,
        Level::Portable,
    ];

    /// Whether this processor has the instructions.
    #[must_use]
    pub fn is_here(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512Bf16 => Level::Avx512.is_here() && is_x86_feature_detected!("avx512bf16"),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => Level::Avx2.is_here() && is_x86_feature_detected!("avx512f"),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Level::Avx512Bf16 | Level::Avx512 | Level::Avx2 => false,
            Level::Portable => true,
        }
    }

    /// The best that this processor has.
    #[must_use]
    pub fn best() -> Level {
        let here = Self::ALL.into_iter().find(|level| level.is_here());
        here.unwrap_or(Level::Portable)
    }

    /// The level in use: the best, or the one that the environment variable [`VARIABLE`] names. It is chosen once for the
    /// program.
    ///
    /// # Errors
    ///
    /// [`LevelError`] if the variable names none that this processor has. The kernels then use the best.
    pub fn chosen() -> Result<Level, LevelError> {
        static CHOSEN: OnceLock<Result<Level, LevelError>> = OnceLock::new();
        let choose = || match std::env::var_os(VARIABLE) {
            None => Ok(Self::best()),
            Some(name) => Self::named(&name.to_string_lossy()),
        };
        CHOSEN.get_or_init(choose).clone()
    }

    fn named(name: &str) -> Result<Level, LevelError> {
        let level = Self::ALL
            .into_iter()
            .find(|level| level.to_string() == name)
            .ok_or_else(|| LevelError::Unknown(name.to_owned()))?;
        if level.is_here() {
            Ok(level)
        } else {
            Err(LevelError::Lacking(level, Self::best()))
        }
    }
}

/// The level in use, without the allocation of an error.
#[inline]
pub(crate) fn current() -> Level {
    static CURRENT: OnceLock<Level> = OnceLock::new();
    *CURRENT.get_or_init(|| Level::chosen().unwrap_or_else(|_| Level::best()))
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Level::Avx512Bf16 => "avx512bf16",
            Level::Avx512 => "avx512",
            Level::Avx2 => "avx2",
            Level::Portable => "portable",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_named_as_it_is_printed_and_must_be_here() {
        for level in Level::ALL {
            let named = Level::named(&level.to_string());
            assert_eq!(named.is_ok(), level.is_here());
        }
        let error = Level::named("mmx").unwrap_err().to_string();
        assert_eq!(
            error,
            "ASYNCDIFF_KERNELS=mmx: there are no such kernels, use avx512bf16, avx512, avx2 or portable"
        );
    }
}
