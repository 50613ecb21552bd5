//! The transport between NVIDIA GPUs: tensors go from one device's memory to another's, without a copy in the host's.
//!
//! NCCL has rules that other transports do not have. A send occupies its communicator's stream until the receive has begun,
//! and messages between two ranks have no tags: they are matched in the order in which both sides ask for them. Two ranks
//! that each send before they receive wait for each other forever. So a [`NcclPeer`] is given all messages of the run in one
//! order that is the same on all ranks, and hands them to NCCL in this order, whatever order its rank asks for them in:
//! before a message is sent, the receives that come before it are posted; a message whose turn has not come is kept.
//!
//! Everything else goes over another transport, the *control* (between processes, [`network`](crate::network)): how the
//! ranks meet, that a rank has failed and why, that it still lives. NCCL itself cannot say why a peer is silent.
//!
//! [`NcclApi`] is what is asked of NCCL for one rank; with the feature `nccl`, `Communicator` is the library's, loaded when the
//! program runs. Ranks [`meet`] to get one each, or to learn that one of them cannot have it.

#[cfg(feature = "nccl")]
mod communicator;
#[cfg(feature = "nccl")]
mod library;
mod meeting;

use std::collections::{HashMap, VecDeque};
use std::ffi::c_void;
use std::marker::PhantomData;
use std::thread;
use std::time::{Duration, Instant};

use crate::{CommError, Form, PeerExchange, Transfer};

#[cfg(feature = "nccl")]
pub use communicator::{Communicator, Gpu};
#[cfg(feature = "nccl")]
pub use library::Library;
pub use meeting::{Join, UniqueId, meet};

/// Why NCCL, or CUDA's driver, does not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NcclError {
    /// A library cannot be loaded.
    #[error("{library} cannot be loaded: {reason}; {remedy}")]
    Library {
        /// The names that were tried.
        library: &'static str,
        /// What the system says.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A function failed.
    #[error("{function} failed with {code}: {reason}")]
    Call {
        /// The function.
        function: &'static str,
        /// What it returned.
        code: i32,
        /// What that means.
        reason: String,
    },
    /// A communicator was not ready in time.
    #[error("the ranks did not form an NCCL communicator within {0:?}")]
    Deadline(Duration),
    /// A communicator that a run was broken off with.
    #[error("the NCCL communicator was given up when the last run failed: start the ranks anew")]
    Aborted,
}

/// What is asked of NCCL for one rank: a communicator and its stream, on which things happen one after another.
pub trait NcclApi {
    /// A place in the stream.
    type Mark;

    /// Appends a send of `bytes` bytes at `pointer` to rank `to`.
    ///
    /// # Safety
    ///
    /// The memory is on the communicator's device, and stays as it is until the stream has passed a later mark.
    ///
    /// # Errors
    ///
    /// [`NcclError`].
    unsafe fn send(
        &mut self,
        to: usize,
        pointer: *const c_void,
        bytes: usize,
    ) -> Result<(), NcclError>;

    /// Appends a receive of `bytes` bytes from rank `from` into `pointer`.
    ///
    /// # Safety
    ///
    /// The memory is on the communicator's device, and nobody else uses it until the stream has passed a later mark.
    ///
    /// # Errors
    ///
    /// [`NcclError`].
    unsafe fn recv(
        &mut self,
        from: usize,
        pointer: *mut c_void,
        bytes: usize,
    ) -> Result<(), NcclError>;

    /// The end of the stream as it is now.
    ///
    /// # Errors
    ///
    /// [`NcclError`].
    fn mark(&mut self) -> Result<Self::Mark, NcclError>;

    /// Whether the stream has passed `mark`. Does not wait.
    ///
    /// # Errors
    ///
    /// [`NcclError`], also for what went wrong behind the program's back.
    fn passed(&mut self, mark: &Self::Mark) -> Result<bool, NcclError>;

    /// Gives up whatever is in the stream: the only call that may follow a failure.
    fn abort(&mut self);
}

impl<A: NcclApi + ?Sized> NcclApi for &mut A {
    type Mark = A::Mark;

    unsafe fn send(
        &mut self,
        to: usize,
        pointer: *const c_void,
        bytes: usize,
    ) -> Result<(), NcclError> {
        // SAFETY: the caller's promise.
        unsafe { (**self).send(to, pointer, bytes) }
    }

    unsafe fn recv(
        &mut self,
        from: usize,
        pointer: *mut c_void,
        bytes: usize,
    ) -> Result<(), NcclError> {
        // SAFETY: the caller's promise.
        unsafe { (**self).recv(from, pointer, bytes) }
    }

