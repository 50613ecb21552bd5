//! Whether all ranks can do something that all of them have to do, or none.

use std::time::Duration;

use crate::{CommError, Element, Form, Message, PeerExchange};

/// Bytes of what a rank says of itself; what does not fit is cut.
const OPINION: usize = 512;

/// Whether each of the ranks `0 .. ranks` can do something. All of them call this at the same point, with what they bring along, or
/// why they cannot; all get the same: what rank 0 has brought along, or the reason of the first that cannot. Opinions are sent under
/// `tag`.
///
/// # Errors
///
/// [`CommError`], if a rank is gone, does not answer `within` that time, or answers what no rank would.
pub fn agree<M: Message, P: PeerExchange<M>>(
    peers: &mut P,
    ranks: usize,
    tag: u64,
    own: Result<Vec<u8>, String>,
    within: Duration,
) -> Result<Result<Vec<u8>, String>, CommError> {
    let form = Form::new([OPINION], Element::U8);
    let said = |opinion: &Result<Vec<u8>, String>| M::from_bytes(&form, encode(opinion));
    let hear = |peers: &mut P, from: usize| {
        let message = peers.recv(from, tag, &form, within)?;
        decode(message.into_bytes().as_ref()).ok_or_else(|| CommError::PeerFailed {
            rank: from,
            reason: "it does not speak as this program does".to_owned(),
        })
    };
    if peers.rank() > 0 {
        peers.send(0, tag, said(&own))?;
        return hear(peers, 0);
    }
    let mut agreed = own;
    for other in 1..ranks {
        let opinion = hear(peers, other)?;
        agreed = agreed.and_then(|brought| opinion.map(|_| brought));
    }
    for other in 1..ranks {
        peers.send(other, tag, said(&agreed))?;
    }
    Ok(agreed)
}

/// Whether it can, how many bytes follow, and these.
fn encode(opinion: &Result<Vec<u8>, String>) -> Vec<u8> {
    let (can, content) = match opinion {
        Ok(brought) => (1, &brought[..]),
        Err(reason) => (0, reason.as_bytes()),
    };
    let content = &content[..content.len().min(OPINION - 3)];
    let [low, high] = (content.len() as u16).to_le_bytes();
    let mut bytes = vec![can, low, high];
    bytes.extend(content);
    bytes.resize(OPINION, 0);
    bytes
}

fn decode(bytes: &[u8]) -> Option<Result<Vec<u8>, String>> {
    let (&[can, low, high], rest) = bytes.split_first_chunk()?;
    let content = rest.get(..usize::from(u16::from_le_bytes([low, high])))?;
    match can {
        0 => Some(Err(String::from_utf8_lossy(content).into_owned())),
        1 => Some(Ok(content.to_vec())),
        _ => None,
    }
}
