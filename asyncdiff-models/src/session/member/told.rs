//! What process 0 tells the others before each run: that there is one, and what the denoiser is told in it.

use std::time::Duration;

use asyncdiff_burn::exchange::{Parcel, element};
use asyncdiff_comm::{CommError, Element, Form, Message, PeerExchange};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::TOLD;
use crate::pipeline::Run;
use crate::unet::{AddedConditioning, Conditioning};

/// Most bytes of a [`Note`].
const LARGEST: u64 = 1 << 20;

/// What follows, so that everybody knows what to expect.
#[derive(Serialize, Deserialize)]
enum Note {
    Run {
        context: Shaped,
        text_embeds: Option<Shaped>,
        /// The bits of the numbers: text would round them.
        time_ids: Option<Vec<Vec<u64>>>,
        concat: Option<Shaped>,
        mask: Option<Shaped>,
        frames: usize,
    },
    Over,
}

/// The form of a tensor.
#[derive(Serialize, Deserialize)]
struct Shaped {
    shape: Vec<usize>,
    element: u8,
}

impl Shaped {
    fn of<const D: usize>(tensor: &Tensor<D>) -> Self {
        Self {
            shape: tensor.dims().to_vec(),
            element: element(tensor.dtype()).code(),
        }
    }
}

/// Tells all other ranks of `run` what the denoiser is told.
pub(super) fn tell<P: PeerExchange<Parcel<4>>>(
    peers: &mut P,
    run: &Run,
    told: &Conditioning,
) -> Result<(), CommError> {
    let note = Note::Run {
        context: Shaped::of(&told.context),
        text_embeds: embeds(told).map(Shaped::of),
        time_ids: told.added.as_ref().map(|added| {
            let bits = |row: &Vec<f64>| row.iter().map(|id| id.to_bits()).collect();
            added.time_ids.iter().map(bits).collect()
        }),
        concat: told.concat.as_ref().map(Shaped::of),
        mask: told.mask.as_ref().map(Shaped::of),
        frames: told.frames,
    };
    let here = peers.rank();
    for other in (0..run.plan.ranks.len()).filter(|other| *other != here) {
        send(peers, other, &note)?;
        let tensors = [
            Some(told.context.clone().unsqueeze::<4>()),
            embeds(told).map(|text| text.clone().unsqueeze::<4>()),
            told.concat.clone(),
            told.mask.clone(),
        ];
        for tensor in tensors.into_iter().flatten() {
            peers.send(other, TOLD, Parcel::of_tensor(tensor))?;
        }
    }
    Ok(())
}

/// Tells all others, also those that the plan has no rank for, that it is over.
pub(super) fn tell_the_end<P: PeerExchange<Parcel<4>>>(peers: &mut P) -> Result<(), CommError> {
    let here = peers.rank();
    let mut others = (0..peers.world_size()).filter(|other| *other != here);
    others.try_for_each(|other| send(peers, other, &Note::Over))
}

fn send<P: PeerExchange<Parcel<4>>>(
    peers: &mut P,
    to: usize,
    note: &Note,
) -> Result<(), CommError> {
    let text = serde_json::to_vec(note).map_err(|error| CommError::Transport(error.to_string()))?;
    let length = (text.len() as u64).to_le_bytes().to_vec();
    peers.send(to, TOLD, Parcel::of_bytes(length))?;
    peers.send(to, TOLD, Parcel::of_bytes(text))
}

fn embeds(told: &Conditioning) -> Option<&Tensor<2>> {
    told.added.as_ref()?.text_embeds.as_ref()
}

/// What rank `from` tells: the conditioning of a run, on `device`, or that it is over.
pub(super) fn hear<P: PeerExchange<Parcel<4>>>(
    peers: &mut P,
    from: usize,
    device: &Device,
    within: Duration,
) -> Result<Option<Conditioning>, CommError> {
    let mut bytes = |length: usize| {
        let form = Form::new([1, 1, 1, length], Element::U8);
        let parcel = peers.recv(from, TOLD, &form, within)?;
        Ok::<_, CommError>(parcel.into_bytes().as_ref().to_vec())
    };
    let length = bytes(8)?;
    let length = length.try_into().map_or(u64::MAX, u64::from_le_bytes);
    if length > LARGEST {
        return Err(unknown(from));
    }
    let note = serde_json::from_slice(&bytes(length as usize)?).map_err(|_| unknown(from))?;
    let Note::Run {
        context,
        text_embeds,
        time_ids,
        concat,
        mask,
        frames,
    } = note
    else {
        return Ok(None);
    };
    let context = tensor(peers, from, &context, device, within)?;
    let mut tensor_of = |form: Option<Shaped>| {
        form.map(|form| tensor(peers, from, &form, device, within))
            .transpose()
    };
    let text_embeds: Option<Tensor<4>> = tensor_of(text_embeds)?;
    let (concat, mask) = (tensor_of(concat)?, tensor_of(mask)?);
    let rows = |bits: Vec<Vec<u64>>| -> Vec<Vec<f64>> {
        let row = |bits: Vec<u64>| bits.into_iter().map(f64::from_bits).collect();
        bits.into_iter().map(row).collect()
    };
    Ok(Some(Conditioning {
        context: without_ones(context),
        added: time_ids.map(|bits| AddedConditioning {
            text_embeds: text_embeds.map(without_ones),
            time_ids: rows(bits),
        }),
        concat,
        mask,
        frames,
    }))
}

/// A tensor of `form`, with ones in front where it has fewer dimensions than four.
fn tensor<P: PeerExchange<Parcel<4>>>(
    peers: &mut P,
    from: usize,
    form: &Shaped,
    device: &Device,
    within: Duration,
) -> Result<Tensor<4>, CommError> {
    let element = Element::of_code(form.element).ok_or_else(|| unknown(from))?;
    if form.shape.len() > 4 || element == Element::U8 {
        return Err(unknown(from));
    }
    let mut shape = vec![1; 4 - form.shape.len()];
    shape.extend(&form.shape);
    let parcel = peers.recv(from, TOLD, &Form::new(shape, element), within)?;
    Ok(parcel.unpack(device))
}

/// The last `D` dimensions: those before are ones.
fn without_ones<const D: usize>(tensor: Tensor<4>) -> Tensor<D> {
    let dims = tensor.dims();
    let last: [usize; D] = std::array::from_fn(|index| dims[4 - D + index]);
    tensor.reshape(last)
}

fn unknown(from: usize) -> CommError {
    CommError::PeerFailed {
        rank: from,
        reason: "it does not speak as this program does".to_owned(),
    }
}