    fn mark(&mut self) -> Result<Self::Mark, NcclError> {
        (**self).mark()
    }

    fn passed(&mut self, mark: &Self::Mark) -> Result<bool, NcclError> {
        (**self).passed(mark)
    }

    fn abort(&mut self) {
        (**self).abort();
    }
}

/// A tensor in a device's memory.
///
/// # Safety
///
/// The memory at the pointer has as many bytes as the form says, lies on the device of the communicator that the buffer is
/// used with, and is the buffer's own as long as it lives. What was to be written into it, or read from it before, has been when
/// the pointer is given.
pub unsafe trait DeviceBuffer {
    /// Its form.
    fn form(&self) -> Form;

    /// Where its elements are.
    fn pointer(&mut self) -> *mut c_void;
}

/// Makes a buffer of a form, with anything in it.
pub type Empty<M> = Box<dyn FnMut(&Form) -> M + Send>;

/// One rank of a run between GPUs. `N` is what the control's messages are, of which it sends none.
pub struct NcclPeer<A: NcclApi, C, M, N> {
    api: A,
    control: C,
    empty: Empty<M>,
    /// This rank's messages, in the order of the run.
    order: Vec<Transfer>,
    place: HashMap<(usize, usize, u64), usize>,
    /// How many of them were handed to NCCL, and up to which the rank has asked.
    posted: usize,
    asked: usize,
    waiting: HashMap<usize, M>,
    sent: VecDeque<(A::Mark, M)>,
    received: HashMap<usize, (A::Mark, M)>,
    broken: bool,
    messages: PhantomData<fn(N)>,
}

impl<A, C, M, N> NcclPeer<A, C, M, N>
where
    A: NcclApi,
    C: PeerExchange<N>,
    M: DeviceBuffer,
{
    /// A rank whose tensors go through `api` and whose failures through `control`. `transfers` are all messages of the run,
    /// the same on all ranks: every rank sends in this order, and asks for no message before it could have sent those of its
    /// own that come before it.
    pub fn new(api: A, control: C, transfers: &[Transfer], empty: Empty<M>) -> Self {
        let rank = control.rank();
        let mine = |transfer: &&Transfer| transfer.from == rank || transfer.to == rank;
        let order: Vec<_> = transfers.iter().filter(mine).cloned().collect();
        let place = order
            .iter()
            .enumerate()
            .map(|(index, transfer)| ((transfer.from, transfer.to, transfer.tag), index))
            .collect();
        Self {
            api,
            control,
            empty,
            order,
            place,
            posted: 0,
            asked: 0,
            waiting: HashMap::new(),
            sent: VecDeque::new(),
            received: HashMap::new(),
            broken: false,
            messages: PhantomData,
        }
    }

    fn place(&self, from: usize, to: usize, tag: u64) -> Result<usize, CommError> {
        let place = self.place.get(&(from, to, tag)).copied();
        place.ok_or_else(|| {
            CommError::Transport(format!(
                "message {tag} from rank {from} to rank {to} is not one of this run"
            ))
        })
    }

    /// Hands messages to NCCL, in their order, up to the last one that was asked for or the first that is not there.
    fn post(&mut self) -> Result<(), NcclError> {
        while self.posted < self.asked {
            let index = self.posted;
            let Transfer { from, to, form, .. } = &self.order[index];
            if *from == self.control.rank() {
                let Some(mut message) = self.waiting.remove(&index) else {
                    return Ok(());
                };
                let bytes = bytes(&message);
                // SAFETY: the message is kept until the stream has passed the mark behind it.
                unsafe { self.api.send(*to, message.pointer(), bytes) }?;
                self.sent.push_back((self.api.mark()?, message));
            } else {
                let mut message = (self.empty)(form);
                let bytes = bytes(&message);
                // SAFETY: the same; it is not given away before.
                unsafe { self.api.recv(*from, message.pointer(), bytes) }?;
                self.received.insert(index, (self.api.mark()?, message));
            }
            self.posted += 1;
        }
        Ok(())
    }

    /// Lets go of what has been sent.
    fn release(&mut self) -> Result<(), NcclError> {
        while let Some((mark, _)) = self.sent.front() {
            if !self.api.passed(mark)? {
                break;
            }
            self.sent.pop_front();
        }
        Ok(())
    }

    /// After a failure nothing in the stream will end by itself.
    fn give_up(&mut self, error: CommError) -> CommError {
        if self.broken {
            return error;
        }
        self.broken = true;
        self.api.abort();
        // What NCCL cannot do any more is often because another rank is gone. That is the cause, and soon known.
        let start = Instant::now();
        while matches!(error, CommError::Transport(_)) && start.elapsed() < CAUSE {
            if let Err(cause) = self.control.check() {
                return cause;
            }
            thread::sleep(Duration::from_millis(1));
        }
        error
    }

    fn try_send(&mut self, to: usize, tag: u64, message: M) -> Result<(), CommError> {
        self.control.check()?;
        let place = self.place(self.control.rank(), to, tag)?;
        let (expected, found) = (&self.order[place].form, message.form());
        if *expected != found {
            return Err(CommError::Form {
                rank: self.control.rank(),
                expected: expected.clone(),
                found,
            });
        }
        self.waiting.insert(place, message);
        self.asked = self.asked.max(place + 1);
        self.post()?;
        Ok(self.release()?)
    }

    fn try_recv(
        &mut self,
        from: usize,
        tag: u64,
        expected: &Form,
        within: Duration,
    ) -> Result<M, CommError> {
        let start = Instant::now();
        let place = self.place(from, self.control.rank(), tag)?;
        let known = &self.order[place].form;
        if known != expected {
            return Err(CommError::Form {
                rank: from,
                expected: expected.clone(),
                found: known.clone(),
            });
        }
        self.asked = self.asked.max(place + 1);
        self.post()?;
        let Some((mark, message)) = self.received.remove(&place) else {
            return Err(CommError::Transport(format!(
                "message {tag} from rank {from} is asked for before what this rank sends before it: the order of the run's messages is not one of its plan"
            )));
        };
        loop {
            if self.api.passed(&mark)? {
                self.release()?;
                return Ok(message);
            }
            let waited = start.elapsed();
            let error = match self.control.check() {
                Ok(()) if waited < within => {
                    // At first the message is often on its way; later, other threads have more use of the processor.
                    if waited > Duration::from_millis(1) {
                        thread::sleep(Duration::from_micros(100));
                    } else {
                        thread::yield_now();
                    }
                    continue;
                }
                Ok(()) => CommError::Deadline {
                    rank: from,
                    after: within,
                },
                Err(error) => error,
            };
            // NCCL may still write into it.
            self.received.insert(place, (mark, message));
            return Err(error);
        }
    }
}

