//! Ctrl-C, or SIGTERM: the first one ends a run at its next step, a second one ends the program at once.

use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use asyncdiff_models::{Clean, Error, Latents, Progress};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::result::Result;

/// What shells expect of a program that SIGINT has ended: 128 and the signal's number.
pub const EXIT_CODE: u8 = 130;

/// A run that Ctrl-C has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cancelled {
    done: usize,
    calls: usize,
    run: Place,
}

/// Which run of how many, counted from 1.
pub type Place = (usize, usize);

impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { done, calls, run } = self;
        write!(f, "cancelled after {done} of {calls} steps")?;
        match run {
            (1, 1) => Ok(()),
            (run, runs) => write!(f, " of run {run} of {runs}"),
        }
    }
}

impl std::error::Error for Cancelled {}

/// Passes progress on, until Ctrl-C.
pub struct Interruptible<P> {
    asked: Arc<AtomicBool>,
    inner: P,
    done: usize,
    calls: usize,
}

impl<P: Progress> Interruptible<P> {
    /// Takes over Ctrl-C, which ends the program at once before. So call this when there is something to lose: not while
    /// weights are loaded.
    ///
    /// # Errors
    ///
    /// If the system does not allow it.
    pub fn new(inner: P) -> io::Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        // In this order: the first signal finds the flag down and raises it, the second finds it up.
        for signal in [SIGINT, SIGTERM] {
            flag::register_conditional_shutdown(signal, EXIT_CODE.into(), Arc::clone(&asked))?;
            flag::register(signal, Arc::clone(&asked))?;
        }
        Ok(Self {
            asked,
            inner,
            done: 0,
            calls: 0,
        })
    }

    /// Does a run of `calls` denoiser calls with this progress, unless Ctrl-C was pressed before it.
    ///
    /// # Errors
    ///
    /// [`Cancelled`] after Ctrl-C; the run's own errors.
    pub fn watch<T>(
        &mut self,
        place: Place,
        calls: usize,
        run: impl FnOnce(&mut Self) -> std::result::Result<T, Error>,
    ) -> Result<T> {
        (self.done, self.calls) = (0, calls);
        let result = match self.asked() {
            true => Err(Error::Cancelled),
            false => run(self),
        };
        result.map_err(|error| match error {
            Error::Cancelled if self.asked() => Cancelled {
                done: self.done,
                calls: self.calls,
                run: place,
            }
            .into(),
            other => other.into(),
        })
    }

    /// The progress that it is passed on to.
    pub fn inner(&mut self) -> &mut P {
        &mut self.inner
    }

    fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }
}

impl<P: Progress> Progress for Interruptible<P> {
    fn step(&mut self, done: usize, calls: usize, latents: &Latents) -> ControlFlow<()> {
        (self.done, self.calls) = (done, calls);
        if self.asked() {
            return ControlFlow::Break(());
        }
        self.inner.step(done, calls, latents)
    }

    fn predicted(&mut self, done: usize, calls: usize, clean: &Clean<'_>) -> ControlFlow<()> {
        self.inner.predicted(done, calls, clean)
    }
}
