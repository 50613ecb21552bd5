//! The transport between threads of one process.

use std::sync::Arc;
use std::time::Duration;

use crate::mailbox::{Failure, Mailbox};
use crate::{CommError, Form, Message, PeerExchange};

/// One rank of a [`world`]. Dropping it tells the others that it has left; dropping it in a panic, that it has failed.
pub struct LocalPeer<M> {
    rank: usize,
    mailboxes: Arc<[Mailbox<M>]>,
}

/// `size` connected ranks, to be moved to one thread each.
#[must_use]
pub fn world<M: Message>(size: usize) -> Vec<LocalPeer<M>> {
    let mailboxes: Arc<[_]> = (0..size).map(|rank| Mailbox::new(rank, size)).collect();
    (0..size)
        .map(|rank| LocalPeer {
            rank,
            mailboxes: Arc::clone(&mailboxes),
        })
        .collect()
}

impl<M> LocalPeer<M> {
    fn mine(&self) -> &Mailbox<M> {
        &self.mailboxes[self.rank]
    }

    fn tell_failure(&self, reason: &str) {
        let failure = self.mine().fail(Failure {
            rank: self.rank,
            reason: reason.to_owned(),
        });
        for mailbox in self.mailboxes.iter() {
            mailbox.fail(failure.clone());
        }
    }
}

impl<M: Message> PeerExchange<M> for LocalPeer<M> {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.mailboxes.len()
    }

    fn send(&mut self, to: usize, tag: u64, message: M) -> Result<(), CommError> {
        self.mine().check(to)?;
        self.mailboxes[to].put(self.rank, tag, message.form(), message);
        Ok(())
    }

    fn recv(
        &mut self,
        from: usize,
        tag: u64,
        expected: &Form,
        within: Duration,
    ) -> Result<M, CommError> {
        self.mine().take(from, tag, expected, within)
    }

    fn check(&mut self) -> Result<(), CommError> {
        self.mine().check(self.rank)
    }

    fn fail(&mut self, reason: &str) {
        self.tell_failure(reason);
    }
}

impl<M> Drop for LocalPeer<M> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.tell_failure("it panicked");
        }
        for mailbox in self.mailboxes.iter() {
            mailbox.leave(self.rank);
        }
    }
}
