//! How one rank of an asynchronous denoising run hands a message to another.
//!
//! [`PeerExchange`] is the contract; [`local`] is the transport between threads of one process. Messages are tagged, so
//! that a rank may ask for them in another order than they were sent in. Sending never waits for the receiver. Receiving
//! waits until the message is there, the deadline has passed, or a peer is gone: a rank that fails is an error that names
//! it on every other rank, never a hang.
//!
//! ```
//! use std::time::Duration;
//! use asyncdiff_comm::{PeerExchange, local};
//!
//! let mut world = local::world::<String>(2, Duration::from_secs(5));
//! let mut second = world.pop().unwrap();
//! let mut first = world.pop().unwrap();
//! let worker = std::thread::spawn(move || second.recv(0, 7).unwrap());
//! first.send(1, 7, "hidden state".to_owned())?;
//! assert_eq!(worker.join().unwrap(), "hidden state");
//! # Ok::<(), asyncdiff_comm::CommError>(())
//! ```

#![deny(missing_docs)]

pub mod local;

use std::time::Duration;

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

    /// Waits for the message that rank `from` sends under `tag`. Messages under one tag arrive in the order they were sent.
    ///
    /// # Errors
    ///
    /// [`CommError::NoSuchRank`]; [`CommError::PeerFailed`] if a rank has failed, or `from` has left without sending;
    /// [`CommError::Deadline`] if the message did not come in time.
    fn recv(&mut self, from: usize, tag: u64) -> Result<M, CommError>;

    /// Waits until every rank has called this.
    ///
    /// # Errors
    ///
    /// [`CommError::PeerFailed`] if a rank has failed or left, [`CommError::Deadline`] if one did not come in time.
    fn barrier(&mut self) -> Result<(), CommError>;

    /// Tells all other ranks that this one cannot go on, and why. Their calls then return [`CommError::PeerFailed`].
    fn fail(&mut self, reason: &str);
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
}
