//! The transport between processes and hosts.
//!
//! Every two ranks share a TCP connection under TLS 1.3, opened by whoever knows the run's [`Secret`]: not a byte of the
//! run is read from, or written to, anybody else. Without a secret a rank neither listens nor connects beyond this host.
//! Frames go over it as they are: shape and type of a message, then its elements. (gRPC over HTTP/2 was measured, too: its
//! flow control cost half of the throughput between two processes of one host.)
//!
//! A process that belongs to no run may [lend](Lender) itself to those of others: it waits, and rank 0 opens the connection.
//!
//! Two threads serve each connection, so that sending never waits for the network, or for the copy from a device, and a
//! message is there before it is asked for. A rank that dies, is stopped, or cannot be reached is known as failed on all
//! others within 5 seconds.
//!
//! ```no_run
//! use asyncdiff_comm::network::{Secret, Setup, connect};
//! use asyncdiff_comm::{PeerExchange, launch::Rendezvous};
//!
//! let mut setup = Setup::new(0, 2, Rendezvous::loopback(29500));
//! setup.secret = Secret::new("what both ranks know");
//! setup.facts = vec![("plan".to_owned(), "f00d".to_owned())];
//! let mut peer = connect::<Vec<f32>>(&setup)?;
//! peer.send(1, 0, vec![1.0, 2.0])?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod channel;
mod frame;
mod identity;
mod lender;
mod link;
mod note;
mod rendezvous;
mod tls;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::io;
use std::marker::PhantomData;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::launch::Rendezvous;
use crate::mailbox::{Failure, Mailbox};
use crate::{CommError, Form, Message, PeerExchange};
use link::{Link, Mail, Order};
use note::Met;

pub use identity::{Secret, digest};
pub use lender::{Invitation, Lender};
pub use rendezvous::Guests;

/// What a rank has to know to join its run.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The rank.
    pub rank: usize,
    /// Number of ranks.
    pub world_size: usize,
    /// Where rank 0 waits for the others.
    pub rendezvous: Rendezvous,
    /// What all ranks know, and nobody else. Without one, all ranks must be on one host.
    pub secret: Option<Secret>,
    /// What must be the same on all ranks, by name: the program's version, the plan's digest.
    pub facts: Vec<(String, String)>,
    /// Bytes of the largest message that a rank may send.
    pub largest: usize,
    /// How long to wait for the others.
    pub patience: Duration,
}

impl Setup {
    /// A run without a secret or facts, of messages of up to 1 GiB, that waits one minute for its ranks.
    #[must_use]
    pub fn new(rank: usize, world_size: usize, rendezvous: Rendezvous) -> Self {
        Self {
            rank,
            world_size,
            rendezvous,
            secret: None,
            facts: Vec::new(),
            largest: 1 << 30,
            patience: Duration::from_secs(60),
        }
    }
}

/// Why a rank cannot join its run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Ranks on several hosts need a secret.
    #[error(
        "{rendezvous} is not on this host only, so the ranks need a secret: set ASYNCDIFF_SECRET to the same {} or more characters on all of them",
        Secret::SHORTEST
    )]
    NoSecret {
        /// Where rank 0 is.
        rendezvous: Rendezvous,
    },
    /// The rendezvous is no address, or none of this host.
    #[error("nobody can be waited for at {rendezvous}: {source}")]
    Listen {
        /// Where.
        rendezvous: Rendezvous,
        /// What the system says.
        source: io::Error,
    },
    /// Another rank is not there, or does not answer.
    #[error("rank {rank} cannot be reached at {address}: {source}")]
    Unreachable {
        /// The rank.
        rank: usize,
        /// Where it should be.
        address: String,
        /// What the system says.
        source: io::Error,
    },
    /// The other end of a connection does not know the secret.
    #[error(
        "whoever answers for rank {rank} at {address} does not know this rank's secret: give all ranks the same"
    )]
    Secret {
        /// The rank.
        rank: usize,
        /// Where it should be.
        address: SocketAddr,
    },
    /// Not all ranks came.
    #[error("{} did not come within {after:?}{}", ranks(missing), strangers(*refused))]
    Absent {
        /// Who did not come.
        missing: Vec<usize>,
        /// How long they were waited for.
        after: Duration,
        /// Connections that did not know the secret.
        refused: usize,
    },
    /// Two ranks do not belong together.
    #[error("rank {rank} does not belong to this run: {reason}")]
    Mismatch {
        /// The rank that came.
        rank: usize,
        /// What differs.
        reason: String,
    },
    /// Another rank has found out that the run cannot start.
    #[error("rank {rank} cannot start: {reason}")]
    Refused {
        /// The rank that says so.
        rank: usize,
        /// Why.
        reason: String,
    },
    /// The system, or the library for TLS.
    #[error(transparent)]
    System(#[from] io::Error),
}

impl ConnectError {
    fn unreachable(rank: usize, address: impl Display, source: io::Error) -> Self {
        Self::Unreachable {
            rank,
            address: address.to_string(),
            source,
        }
    }
}

