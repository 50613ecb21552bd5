//! Which rank of which run a process is, as the program that started it says.
//!
//! [`place`] is a function of what a person has typed and of an environment that it is handed. Each fact is taken from the
//! first of these that knows it: the settings; `ASYNCDIFF_RANK`, `ASYNCDIFF_WORLD_SIZE`, `ASYNCDIFF_LOCAL_RANK`,
//! `ASYNCDIFF_LOCAL_WORLD_SIZE` and `ASYNCDIFF_RENDEZVOUS`; the [`Launcher`].
//!
//! ```
//! use std::collections::HashMap;
//! use asyncdiff_comm::launch::{Launcher, Settings, place};
//!
//! let environment = [("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "node1"), ("MASTER_PORT", "29400")];
//! let environment: HashMap<_, _> = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
//! let place = place(&Settings::default(), &environment)?.unwrap();
//! assert_eq!((place.rank, place.world_size), (1, 2));
//! assert_eq!(place.rendezvous.to_string(), "node1:29400");
//! assert_eq!(place.launcher, Launcher::Torch);
//! # Ok::<(), asyncdiff_comm::launch::LaunchError>(())
//! ```

mod launcher;

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

pub use launcher::Launcher;

/// What a person has said of a rank's place; what is `None` comes from the environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The rank.
    pub rank: Option<usize>,
    /// Number of ranks.
    pub world_size: Option<usize>,
    /// The rank's number among those of its host.
    pub local_rank: Option<usize>,
    /// Where rank 0 waits for the others.
    pub rendezvous: Option<Rendezvous>,
}

/// Where rank 0 waits for the others: a host's name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendezvous {
    /// Name or address of rank 0's host.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Rendezvous {
    /// A port of this host that no other host can reach.
    #[must_use]
    pub fn loopback(port: u16) -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port,
        }
    }
}

impl fmt::Display for Rendezvous {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') {
            write!(f, "[{host}]:{port}")
        } else {
            write!(f, "{host}:{port}")
        }
    }
}

impl FromStr for Rendezvous {
    type Err = LaunchError;

    fn from_str(text: &str) -> Result<Self, LaunchError> {
        let parts = text.rsplit_once(':').and_then(|(host, port)| {
            let host = match host.strip_prefix('[') {
                Some(inside) => inside.strip_suffix(']')?,
                None if host.contains(':') => return None,
                None => host,
            };
            let port = port.parse().ok().filter(|port| *port != 0)?;
            (!host.is_empty()).then(|| Self {
                host: host.to_owned(),
                port,
            })
        });
        parts.ok_or_else(|| LaunchError::Rendezvous(text.to_owned()))
    }
}

/// What a name of a device begins with that another process lends.
const LENT: &str = "tcp://";

/// Devices in `+`-separated names: those that other processes lend, as `tcp://HOST:PORT`, and the names of all others.
///
/// ```
/// let (own, lent) = asyncdiff_comm::launch::lent("cuda:0,1+tcp://node1:29500")?;
/// assert_eq!(own.as_deref(), Some("cuda:0,1"));
/// assert_eq!(lent[0].to_string(), "node1:29500");
/// # Ok::<(), asyncdiff_comm::launch::LaunchError>(())
/// ```
///
/// # Errors
///
/// [`LaunchError::Rendezvous`].
pub fn lent(names: &str) -> Result<(Option<String>, Vec<Rendezvous>), LaunchError> {
    let mut own = Vec::new();
    let mut lent = Vec::new();
    for name in names.split('+') {
        match name.trim().strip_prefix(LENT) {
            Some(place) => lent.push(place.parse()?),
            None => own.push(name),
        }
    }
    let own = (!own.is_empty()).then(|| own.join("+"));
    Ok((own, lent))
}

/// A rank's place in a run of several processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The rank, `0 .. world_size`.
    pub rank: usize,
    /// Number of ranks, at least 2.
    pub world_size: usize,
    /// The rank's number among those of its host: which of the host's devices is its own.
    pub local_rank: usize,
    /// Number of ranks on this host, 1 where nobody says it.
    pub local_world_size: usize,
    /// Where rank 0 waits for the others.
    pub rendezvous: Rendezvous,
    /// What tells this run from others on the same hosts, the same on all ranks; may be empty.
    pub job: String,
    /// Who started the process.
    pub launcher: Launcher,
}

