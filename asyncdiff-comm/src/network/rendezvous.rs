//! How the ranks of a run find each other: all come to rank 0, but those that it invites; it tells them where the others are; then
//! every rank opens a connection to every lower one, and rank 0 lets them start.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use super::channel::Channel;
use super::identity::{Identity, Secret};
use super::note::{Met, Note, PROOF, unexpected};
use super::tls::End;
use super::{ConnectError, Setup};
use crate::launch::Rendezvous;

/// How long to wait before another try, or another look.
pub(super) const PAUSE: Duration = Duration::from_millis(10);

/// Connects this rank to all others. Rank 0 invites `guests`, and waits for the rest at `listener`, or at the rendezvous.
pub(super) fn meet(
    setup: &Setup,
    listener: Option<TcpListener>,
    guests: &Guests<'_>,
) -> Result<BTreeMap<usize, Met>, ConnectError> {
    let identity = Identity::new(setup.secret.as_ref()).map_err(io::Error::other)?;
    let meeting = Meeting::new(setup, Arc::new(identity));
    match setup.rank {
        0 => meeting.host(listener, guests),
        rank => meeting.join(rank),
    }
}

/// Processes that wait to be invited, which become the ranks 1, 2, ….
#[derive(Clone, Copy, Debug, Default)]
pub struct Guests<'a> {
    /// Where they wait.
    pub at: &'a [Rendezvous],
    /// What they are told of the run.
    pub job: &'a str,
}

/// The addresses of `place`; without a secret, only those that other hosts cannot reach.
pub(super) fn addresses(
    place: &Rendezvous,
    secret: Option<&Secret>,
) -> Result<io::Result<Vec<SocketAddr>>, ConnectError> {
    let addresses = (place.host.as_str(), place.port).to_socket_addrs();
    let addresses = addresses.map(Iterator::collect::<Vec<_>>);
    let elsewhere =
        |addresses: &Vec<SocketAddr>| addresses.iter().any(|address| !address.ip().is_loopback());
    if secret.is_none() && addresses.as_ref().is_ok_and(elsewhere) {
        return Err(ConnectError::NoSecret {
            rendezvous: place.clone(),
        });
    }
    Ok(addresses)
}

/// Listens at `place`, without a secret for this host only.
pub(super) fn listen(
    place: &Rendezvous,
    secret: Option<&Secret>,
) -> Result<TcpListener, ConnectError> {
    let listen = |source| ConnectError::Listen {
        rendezvous: place.clone(),
        source,
    };
    let addresses = addresses(place, secret)?.map_err(listen)?;
    TcpListener::bind(&addresses[..]).map_err(listen)
}

pub(super) struct Meeting<'a> {
    setup: &'a Setup,
    identity: Arc<Identity>,
    start: Instant,
}

impl<'a> Meeting<'a> {
    pub fn new(setup: &'a Setup, identity: Arc<Identity>) -> Self {
        Self {
            setup,
            identity,
            start: Instant::now(),
        }
    }

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

    fn addresses(&self, place: &Rendezvous) -> Result<io::Result<Vec<SocketAddr>>, ConnectError> {
        addresses(place, self.setup.secret.as_ref())
    }

    /// Rank 0's part.
    fn host(
        &self,
        listener: Option<TcpListener>,
        guests: &Guests<'_>,
    ) -> Result<BTreeMap<usize, Met>, ConnectError> {
        let coming = guests.at.len() + 1..self.setup.world_size;
        let listener = match listener {
            None if !coming.is_empty() => {
                let place = &self.setup.rendezvous;
                Some(listen(place, self.setup.secret.as_ref())?)
            }
            listener => listener,
        };
        let mut met = BTreeMap::new();
        let result = self.invite(guests, &mut met).and_then(|mut addresses| {
            if let Some(listener) = &listener {
                addresses.extend(self.receive(listener, coming, &mut met)?);
            }
            self.welcome(&mut met, &addresses)
        });
        match result {
            Ok(()) => Ok(met),
            Err(error) => {
                // All who wait learn why it does not start.
                let reason = match &error {
                    ConnectError::Refused { rank, reason } => {
                        format!("rank {rank} cannot start: {reason}")
                    }
                    other => other.to_string(),
                };
                for met in met.values_mut() {
                    met.refuse(&reason);
                }
                Err(error)
            }
        }
    }

