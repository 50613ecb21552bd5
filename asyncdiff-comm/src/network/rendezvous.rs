//! How the ranks of a run find each other: all come to rank 0, which tells them where the others are; then every rank opens a
//! connection to every lower one, and rank 0 lets them start.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Read};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::channel::{Channel, End, Incoming, Outgoing};
use super::identity::Identity;
use super::{ConnectError, Setup};

/// How long to wait before another try, or another look.
const PAUSE: Duration = Duration::from_millis(10);
/// How long somebody who connects may take to prove that it knows the secret, and to say who it is.
const PROOF: Duration = Duration::from_secs(10);
/// Most bytes of a note.
const NOTE: usize = 1 << 16;

/// What ranks tell each other before the run.
#[derive(Debug, Serialize, Deserialize)]
enum Note {
    Hello {
        rank: usize,
        world_size: usize,
        facts: Vec<(String, String)>,
        /// Where it listens, on the address that it comes from.
        port: u16,
    },
    /// Where the ranks 1, 2, … listen.
    Welcome {
        addresses: Vec<SocketAddr>,
    },
    /// It is connected to all others.
    Ready,
    /// All are.
    Go,
    Refused {
        reason: String,
    },
}

/// A connection to another rank.
pub(super) struct Met {
    pub channel: Arc<Channel>,
    pub incoming: Incoming,
    pub outgoing: Outgoing,
}

impl Met {
    fn new(channel: Arc<Channel>) -> Self {
        Self {
            incoming: Incoming::new(&channel, PROOF),
            outgoing: Outgoing::new(&channel),
            channel,
        }
    }

    fn tell(&mut self, note: &Note) -> io::Result<()> {
        let text = serde_json::to_vec(note)?;
        let length = text.len() as u32;
        self.outgoing
            .write(&[&length.to_le_bytes()[..], &text].concat())
    }

    fn hear(&mut self, patience: Duration) -> io::Result<Note> {
        self.incoming.wait(patience);
        let mut length = [0; 4];
        self.incoming.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > NOTE {
            return Err(io::Error::new(
                ErrorKind::InvalidData,
                "it speaks otherwise than this program",
            ));
        }
        let mut text = vec![0; length];
        self.incoming.read_exact(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }
}

/// Connects this rank to all others; rank 0 waits for them at `listener`, or at the rendezvous.
pub(super) fn meet(
    setup: &Setup,
    listener: Option<TcpListener>,
) -> Result<BTreeMap<usize, Met>, ConnectError> {
    let Setup {
        rank, world_size, ..
    } = *setup;
    let identity = Identity::new(setup.secret.as_ref()).map_err(io::Error::other)?;
    let meeting = Meeting {
        setup,
        identity: Arc::new(identity),
        start: Instant::now(),
    };
    if rank == 0 {
        meeting.host(world_size, listener)
    } else {
        meeting.join(rank)
    }
}

struct Meeting<'a> {
    setup: &'a Setup,
    identity: Arc<Identity>,
    start: Instant,
}

