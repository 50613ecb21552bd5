//! How the ranks of a run come to a communicator each, or to know that there is none.

use std::ffi::c_char;
use std::time::Duration;

use super::{NcclApi, NcclError};
use crate::{CommError, Message, PeerExchange, agree};

/// How long ranks that can may take to form a communicator. What is in the way of NCCL (a firewall, an interface that leads
/// nowhere) often shows by nothing happening at all.
const FORM: Duration = Duration::from_secs(60);

/// What the ranks of a communicator share: rank 0 makes it, and hands it to the others.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UniqueId(pub(super) [c_char; 128]);

impl UniqueId {
    /// Its bytes, to be sent.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.0.iter().map(|byte| byte.cast_unsigned()).collect()
    }

    /// The id with these bytes; `None` if they are not as many as an id has.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: [u8; 128] = bytes.try_into().ok()?;
        Some(Self(bytes.map(u8::cast_signed)))
    }
}

/// What makes a rank's communicator.
pub trait Join {
    /// What it makes.
    type Api: NcclApi;

    /// A new id, on rank 0.
    ///
    /// # Errors
    ///
    /// [`NcclError`].
    fn unique_id(&self) -> Result<UniqueId, NcclError>;

    /// Joins rank `rank` of `world_size`; returns when all ranks have, or after `within`.
    ///
    /// # Errors
    ///
    /// [`NcclError`].
    fn join(
        &self,
        place: (usize, usize),
        id: &UniqueId,
        within: Duration,
    ) -> Result<Self::Api, NcclError>;
}

/// A communicator for each of the ranks `0 .. ranks`, if all of them can have one; if not, all get the same reason. Each of them calls
/// this at the same point, with what makes its communicator, or why there is nothing that does; those without NCCL may call [`agree`]
/// with that reason instead. `tag` is that of the messages, and `within` how long the others may take to come here.
///
/// # Errors
///
/// [`CommError`], if a rank is gone.
pub fn meet<J: Join, M: Message, P: PeerExchange<M>>(
    peers: &mut P,
    ranks: usize,
    tag: u64,
    own: Result<J, String>,
    within: Duration,
) -> Result<Result<J::Api, String>, CommError> {
    let rank = peers.rank();
    let named = |error: NcclError| error.to_string();
    let offer = match &own {
        Ok(join) if rank == 0 => join.unique_id().map(|id| id.bytes()).map_err(named),
        Ok(_) => Ok(Vec::new()),
        Err(reason) => Err(reason.clone()),
    };
    let (join, id) = match (own, agree(peers, ranks, tag, offer, within)?) {
        (Ok(join), Ok(id)) => (join, id),
        (_, Err(reason)) | (Err(reason), _) => return Ok(Err(reason)),
    };
    let joined = match UniqueId::of_bytes(&id) {
        Some(id) => join.join((rank, ranks), &id, FORM).map_err(named),
        None => Err("rank 0 has sent no NCCL id".to_owned()),
    };
    let done = joined.as_ref().map(|_| Vec::new());
    let agreed = agree(peers, ranks, tag, done.map_err(String::clone), 2 * FORM)?;
    Ok(match (joined, agreed) {
        (Ok(mut api), Err(reason)) => {
            // Others are not in it: nothing that is asked of it would end.
            api.abort();
            Err(reason)
        }
        (joined, Ok(_)) => joined,
        (Err(_), Err(reason)) => Err(reason),
    })
}
