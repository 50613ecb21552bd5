//! What ranks tell each other before the run.

use std::io::{self, ErrorKind, Read};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::channel::{Channel, Incoming, Outgoing};

/// How long somebody who connects may take to prove that it knows the secret, and to say who it is.
pub(super) const PROOF: Duration = Duration::from_secs(10);
/// Most bytes of a note.
const NOTE: usize = 1 << 20;

/// What ranks tell each other before the run.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Note {
    /// To whoever waits to be a rank of somebody's run: what that is.
    Invitation {
        rank: usize,
        world_size: usize,
        job: String,
    },
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
    pub fn new(channel: Arc<Channel>) -> Self {
        Self {
            incoming: Incoming::new(&channel, PROOF),
            outgoing: Outgoing::new(&channel),
            channel,
        }
    }

    pub fn tell(&mut self, note: &Note) -> io::Result<()> {
        let text = serde_json::to_vec(note)?;
        let length = text.len() as u32;
        self.outgoing
            .write(&[&length.to_le_bytes()[..], &text].concat())
    }

    pub fn hear(&mut self, patience: Duration) -> io::Result<Note> {
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

    /// Says why there is no run, and nothing more; whoever is gone does not have to know.
    pub fn refuse(&mut self, reason: &str) {
        let reason = reason.to_owned();
        let _ = self.tell(&Note::Refused { reason });
        let _ = self.outgoing.finish();
    }
}

pub(super) fn unexpected() -> io::Error {
    io::Error::new(
        ErrorKind::InvalidData,
        "it does not speak as the ranks of this program do",
    )
}
