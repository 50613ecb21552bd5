//! Ending a run before its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::Error;

/// A wish to end a run. All clones are one: whoever holds one may ask at any time, from any thread or from a signal handler.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks whatever run heeds this to end, as soon as the block that is being computed is done.
    pub fn ask(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether anybody has asked.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// [`Error::Cancelled`] if anybody has asked.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self.is_asked() {
            true => Err(Error::Cancelled),
            false => Ok(()),
        }
    }
}

/// What `compute` makes where nobody can ask.
pub(crate) fn unasked<T>(compute: impl FnOnce(&Cancel) -> Result<T, Error>) -> T {
    match compute(&Cancel::default()) {
        Ok(made) => made,
        Err(_) => unreachable!("nobody else has this wish"),
    }
}

/// The same wish as that of a flag that something else raises.
impl From<Arc<AtomicBool>> for Cancel {
    fn from(flag: Arc<AtomicBool>) -> Self {
        Self(flag)
    }
}