    /// Invites those who wait for it, and answers with where each of them listens for the others.
    fn invite(
        &self,
        guests: &Guests<'_>,
        met: &mut BTreeMap<usize, Met>,
    ) -> Result<BTreeMap<usize, SocketAddr>, ConnectError> {
        // By address, which may have been named in two ways.
        let mut invited = BTreeMap::new();
        for (rank, place) in (1..).zip(guests.at) {
            // They wait: whoever is not there now will not come.
            let mut guest = self.reach(rank, Duration::ZERO, || self.addresses(place))?;
            let address = guest.channel.socket().peer_addr()?;
            if let Some(first) = invited.insert(address, rank) {
                return Err(ConnectError::Mismatch {
                    rank,
                    reason: format!(
                        "whoever waits at {place} is rank {first} already, and lends one device: name it once"
                    ),
                });
            }
            let invitation = Note::Invitation {
                rank,
                world_size: self.setup.world_size,
                job: guests.job.to_owned(),
            };
            let told = guest.tell(&invitation);
            told.map_err(|source| ConnectError::unreachable(rank, place, source))?;
            met.insert(rank, guest);
        }
        let mut addresses = BTreeMap::new();
        for ((rank, guest), place) in met.iter_mut().zip(guests.at) {
            let address = guest.channel.socket().peer_addr()?.ip();
            match guest.hear(self.left()) {
                Ok(Note::Refused { reason }) => {
                    return Err(ConnectError::Refused {
                        rank: *rank,
                        reason,
                    });
                }
                Ok(note) => {
                    let (rank, port) = self.belongs(&note, &(*rank..*rank + 1))?;
                    addresses.insert(rank, SocketAddr::new(address, port));
                }
                Err(source) => return Err(ConnectError::unreachable(*rank, place, source)),
            }
        }
        Ok(addresses)
    }

    fn welcome(
        &self,
        met: &mut BTreeMap<usize, Met>,
        addresses: &BTreeMap<usize, SocketAddr>,
    ) -> Result<(), ConnectError> {
        let welcome = Note::Welcome {
            addresses: addresses.values().copied().collect(),
        };
        let lost = |rank: usize, source| ConnectError::unreachable(rank, addresses[&rank], source);
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
        let place = &self.setup.rendezvous;
        let zero = self.reach(0, self.setup.patience, || self.addresses(place))?;
        self.enter(rank, zero)
    }

    /// The same for a rank that is connected to rank 0.
    pub fn enter(&self, rank: usize, mut zero: Met) -> Result<BTreeMap<usize, Met>, ConnectError> {
        let address = zero.channel.socket().peer_addr()?;
        let unreachable = |source| ConnectError::unreachable(0, address, source);
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
            zero.refuse(&error.to_string());
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
            let mut other = self.reach(lower, self.setup.patience, || Ok(Ok(vec![address])))?;
            let told = other.tell(&self.hello(0));
            told.map_err(|source| ConnectError::unreachable(lower, address, source))?;
            met.insert(lower, other);
        }
        self.receive(listener, rank + 1..self.setup.world_size, met)?;
        Ok(())
    }

    /// Opens a connection to `rank`, which may not be there yet, before `patience` is over.
    fn reach(
        &self,
        rank: usize,
        patience: Duration,
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
            if self.start.elapsed() >= patience {
                let address = address.unwrap_or_else(|| self.setup.rendezvous.to_string());
                return Err(ConnectError::unreachable(rank, address, error));
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
                _ => ConnectError::unreachable(rank, address, source),
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
                    // Nobody listens any more once all ranks are there.
                    thread::spawn(move || drop(proved.send(admit(socket, &identity))));
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
                        other.refuse(&error.to_string());
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
pub(super) type Comer = Option<(Met, Note, IpAddr)>;

/// Lets somebody prove that it knows the secret.
pub(super) fn admit(socket: TcpStream, identity: &Identity) -> Comer {
    let address = socket.peer_addr().ok()?;
    let channel = Channel::open(socket, End::Accepting, identity, PROOF).ok()?;
    let mut met = Met::new(channel);
    let note = met.hear(PROOF).ok()?;
    Some((met, note, address.ip()))
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