impl Meeting<'_> {
    fn left(&self) -> Duration {
        self.setup.patience.saturating_sub(self.start.elapsed())
    }

    fn hello(&self, port: u16) -> Note {
        Note::Hello {
            rank: self.setup.rank,
            world_size: self.setup.world_size,
            facts: self.setup.facts.clone(),
            port,
        }
    }

    /// The addresses of the rendezvous; without a secret, only those that other hosts cannot reach.
    fn rendezvous(&self) -> Result<io::Result<Vec<SocketAddr>>, ConnectError> {
        let rendezvous = &self.setup.rendezvous;
        let addresses = (rendezvous.host.as_str(), rendezvous.port).to_socket_addrs();
        let addresses = addresses.map(Iterator::collect::<Vec<_>>);
        let elsewhere = |addresses: &Vec<SocketAddr>| {
            addresses.iter().any(|address| !address.ip().is_loopback())
        };
        if self.setup.secret.is_none() && addresses.as_ref().is_ok_and(elsewhere) {
            return Err(ConnectError::NoSecret {
                rendezvous: rendezvous.clone(),
            });
        }
        Ok(addresses)
    }

    /// Rank 0's part.
    fn host(
        &self,
        world_size: usize,
        listener: Option<TcpListener>,
    ) -> Result<BTreeMap<usize, Met>, ConnectError> {
        let listen = |source| ConnectError::Listen {
            rendezvous: self.setup.rendezvous.clone(),
            source,
        };
        let listener = match listener {
            Some(listener) => listener,
            None => {
                let addresses = self.rendezvous()?.map_err(listen)?;
                TcpListener::bind(&addresses[..]).map_err(listen)?
            }
        };
        let mut met = BTreeMap::new();
        let result = self
            .receive(&listener, 1..world_size, &mut met)
            .and_then(|addresses| self.welcome(&mut met, &addresses));
        match result {
            Ok(()) => Ok(met),
            Err(error) => {
                // All who wait learn why it does not start; whoever is gone does not have to.
                let reason = match &error {
                    ConnectError::Refused { rank, reason } => {
                        format!("rank {rank} cannot start: {reason}")
                    }
                    other => other.to_string(),
                };
                for met in met.values_mut() {
                    let reason = reason.clone();
                    let _ = met.tell(&Note::Refused { reason });
                    let _ = met.outgoing.finish();
                }
                Err(error)
            }
        }
    }

    fn welcome(
        &self,
        met: &mut BTreeMap<usize, Met>,
        addresses: &BTreeMap<usize, SocketAddr>,
    ) -> Result<(), ConnectError> {
        let welcome = Note::Welcome {
            addresses: addresses.values().copied().collect(),
        };
        let lost = |rank: usize, source| ConnectError::Unreachable {
            rank,
            address: addresses[&rank].to_string(),
            source,
        };
        for (rank, met) in met.iter_mut() {
            met.tell(&welcome).map_err(|error| lost(*rank, error))?;
        }
        for (rank, met) in met.iter_mut() {
            match met.hear(self.left()) {
                Ok(Note::Ready) => {}
                Ok(Note::Refused { reason }) => {
                    return Err(ConnectError::Refused {
                        rank: *rank,
                        reason,
                    });
                }
                Ok(_) => return Err(lost(*rank, unexpected())),
                Err(error) => return Err(lost(*rank, error)),
            }
        }
        for (rank, met) in met.iter_mut() {
            met.tell(&Note::Go).map_err(|error| lost(*rank, error))?;
        }
        Ok(())
    }

    /// The part of any other rank.
    fn join(&self, rank: usize) -> Result<BTreeMap<usize, Met>, ConnectError> {
        let mut zero = self.reach(0, || self.rendezvous())?;
        let unreachable = |source| ConnectError::Unreachable {
            rank: 0,
            address: self.setup.rendezvous.to_string(),
            source,
        };
        // The address that rank 0 is reached from is one that the others can reach, too.
        let here = zero
            .channel
            .socket()
            .local_addr()
            .map_err(unreachable)?
            .ip();
        let listener = TcpListener::bind((here, 0))?;
        let port = listener.local_addr()?.port();
        zero.tell(&self.hello(port)).map_err(unreachable)?;
        let patience = self.left() + PROOF;
        let addresses = match zero.hear(patience) {
            Ok(Note::Welcome { addresses }) => addresses,
            Ok(Note::Refused { reason }) => return Err(ConnectError::Refused { rank: 0, reason }),
            Ok(_) => return Err(unreachable(unexpected())),
            Err(error) => return Err(unreachable(error)),
        };
        let mut met = BTreeMap::new();
        if let Err(error) = self.mesh(rank, &addresses, &listener, &mut met) {
            let reason = error.to_string();
            // If rank 0 is gone, too, the error says more.
            let _ = zero.tell(&Note::Refused { reason });
            let _ = zero.outgoing.finish();
            return Err(error);
        }
        zero.tell(&Note::Ready).map_err(unreachable)?;
        match zero.hear(patience) {
            Ok(Note::Go) => {}
            Ok(Note::Refused { reason }) => return Err(ConnectError::Refused { rank: 0, reason }),
            Ok(_) => return Err(unreachable(unexpected())),
            Err(error) => return Err(unreachable(error)),
        }
        met.insert(0, zero);
        Ok(met)
    }

    /// Connects to the ranks from 1 on: to the lower ones, and from the higher ones.
    fn mesh(
        &self,
        rank: usize,
        addresses: &[SocketAddr],
        listener: &TcpListener,
        met: &mut BTreeMap<usize, Met>,
    ) -> Result<(), ConnectError> {
        for lower in 1..rank {
            let address = addresses.get(lower - 1).copied();
            let address = address.ok_or_else(|| ConnectError::System(unexpected()))?;
            let mut other = self.reach(lower, || Ok(Ok(vec![address])))?;
            other
                .tell(&self.hello(0))
                .map_err(|source| ConnectError::Unreachable {
                    rank: lower,
                    address: address.to_string(),
                    source,
                })?;
            met.insert(lower, other);
        }
        self.receive(listener, rank + 1..self.setup.world_size, met)?;
        Ok(())
    }

    /// Opens a connection to `rank`, which may not be there yet.
    fn reach(
        &self,
        rank: usize,
        addresses: impl Fn() -> Result<io::Result<Vec<SocketAddr>>, ConnectError>,
    ) -> Result<Met, ConnectError> {
        loop {
            let (address, error) = match addresses()? {
                Ok(addresses) => match connect_any(&addresses) {
                    Ok(socket) => {
                        let address = socket.peer_addr()?;
                        return self.prove(rank, socket, address);
                    }
                    Err(error) => (addresses.first().map(SocketAddr::to_string), error),
                },
                Err(error) => (None, error),
            };
            if self.left().is_zero() {
                return Err(ConnectError::Unreachable {
                    rank,
                    address: address.unwrap_or_else(|| self.setup.rendezvous.to_string()),
                    source: error,
                });
            }
            thread::sleep(PAUSE);
        }
    }

    fn prove(
        &self,
        rank: usize,
        socket: TcpStream,
        address: SocketAddr,
    ) -> Result<Met, ConnectError> {
        let channel = Channel::open(socket, End::Connecting, &self.identity, PROOF);
        channel.map(Met::new).map_err(|source| {
            let tls = source
                .get_ref()
                .and_then(|inner| inner.downcast_ref::<rustls::Error>());
            match tls {
                Some(rustls::Error::InvalidCertificate(_)) => {
                    ConnectError::Secret { rank, address }
                }
                _ => ConnectError::Unreachable {
                    rank,
                    address: address.to_string(),
                    source,
                },
            }
        })
    }

    /// Waits for the ranks `awaited`, and answers with where each of them listens. Connections of others who do not know the
    /// secret change nothing.
    fn receive(
        &self,
        listener: &TcpListener,
        awaited: std::ops::Range<usize>,
        met: &mut BTreeMap<usize, Met>,
    ) -> Result<BTreeMap<usize, SocketAddr>, ConnectError> {
        listener.set_nonblocking(true)?;
        let (proved, comers) = mpsc::channel();
        let mut addresses = BTreeMap::new();
        let mut refused = 0;
        while addresses.len() < awaited.len() {
            match listener.accept() {
                Ok((socket, _)) => {
                    socket.set_nonblocking(false)?;
                    let (identity, proved) = (Arc::clone(&self.identity), proved.clone());
                    thread::spawn(move || admit(socket, &identity, &proved));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(PAUSE),
                // Whoever knocked has gone again.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => return Err(error.into()),
            }
            while let Ok(comer) = comers.try_recv() {
                let Some((mut other, note, ip)) = comer else {
                    refused += 1;
                    continue;
                };
                let (rank, port) = match self.belongs(&note, &awaited) {
                    Ok(place) => place,
                    Err(error) => {
                        let reason = error.to_string();
                        let _ = other.tell(&Note::Refused { reason });
                        let _ = other.outgoing.finish();
                        return Err(error);
                    }
                };
                if addresses.insert(rank, SocketAddr::new(ip, port)).is_some() {
                    return Err(ConnectError::Mismatch {
                        rank,
                        reason: "two processes say that they are it".to_owned(),
                    });
                }
                met.insert(rank, other);
            }
            if self.left().is_zero() && addresses.len() < awaited.len() {
                return Err(ConnectError::Absent {
                    missing: awaited
                        .filter(|rank| !addresses.contains_key(rank))
                        .collect(),
                    after: self.setup.patience,
                    refused,
                });
            }
        }
        Ok(addresses)
    }

    /// The rank and the port of somebody who knows the secret, if it is one of this run.
    fn belongs(
        &self,
        note: &Note,
        awaited: &std::ops::Range<usize>,
    ) -> Result<(usize, u16), ConnectError> {
        let Note::Hello {
            rank,
            world_size,
            facts,
            port,
        } = note
        else {
            return Err(ConnectError::System(unexpected()));
        };
        let mismatch = |reason| ConnectError::Mismatch {
            rank: *rank,
            reason,
        };
        let ours = self.setup.world_size;
        if *world_size != ours {
            return Err(mismatch(format!(
                "it is one of {world_size} ranks, rank {} one of {ours}",
                self.setup.rank
            )));
        }
        for (name, value) in &self.setup.facts {
            let theirs = facts.iter().find(|(other, _)| other == name);
            let theirs = theirs.map_or("nothing", |(_, value)| value);
            if theirs != value {
                return Err(mismatch(format!(
                    "its {name} is {theirs}, that of rank {} is {value}",
                    self.setup.rank
                )));
            }
        }
        if !awaited.contains(rank) {
            return Err(mismatch(format!(
                "it comes to rank {} as rank {rank}",
                self.setup.rank
            )));
        }
        Ok((*rank, *port))
    }
}

/// Somebody who knows the secret, what it says first and where it comes from; `None` for everybody else.
type Comer = Option<(Met, Note, IpAddr)>;

/// Lets somebody prove that it knows the secret.
fn admit(socket: TcpStream, identity: &Identity, proved: &Sender<Comer>) {
    let comer = socket.peer_addr().and_then(|address| {
        let mut met = Met::new(Channel::open(socket, End::Accepting, identity, PROOF)?);
        let note = met.hear(PROOF)?;
        Ok((met, note, address.ip()))
    });
    // Nobody listens any more once all ranks are there.
    let _ = proved.send(comer.ok());
}

fn connect_any(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::from(ErrorKind::AddrNotAvailable);
    for address in addresses {
        match TcpStream::connect_timeout(address, Duration::from_secs(2)) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn unexpected() -> io::Error {
    io::Error::new(
        ErrorKind::InvalidData,
        "it does not speak as the ranks of this program do",
    )
}
