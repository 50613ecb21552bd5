//! What goes over a connection once the run has started.

use std::io::{self, ErrorKind, Read};

use crate::mailbox::Failure;
use crate::{Element, Form};

/// Most dimensions of a message.
const DIMENSIONS: usize = 8;
/// Most bytes of a reason.
const REASON: usize = 4096;

const MESSAGE: u8 = 0;
const ALIVE: u8 = 1;
const LEFT: u8 = 2;
const FAILED: u8 = 3;

/// The beginning of a frame, or all of it but a message's elements, which follow.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// A message of this form follows.
    Message { tag: u64, form: Form },
    /// The sender lives, and has nothing else to say.
    Alive,
    /// The sender is done.
    Left,
    /// A rank, often the sender, cannot go on.
    Failed(Failure),
}

impl Frame {
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Message { tag, form } => {
                let mut bytes = vec![MESSAGE];
                bytes.extend(tag.to_le_bytes());
                bytes.push(form.element.code());
                bytes.push(form.shape.len() as u8);
                for length in &form.shape {
                    bytes.extend((*length as u64).to_le_bytes());
                }
                bytes
            }
            Self::Alive => vec![ALIVE],
            Self::Left => vec![LEFT],
            Self::Failed(Failure { rank, reason }) => {
                let mut end = reason.len().min(REASON);
                while !reason.is_char_boundary(end) {
                    end -= 1;
                }
                let mut bytes = vec![FAILED];
                bytes.extend((*rank as u32).to_le_bytes());
                bytes.extend((end as u32).to_le_bytes());
                bytes.extend(&reason.as_bytes()[..end]);
                bytes
            }
        }
    }

    /// Reads one; memory is taken only for what is small or, one dimension after the other, has been counted.
    pub fn read(from: &mut impl Read) -> io::Result<Self> {
        match byte(from)? {
            MESSAGE => {
                let tag = u64::from_le_bytes(array(from)?);
                let element = Element::of_code(byte(from)?).ok_or_else(garbled)?;
                let dimensions = usize::from(byte(from)?);
                if dimensions > DIMENSIONS {
                    return Err(garbled());
                }
                let mut shape = Vec::with_capacity(dimensions);
                for _ in 0..dimensions {
                    let length = u64::from_le_bytes(array(from)?);
                    shape.push(usize::try_from(length).map_err(|_| garbled())?);
                }
                let form = Form { shape, element };
                Ok(Self::Message { tag, form })
            }
            ALIVE => Ok(Self::Alive),
            LEFT => Ok(Self::Left),
            FAILED => {
                let rank = u32::from_le_bytes(array(from)?) as usize;
                let length = u32::from_le_bytes(array(from)?) as usize;
                if length > REASON {
                    return Err(garbled());
                }
                let mut reason = vec![0; length];
                from.read_exact(&mut reason)?;
                let reason = String::from_utf8_lossy(&reason).into_owned();
                Ok(Self::Failed(Failure { rank, reason }))
            }
            _ => Err(garbled()),
        }
    }
}

fn byte(from: &mut impl Read) -> io::Result<u8> {
    array::<1>(from).map(|[byte]| byte)
}

fn array<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Only a program that does not follow this protocol sends this.
fn garbled() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "it sent what is no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_the_way() {
        for frame in [
            Frame::Message {
                tag: u64::MAX - 1,
                form: Form::new([2, 320, 64, 64], Element::Bf16),
            },
            Frame::Message {
                tag: 0,
                form: Form::new([], Element::F64),
            },
            Frame::Alive,
            Frame::Left,
            Frame::Failed(Failure {
                rank: 3,
                reason: "out of memory".to_owned(),
            }),
        ] {
            let bytes = frame.bytes();
            assert_eq!(Frame::read(&mut &*bytes).unwrap(), frame);
            for end in 0..bytes.len() {
                assert!(Frame::read(&mut &bytes[..end]).is_err());
            }
        }
    }

    #[test]
    fn long_reasons_are_cut_between_characters() {
        let reason = "é".repeat(REASON);
        let bytes = Frame::Failed(Failure { rank: 0, reason }).bytes();
        let Frame::Failed(failure) = Frame::read(&mut &*bytes).unwrap() else {
            panic!("a failure");
        };
        assert_eq!(failure.reason, "é".repeat(REASON / 2));
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let many = [&[MESSAGE][..], &[0; 8], &[0, 200]].concat();
        let unknown = [&[MESSAGE][..], &[0; 8], &[99, 0]].concat();
        let long = [&[FAILED][..], &[0; 4], &[255; 4]].concat();
        for bytes in [vec![77], many, unknown, long] {
            let error = Frame::read(&mut &*bytes).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{bytes:?}");
        }
    }
}
