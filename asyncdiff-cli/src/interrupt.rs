//! Ctrl-C and the request to terminate: the first one ends a run as soon as the block that is being computed is done, a second one
//! ends the program at once.

use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use asyncdiff_models::{Cancel, Clean, Error, Latents, Progress};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::result::Result;

/// What is heeded.
const SIGNALS: [i32; 2] = [SIGINT, SIGTERM];

/// A run that a signal has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cancelled {
    done: usize,
    calls: usize,
    run: Place,
    signal: i32,
}

/// Which run of how many, counted from 1.
pub type Place = (usize, usize);

impl Cancelled {
    /// What shells expect of a program that a signal has ended.
    pub fn exit_code(&self) -> u8 {
        u8::try_from(exit_code(self.signal)).unwrap_or(u8::MAX)
    }
}

/// 128 and the signal's number.
fn exit_code(signal: i32) -> i32 {
    128 + signal
}

impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (done, calls) = (self.done, self.calls);
        write!(f, "cancelled after {done} of {calls} steps")?;
        match self.run {
            (1, 1) => Ok(()),
            (run, runs) => write!(f, " of run {run} of {runs}"),
        }
    }
}

impl std::error::Error for Cancelled {}

/// Passes progress on, until a signal comes.
pub struct Interruptible<P> {
    asked: Cancel,
    /// The last signal.
    signal: Arc<AtomicUsize>,
    announced: Announced,
    inner: P,
    done: usize,
    calls: usize,
}

impl<P: Progress> Interruptible<P> {
    /// Takes over the signals, which end the program at once before. So call this when there is something to lose: not while
    /// weights are loaded.
    ///
    /// # Errors
    ///
    /// If the system does not allow it.
    pub fn new(inner: P) -> io::Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        let signal = Arc::new(AtomicUsize::new(0));
        for number in SIGNALS {
            // In this order: the first signal finds the flag down and raises it, the second finds it up.
            flag::register_conditional_shutdown(number, exit_code(number), Arc::clone(&asked))?;
            flag::register_usize(number, Arc::clone(&signal), number as usize)?;
            flag::register(number, Arc::clone(&asked))?;
        }
        Ok(Self {
            asked: Cancel::from(asked),
            signal,
            announced: announce()?,
            inner,
            done: 0,
            calls: 0,
        })
    }

    /// Does a run of `calls` denoiser calls with this progress, unless a signal has come before it.
    ///
    /// # Errors
    ///
    /// [`Cancelled`] after a signal; the run's own errors.
    pub fn watch<T>(
        &mut self,
        place: Place,
        calls: usize,
        run: impl FnOnce(&mut Self) -> std::result::Result<T, Error>,
    ) -> Result<T> {
        (self.done, self.calls) = (0, calls);
        let result = match self.asked.is_asked() {
            true => Err(Error::Cancelled),
            false => run(self),
        };
        result.map_err(|error| match error {
            Error::Cancelled if self.asked.is_asked() => {
                // What was heard is said before what came of it.
                let _ = self.announced.recv_timeout(Duration::from_secs(1));
                Cancelled {
                    done: self.done,
                    calls: self.calls,
                    run: place,
                    signal: self.signal.load(Ordering::Relaxed) as i32,
                }
                .into()
            }
            other => other.into(),
        })
    }

    /// The progress that it is passed on to.
    pub fn inner(&mut self) -> &mut P {
        &mut self.inner
    }
}

impl<P: Progress> Progress for Interruptible<P> {
    fn step(&mut self, done: usize, calls: usize, latents: &Latents) -> ControlFlow<()> {
        (self.done, self.calls) = (done, calls);
        if self.asked.is_asked() {
            return ControlFlow::Break(());
        }
        self.inner.step(done, calls, latents)
    }

    fn predicted(&mut self, done: usize, calls: usize, clean: &Clean<'_>) -> ControlFlow<()> {
        self.inner.predicted(done, calls, clean)
    }

    fn cancel(&self) -> Cancel {
        self.asked.clone()
    }
}

/// Calls `stop` when the first signal comes; a second one ends the program at once.
///
/// # Errors
///
/// If the system does not allow it.
pub fn once(stop: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let asked = Arc::new(AtomicBool::new(false));
    for number in SIGNALS {
        flag::register_conditional_shutdown(number, exit_code(number), Arc::clone(&asked))?;
        flag::register(number, Arc::clone(&asked))?;
    }
    let wait = move || {
        while !asked.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(50));
        }
        complain!("asked to end: nothing new is begun; once more to end at once");
        stop();
    };
    // It ends with the program.
    std::thread::Builder::new().spawn(wait)?;
    Ok(())
}

/// Hears of it when a signal has been announced.
type Announced = mpsc::Receiver<()>;

/// Says as soon as a signal comes that it was heard: what is being computed may take a while.
#[cfg(unix)]
fn announce() -> io::Result<Announced> {
    let mut signals = signal_hook::iterator::Signals::new(SIGNALS)?;
    let (said, announced) = mpsc::channel();
    let say = move || {
        for signal in &mut signals {
            let name = match signal {
                SIGINT => "interrupted",
                _ => "asked to terminate",
            };
            complain!("{name}: ending after this block; once more to end at once");
            // Nobody may be left to hear it.
            let _ = said.send(());
        }
    };
    // It ends with the program.
    std::thread::Builder::new().spawn(say)?;
    Ok(announced)
}

/// There is no thread that could wait for signals here.
#[cfg(not(unix))]
fn announce() -> io::Result<Announced> {
    Ok(mpsc::channel().1)
}