/// Why a process cannot tell its place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LaunchError {
    /// A variable that is no number.
    #[error("{variable} is {value}, which is no number")]
    Number {
        /// The variable.
        variable: String,
        /// Its value.
        value: String,
    },
    /// Only a part of a place is known.
    #[error("this process is a rank of several, but its {what} is not known: set {variable}")]
    Missing {
        /// What is not known.
        what: &'static str,
        /// The variable that would say it.
        variable: &'static str,
    },
    /// The launcher does not say where rank 0 is.
    #[error(
        "{launcher} does not say on which host rank 0 runs: set ASYNCDIFF_RENDEZVOUS to HOST:PORT on all ranks, HOST being rank 0's"
    )]
    NoRendezvous {
        /// Who started the process.
        launcher: Launcher,
    },
    /// A rank outside the world.
    #[error("rank {rank} does not exist: this run has {world_size} ranks, numbered from 0")]
    NoSuchRank {
        /// The rank.
        rank: usize,
        /// Number of ranks.
        world_size: usize,
    },
    /// Something else than a host and a port.
    #[error("{0} is no rendezvous: it should be HOST:PORT, as node1:29500 or [::1]:29500")]
    Rendezvous(String),
}

/// An environment: the values of variables by their names.
pub type Environment = HashMap<String, String>;

/// The place of a process that was started with `settings` in `environment`; `None` if it is alone.
///
/// # Errors
///
/// [`LaunchError`].
pub fn place(settings: &Settings, environment: &Environment) -> Result<Option<Place>, LaunchError> {
    let own = |name| number(environment, name);
    let rank = settings.rank.map_or_else(|| own("ASYNCDIFF_RANK"), found)?;
    let world_size = settings
        .world_size
        .map_or_else(|| own("ASYNCDIFF_WORLD_SIZE"), found)?;
    let launched = launcher::launched(environment, world_size)?;
    let rank = rank.or(launched.rank);
    let world_size = world_size.or(launched.world_size);
    let (rank, world_size) = match (rank, world_size) {
        (None | Some(0), None | Some(1)) => return Ok(None),
        (Some(rank), Some(world_size)) if rank >= world_size => {
            return Err(LaunchError::NoSuchRank { rank, world_size });
        }
        (Some(rank), Some(world_size)) => (rank, world_size),
        (None, Some(_)) => {
            return Err(LaunchError::Missing {
                what: "rank",
                variable: "ASYNCDIFF_RANK",
            });
        }
        (Some(_), None) => {
            return Err(LaunchError::Missing {
                what: "number of ranks",
                variable: "ASYNCDIFF_WORLD_SIZE",
            });
        }
    };
    let local_rank = settings
        .local_rank
        .map_or_else(|| own("ASYNCDIFF_LOCAL_RANK"), found)?
        .or(launched.local_rank)
        .unwrap_or(0);
    let local_world_size = own("ASYNCDIFF_LOCAL_WORLD_SIZE")?.or(launched.local_world_size);
    let named = environment.get("ASYNCDIFF_RENDEZVOUS");
    let named = named.map(|text| text.parse()).transpose()?;
    let rendezvous = settings.rendezvous.clone().or(named);
    let rendezvous = match rendezvous {
        Some(rendezvous) => rendezvous,
        // Whatever the host's name resolves to: ranks that share a host meet where no other host can interfere.
        None => match (launched.port, launched.host) {
            (Some(port), _) if local_world_size == Some(world_size) => Rendezvous::loopback(port),
            (Some(port), Some(host)) => Rendezvous { host, port },
            _ if launched.launcher == Launcher::Hand => {
                return Err(LaunchError::Missing {
                    what: "rendezvous",
                    variable: "ASYNCDIFF_RENDEZVOUS",
                });
            }
            _ => {
                return Err(LaunchError::NoRendezvous {
                    launcher: launched.launcher,
                });
            }
        },
    };
    Ok(Some(Place {
        rank,
        world_size,
        local_rank,
        local_world_size: local_world_size.unwrap_or(1).max(1),
        rendezvous,
        job: launched.job,
        launcher: launched.launcher,
    }))
}

#[allow(clippy::unnecessary_wraps, reason = "stands beside `number`")]
fn found(number: usize) -> Result<Option<usize>, LaunchError> {
    Ok(Some(number))
}

/// The number that a variable holds, if it is set.
fn number(environment: &Environment, variable: &str) -> Result<Option<usize>, LaunchError> {
    let Some(value) = environment.get(variable) else {
        return Ok(None);
    };
    match value.trim().parse() {
        Ok(number) => Ok(Some(number)),
        Err(_) => Err(LaunchError::Number {
            variable: variable.to_owned(),
            value: value.clone(),
        }),
    }
}
