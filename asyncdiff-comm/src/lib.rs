//! How one rank of an asynchronous denoising run hands a message to another.
//!
//! [`PeerExchange`] is the contract. Its transports: [`local`] between threads of one process; [`network`] between processes
//! and hosts (feature `network`); [`nccl`] between NVIDIA GPUs (with its library: feature `nccl`). [`launch`] says which rank a process
//! is. [`agree`] says whether all ranks can do something.
//!
//! Messages are tagged, so that a rank may ask for them in another order than they were sent in, and they have a [`Form`]
//! that the receiver knows beforehand. Sending never waits for the receiver. Receiving waits until the message is there,
//! the caller's deadline has passed, or a peer is gone: a rank that fails is an error that names it on every other rank,
//! never a hang.
//!
//! ```
//! use std::time::Duration;
//! use asyncdiff_comm::{Element, Form, PeerExchange, local};
//!
//! let mut world = local::world::<Vec<f32>>(2);
//! let mut second = world.pop().unwrap();
//! let mut first = world.pop().unwrap();
//! let form = Form::new([3], Element::F32);
//! let worker = std::thread::spawn(move || second.recv(0, 7, &form, Duration::from_secs(5)));
//! first.send(1, 7, vec![1.0, 2.0, 3.0])?;
//! assert_eq!(worker.join().unwrap()?, [1.0, 2.0, 3.0]);
//! # Ok::<(), asyncdiff_comm::CommError>(())
//! ```

#![deny(missing_docs)]

mod agreement;
mod form;
pub mod launch;
pub mod local;
mod mailbox;
pub mod nccl;
#[cfg(feature = "network")]
pub mod network;

use std::time::Duration;

pub use agreement::agree;
pub use form::{Element, Form, Message, Transfer};

/// Point-to-point messages between the ranks of one run.
pub trait PeerExchange<M> {
    /// This rank's number, `0 .. world_size`.
    fn rank(&self) -> usize;

    /// Number of ranks.
    fn world_size(&self) -> usize;

    /// Hands `message` to rank `to` under `tag`. Does not wait for the receiver.
    ///
    /// # Errors
    ///
    /// [`CommError::NoSuchRank`], or [`CommError::PeerFailed`] if a rank has failed.
    fn send(&mut self, to: usize, tag: u64, message: M) -> Result<(), CommError>;

    /// Waits, no longer than `within`, for the message that rank `from` sends under `tag`. Messages under one tag arrive in
    /// the order they were sent.
    ///
    /// # Errors
    ///
    /// [`CommError::NoSuchRank`]; [`CommError::Form`] if the message is not of the form `expected`;
    /// [`CommError::PeerFailed`] if a rank has failed, or `from` has left without sending; [`CommError::Deadline`] if the
    /// message did not come in time.
    fn recv(
        &mut self,
        from: usize,
        tag: u64,
        expected: &Form,
        within: Duration,
    ) -> Result<M, CommError>;

    /// Whether all ranks are well. Does not wait: who computes for long asks from time to time.
    ///
    /// # Errors
    ///
    /// [`CommError::PeerFailed`] if a rank has failed.
    fn check(&mut self) -> Result<(), CommError>;

    /// Tells all other ranks that this one cannot go on, and why. Their calls then return [`CommError::PeerFailed`] with
    /// `reason`. If another rank has failed before, that one stays the cause, and is named.
    fn fail(&mut self, reason: &str);
}

impl<M, P: PeerExchange<M> + ?Sized> PeerExchange<M> for &mut P {
    fn rank(&self) -> usize {
        (**self).rank()
    }

    fn world_size(&self) -> usize {
        (**self).world_size()
    }

    fn send(&mut self, to: usize, tag: u64, message: M) -> Result<(), CommError> {
        (**self).send(to, tag, message)
    }

    fn recv(
        &mut self,
        from: usize,
        tag: u64,
        expected: &Form,
        within: Duration,
    ) -> Result<M, CommError> {
        (**self).recv(from, tag, expected, within)
    }

    fn check(&mut self) -> Result<(), CommError> {
        (**self).check()
    }

    fn fail(&mut self, reason: &str) {
        (**self).fail(reason);
    }
}

/// Why a message was not exchanged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommError {
    /// A rank outside the world.
    #[error("rank {rank} does not exist: this run has {world_size} ranks, numbered from 0")]
    NoSuchRank {
        /// The rank asked for.
        rank: usize,
        /// Number of ranks.
        world_size: usize,
    },
    /// A rank has failed, panicked, or left before it sent what was waited for.
    #[error("rank {rank} failed: {reason}")]
    PeerFailed {
        /// The rank.
        rank: usize,
        /// What it said.
        reason: String,
    },
    /// A message of another shape or element type than both ranks should know it to have.
    #[error(
        "rank {rank} sent {found} where {expected} was expected: its plan or its program differs"
    )]
    Form {
        /// The sender.
        rank: usize,
        /// What the receiver expected.
        expected: Form,
        /// What was sent.
        found: Form,
    },
    /// The deadline has passed.
    #[error(
        "rank {rank} sent nothing for {after:?}; it hangs, or the deadline is too short for this model"
    )]
    Deadline {
        /// The rank waited for.
        rank: usize,
        /// How long.
        after: Duration,
    },
    /// What carries the messages does not work.
    #[error("{0}")]
    Transport(String),
}