fn ranks(ranks: &[usize]) -> String {
    let names: Vec<_> = ranks.iter().map(usize::to_string).collect();
    match names.as_slice() {
        [one] => format!("rank {one}"),
        [first @ .., last] => format!("ranks {} and {last}", first.join(", ")),
        [] => "no rank".to_owned(),
    }
}

fn strangers(refused: usize) -> String {
    match refused {
        0 => String::new(),
        1 => "; one connection was refused because its secret differs".to_owned(),
        _ => format!("; {refused} connections were refused because their secret differs"),
    }
}

/// Joins a run: returns when all ranks are connected to each other.
///
/// # Errors
///
/// [`ConnectError`].
pub fn connect<M: Message>(setup: &Setup) -> Result<NetworkPeer<M>, ConnectError> {
    start(setup, rendezvous::meet(setup, None, &Guests::default())?)
}

/// The same for a rank 0 that listens already, so that it can tell the ranks that it starts where, and that invites `guests`.
/// Without a listener, it listens at the rendezvous, if there are ranks that it does not invite.
///
/// # Errors
///
/// [`ConnectError`].
pub fn host<M: Message>(
    setup: &Setup,
    listener: Option<TcpListener>,
    guests: &Guests<'_>,
) -> Result<NetworkPeer<M>, ConnectError> {
    start(setup, rendezvous::meet(setup, listener, guests)?)
}

fn start<M: Message>(
    setup: &Setup,
    met: BTreeMap<usize, Met>,
) -> Result<NetworkPeer<M>, ConnectError> {
    let mail = Arc::new(Mailbox::new(setup.rank, setup.world_size));
    let mut links = BTreeMap::new();
    for (rank, met) in met {
        let link = Link::start(rank, met, &mail, setup.largest)?;
        links.insert(rank, link);
    }
    Ok(NetworkPeer {
        mail,
        links,
        over: Arc::new(AtomicBool::new(false)),
        messages: PhantomData,
    })
}

/// One rank of a run of several processes. Dropping it waits until the others have what was sent to them, and tells them
/// that it has left; dropping it in a panic, that it has failed.
pub struct NetworkPeer<M: Message> {
    mail: Arc<Mail>,
    links: BTreeMap<usize, Link<M>>,
    over: Arc<AtomicBool>,
    messages: PhantomData<fn() -> M>,
}

impl<M: Message> NetworkPeer<M> {
    /// What tells a failure to somebody who does not send or receive.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch {
            mail: Arc::clone(&self.mail),
            over: Arc::clone(&self.over),
        }
    }

    fn tell_failure(&self, reason: &str) {
        self.mail.fail(Failure {
            rank: self.mail.rank(),
            reason: reason.to_owned(),
        });
        for link in self.links.values() {
            // Whoever is gone needs not be told.
            let _ = link.orders.send(Order::Failed);
        }
    }
}

impl<M: Message> PeerExchange<M> for NetworkPeer<M> {
    fn rank(&self) -> usize {
        self.mail.rank()
    }

    fn world_size(&self) -> usize {
        self.mail.world_size()
    }

    fn send(&mut self, to: usize, tag: u64, message: M) -> Result<(), CommError> {
        self.mail.check(to)?;
        match self.links.get(&to) {
            // A peer that has left needs no message any more.
            Some(link) => drop(link.orders.send(Order::Send { tag, message })),
            None => {
                let form = message.form();
                let bytes = message.into_bytes().as_ref().to_vec();
                self.mail.put(to, tag, form, bytes);
            }
        }
        Ok(())
    }

    fn recv(
        &mut self,
        from: usize,
        tag: u64,
        expected: &Form,
        within: Duration,
    ) -> Result<M, CommError> {
        let bytes = self.mail.take(from, tag, expected, within)?;
        Ok(M::from_bytes(expected, bytes))
    }

    fn check(&mut self) -> Result<(), CommError> {
        self.mail.check(self.mail.rank())
    }

    fn fail(&mut self, reason: &str) {
        self.tell_failure(reason);
    }
}

impl<M: Message> Drop for NetworkPeer<M> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell_failure("it panicked");
        }
        for link in self.links.values() {
            let _ = link.orders.send(Order::Leave);
        }
        for link in std::mem::take(&mut self.links).into_values() {
            link.end();
        }
        self.over.store(true, Ordering::SeqCst);
        self.mail.wake();
    }
}

/// Sees a failure of any rank when it becomes known.
#[derive(Clone)]
pub struct Watch {
    mail: Arc<Mail>,
    over: Arc<AtomicBool>,
}

impl Watch {
    /// Says, like [`PeerExchange::fail`], that this rank cannot go on. The others learn it within a second, if this process
    /// lives so long.
    pub fn fail(&self, reason: &str) {
        self.mail.fail(Failure {
            rank: self.mail.rank(),
            reason: reason.to_owned(),
        });
    }

    /// Waits until another rank has failed, and says which and why; `None` when this rank is done, or has failed itself.
    #[must_use]
    pub fn wait(&self) -> Option<CommError> {
        let over = || self.over.load(Ordering::SeqCst);
        let failure = self.mail.watch(over)?;
        (failure.rank != self.mail.rank()).then(|| failure.into())
    }
}
