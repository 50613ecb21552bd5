//! Processes that wait to be ranks of other people's runs.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::{Duration, Instant};

use super::identity::{Identity, Secret};
use super::note::{Met, Note};
use super::rendezvous::{Meeting, PAUSE, admit, listen};
use super::{ConnectError, NetworkPeer, Setup, start};
use crate::Message;
use crate::launch::Rendezvous;

/// Most connections that may be about to prove that they know the secret.
const PROVING: usize = 32;
/// How long the end of a run may take, once its leader has what it wanted.
const MOMENT: Duration = Duration::from_secs(2);
/// More ranks than any run has.
const MOST_RANKS: usize = 1 << 16;

/// Lends this process to runs of others, one at a time: waits until somebody who knows the secret invites it.
pub struct Lender {
    invitations: Receiver<Invitation>,
    busy: Arc<AtomicBool>,
    /// Whether an invitation was taken, whose run is over when the next is waited for.
    taken: bool,
    address: SocketAddr,
}

impl Lender {
    /// Listens at `place`; without a secret, for this host only.
    ///
    /// # Errors
    ///
    /// [`ConnectError::NoSecret`]; [`ConnectError::Listen`].
    pub fn listen(place: &Rendezvous, secret: Option<&Secret>) -> Result<Self, ConnectError> {
        let listener = listen(place, secret)?;
        let address = listener.local_addr()?;
        let identity = Arc::new(Identity::new(secret).map_err(io::Error::other)?);
        let busy = Arc::new(AtomicBool::new(false));
        let (invite, invitations) = mpsc::channel();
        let door = Door {
            identity,
            busy: Arc::clone(&busy),
            invite,
        };
        thread::Builder::new()
            .name("waits for leaders".to_owned())
            .spawn(move || door.keep(&listener))?;
        Ok(Self {
            invitations,
            busy,
            taken: false,
            address,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for the next invitation. Until it is asked for another one, whoever comes is told that this process is busy.
    ///
    /// # Errors
    ///
    /// [`ConnectError::System`] if nobody can come any more.
    pub fn wait(&mut self) -> Result<Invitation, ConnectError> {
        // An invitation that came before the first wait is still to be taken.
        if std::mem::take(&mut self.taken) {
            self.busy.store(false, Ordering::SeqCst);
        }
        let gone = |_| io::Error::other("the thread that waits for leaders has ended");
        let invitation = self.invitations.recv().map_err(gone)?;
        self.taken = true;
        Ok(invitation)
    }
}

/// What lets people in.
struct Door {
    identity: Arc<Identity>,
    busy: Arc<AtomicBool>,
    invite: Sender<Invitation>,
}

impl Door {
    fn keep(self, listener: &TcpListener) {
        let door = Arc::new(self);
        let proving = Arc::new(AtomicUsize::new(0));
        loop {
            let Ok((socket, _)) = listener.accept() else {
                // Whoever knocked has gone again, or there are too many files: neither is for ever.
                thread::sleep(PAUSE);
                continue;
            };
            if proving.fetch_add(1, Ordering::SeqCst) >= PROVING {
                proving.fetch_sub(1, Ordering::SeqCst);
                continue;
            }
            let (door, proving) = (Arc::clone(&door), Arc::clone(&proving));
            thread::spawn(move || {
                door.open(socket);
                proving.fetch_sub(1, Ordering::SeqCst);
            });
        }
    }

    /// Takes this process for a run. One that is about to end is waited for: whoever led it may lead the next already.
    fn take(&self) -> bool {
        let start = Instant::now();
        while self.busy.swap(true, Ordering::SeqCst) {
            if start.elapsed() > MOMENT {
                return false;
            }
            thread::sleep(PAUSE);
        }
        true
    }

    fn open(&self, socket: TcpStream) {
        let Some((mut met, note, from)) = admit(socket, &self.identity) else {
            return;
        };
        let Note::Invitation {
            rank,
            world_size,
            job,
        } = note
        else {
            met.refuse("it waits to be invited, and leads no run");
            return;
        };
        if !(1..world_size).contains(&rank) || world_size > MOST_RANKS {
            met.refuse(&format!(
                "a run of {world_size} ranks has no place {rank} for it"
            ));
        } else if !self.take() {
            met.refuse("it works for another run: wait until that has ended");
        } else {
            // If nobody takes it, the process ends.
            let _ = self.invite.send(Invitation {
                met,
                identity: Arc::clone(&self.identity),
                rank,
                world_size,
                job,
                from,
            });
        }
    }
}

/// What somebody who leads a run asks of a [`Lender`].
pub struct Invitation {
    met: Met,
    identity: Arc<Identity>,
    rank: usize,
    world_size: usize,
    job: String,
    from: IpAddr,
}

impl Invitation {
    /// The rank that this process is to be, from 1 on.
    #[must_use]
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Number of ranks.
    #[must_use]
    pub fn world_size(&self) -> usize {
        self.world_size
    }

    /// What the run is, as [`Guests::job`](super::Guests) says.
    #[must_use]
    pub fn job(&self) -> &str {
        &self.job
    }

    /// Where rank 0 is.
    #[must_use]
    pub fn from(&self) -> IpAddr {
        self.from
    }

    /// Says why this process does not take part.
    pub fn refuse(mut self, reason: &str) {
        self.met.refuse(reason);
    }

    /// Takes part: returns when all ranks are connected to each other. Of `setup`, secret and rendezvous are not needed.
    ///
    /// # Errors
    ///
    /// [`ConnectError`].
    pub fn accept<M: Message>(self, setup: &Setup) -> Result<NetworkPeer<M>, ConnectError> {
        let meeting = Meeting::new(setup, self.identity);
        start(setup, meeting.enter(self.rank, self.met)?)
    }
}
