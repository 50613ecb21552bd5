//! The two threads that serve a connection to one peer.

use std::io::{self, ErrorKind, Read};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::channel::{Incoming, Outgoing};
use super::frame::Frame;
use super::note::Met;
use crate::mailbox::{Failure, Mailbox};
use crate::{CommError, Form, Message};

/// A rank that has nothing to send says so this often.
const HEARTBEAT: Duration = Duration::from_millis(500);
/// A rank that has not been heard for so long has failed. Together with [`HEARTBEAT`] and the time that it takes to end,
/// this is less than the 5 seconds within which all ranks shall know.
const SILENCE: Duration = Duration::from_millis(3500);

/// What is received, until somebody asks for it.
pub(super) type Mail = Mailbox<Vec<u8>>;

/// Something for the thread that writes.
pub(super) enum Order<M> {
    Send {
        tag: u64,
        message: M,
    },
    /// A failure is known: tell it.
    Failed,
    /// Nothing more will come.
    Leave,
}

/// A connected peer.
pub(super) struct Link<M> {
    pub orders: Sender<Order<M>>,
    threads: Vec<JoinHandle<()>>,
}

impl<M: Message> Link<M> {
    /// Serves the connection to `rank`. A message of more than `largest` bytes is refused.
    pub fn start(rank: usize, met: Met, mail: &Arc<Mail>, largest: usize) -> io::Result<Self> {
        let Met {
            channel,
            mut incoming,
            outgoing,
        } = met;
        incoming.wait(SILENCE);
        let (orders, queue) = mpsc::channel();
        let writer = {
            let cut = Arc::clone(&channel);
            let mail = Arc::clone(mail);
            let name = format!("to rank {rank}");
            thread::Builder::new().name(name).spawn(move || {
                if let Err(error) = write(outgoing, &queue, &mail) {
                    lost(&mail, rank, &error);
                    cut.cut();
                }
            })?
        };
        let reader = {
            let (mail, orders) = (Arc::clone(mail), orders.clone());
            let name = format!("from rank {rank}");
            thread::Builder::new().name(name).spawn(move || {
                if let Err(error) = read(incoming, rank, &mail, largest) {
                    lost(&mail, rank, &error);
                    channel.cut();
                }
                // Nobody is there to write to.
                let _ = orders.send(Order::Leave);
            })?
        };
        Ok(Self {
            orders,
            threads: vec![writer, reader],
        })
    }

    /// Waits until the peer has all that was sent to it, or is lost.
    pub fn end(self) {
        drop(self.orders);
        for thread in self.threads {
            // A thread that has panicked has nothing left to do.
            let _ = thread.join();
        }
    }
}

fn write<M: Message>(
    mut outgoing: Outgoing,
    orders: &Receiver<Order<M>>,
    mail: &Mail,
) -> io::Result<()> {
    let mut told = false;
    loop {
        let order = orders.recv_timeout(HEARTBEAT);
        // A failure comes before the messages that are still queued: nobody needs them now.
        if let Some(failure) = mail.failure().filter(|_| !told) {
            outgoing.write(&Frame::Failed(failure).bytes())?;
            told = true;
        }
        match order {
            Ok(Order::Send { tag, message }) if !told => {
                let form = message.form();
                let bytes = message.into_bytes();
                outgoing.write(&Frame::Message { tag, form }.bytes())?;
                outgoing.write(bytes.as_ref())?;
            }
            Ok(Order::Send { .. } | Order::Failed) => {}
            Err(RecvTimeoutError::Timeout) => outgoing.write(&Frame::Alive.bytes())?,
            Ok(Order::Leave) | Err(RecvTimeoutError::Disconnected) => {
                outgoing.write(&Frame::Left.bytes())?;
                return outgoing.finish();
            }
        }
    }
}

/// Reads until the peer leaves.
fn read(mut incoming: Incoming, from: usize, mail: &Mail, largest: usize) -> io::Result<()> {
    loop {
        match Frame::read(&mut incoming)? {
            Frame::Message { tag, form } => {
                let size = form.bytes().filter(|bytes| *bytes <= largest);
                let size = size.ok_or_else(|| too_large(&form, largest))?;
                if let Err(error) = mail.allows(from, tag, &form) {
                    return Err(io::Error::other(error));
                }
                let mut bytes = asyncdiff_kernels::zeros(size);
                incoming.read_exact(&mut bytes)?;
                mail.put(from, tag, form, bytes);
            }
            Frame::Alive => {}
            Frame::Left => {
                mail.leave(from);
                return Ok(());
            }
            Frame::Failed(failure) => {
                mail.fail(failure);
            }
        }
    }
}

fn too_large(form: &Form, largest: usize) -> io::Error {
    let reason =
        format!("it sent {form}, more than the {largest} bytes of this run's largest message");
    io::Error::new(ErrorKind::InvalidData, reason)
}

/// A connection has broken: its rank has failed, unless it had said that it leaves.
fn lost(mail: &Mail, rank: usize, error: &io::Error) {
    if mail.has_left(rank) {
        return;
    }
    let reason = match (error.kind(), error.get_ref()) {
        (ErrorKind::TimedOut, _) => format!("it has not been heard for {SILENCE:?}"),
        (ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe, _) => {
            "its connection has ended: it was killed, or the network is down".to_owned()
        }
        (_, Some(inner)) if inner.is::<CommError>() => inner.to_string(),
        _ => format!("its connection is broken: {error}"),
    };
    mail.fail(Failure { rank, reason });
}