fn bytes(buffer: &impl DeviceBuffer) -> usize {
    buffer.form().bytes().unwrap_or(0)
}

impl From<NcclError> for CommError {
    fn from(error: NcclError) -> Self {
        CommError::Transport(error.to_string())
    }
}

impl<A, C, M, N> PeerExchange<M> for NcclPeer<A, C, M, N>
where
    A: NcclApi,
    C: PeerExchange<N>,
    M: DeviceBuffer,
{
    fn rank(&self) -> usize {
        self.control.rank()
    }

    fn world_size(&self) -> usize {
        self.control.world_size()
    }

    fn send(&mut self, to: usize, tag: u64, message: M) -> Result<(), CommError> {
        self.try_send(to, tag, message)
            .map_err(|error| self.give_up(error))
    }

    fn recv(
        &mut self,
        from: usize,
        tag: u64,
        expected: &Form,
        within: Duration,
    ) -> Result<M, CommError> {
        self.try_recv(from, tag, expected, within)
            .map_err(|error| self.give_up(error))
    }

    fn check(&mut self) -> Result<(), CommError> {
        self.control.check().map_err(|error| self.give_up(error))
    }

    fn fail(&mut self, reason: &str) {
        self.control.fail(reason);
        if !self.broken {
            self.broken = true;
            self.api.abort();
        }
    }
}

/// How long to wait for the reason of a failure that NCCL reports.
const CAUSE: Duration = Duration::from_millis(100);

/// How long the last messages of a run may take once their sender is done.
const LAST: Duration = Duration::from_secs(30);

impl<A: NcclApi, C, M, N> Drop for NcclPeer<A, C, M, N> {
    fn drop(&mut self) {
        let start = Instant::now();
        // What was sent last has to arrive before its memory is given back.
        while !self.broken
            && let Some((mark, _)) = self.sent.back()
        {
            match self.api.passed(mark) {
                Ok(true) => break,
                Ok(false) if start.elapsed() < LAST && !thread::panicking() => {
                    thread::sleep(Duration::from_micros(100));
                }
                _ => {
                    self.broken = true;
                    self.api.abort();
                }
            }
        }
    }
}
