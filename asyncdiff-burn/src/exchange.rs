//! Tensors between ranks.

use std::marker::PhantomData;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use asyncdiff_comm::{CommError, Element, Form, Message, PeerExchange};
use burn::tensor::{DType, Device, Tensor, TensorData};

/// Copies from one device to another.
static COPIES: Mutex<()> = Mutex::new(());

/// The tensor on `device`.
///
/// Where NCCL copies between GPUs, each copy is put into the queues of both, and waits in each until the other has come to it. So ranks
/// that are threads have to put copies into all queues in one order: they do it one after the other.
#[must_use]
pub fn to_device<const D: usize>(tensor: Tensor<D>, device: &Device) -> Tensor<D> {
    if tensor.device() == *device {
        return tensor;
    }
    // It guards nothing that a panic could leave half-changed.
    let _in_one_order = COPIES.lock().unwrap_or_else(PoisonError::into_inner);
    tensor.to_device(device)
}

/// A tensor on its way: on a device, or its elements.
#[derive(Clone, Debug)]
pub struct Parcel<const D: usize>(Content<D>);

#[derive(Clone, Debug)]
enum Content<const D: usize> {
    Tensor(Tensor<D>),
    Data(TensorData),
}

impl<const D: usize> Parcel<D> {
    /// Bytes that are no tensor: `[1, …, 1, bytes]`.
    #[must_use]
    pub fn of_bytes(bytes: Vec<u8>) -> Self {
        let mut shape = [1; D];
        shape[D - 1] = bytes.len();
        Self(Content::Data(TensorData::from_bytes_vec(
            bytes,
            shape,
            DType::U8,
        )))
    }

    /// A tensor.
    #[must_use]
    pub fn of_tensor(tensor: Tensor<D>) -> Self {
        Self(Content::Tensor(tensor))
    }

    /// The tensor, on `device`.
    #[must_use]
    pub fn unpack(self, device: &Device) -> Tensor<D> {
        match self.0 {
            Content::Tensor(tensor) => to_device(tensor, device),
            Content::Data(data) => {
                let dtype = data.dtype();
                Tensor::from_data(data, (device, dtype))
            }
        }
    }
}

/// What carries elements of `dtype`.
///
/// # Panics
///
/// For types that denoisers do not compute in.
#[must_use]
pub fn element(dtype: DType) -> Element {
    match dtype {
        DType::F32 => Element::F32,
        DType::F16 => Element::F16,
        DType::BF16 => Element::Bf16,
        DType::U8 => Element::U8,
        other => unreachable!("no denoiser computes in {other:?}"),
    }
}

/// What [`element`] says, the other way round.
pub(crate) fn dtype(element: Element) -> DType {
    match element {
        Element::F32 => DType::F32,
        Element::F16 => DType::F16,
        Element::Bf16 => DType::BF16,
        Element::U8 => DType::U8,
        other => unreachable!("no tensor of {other} is expected"),
    }
}

impl<const D: usize> Message for Parcel<D> {
    fn form(&self) -> Form {
        match &self.0 {
            Content::Tensor(tensor) => Form::new(tensor.dims(), element(tensor.dtype())),
            Content::Data(data) => Form::new(data.shape().to_vec(), element(data.dtype())),
        }
    }

    fn into_bytes(self) -> impl AsRef<[u8]> {
        let data = match self.0 {
            Content::Tensor(tensor) => tensor.into_data(),
            Content::Data(data) => data,
        };
        Elements(data)
    }

    fn from_bytes(form: &Form, bytes: Vec<u8>) -> Self {
        let (shape, dtype) = (form.shape.clone(), dtype(form.element));
        Self(Content::Data(TensorData::from_bytes_vec(
            bytes, shape, dtype,
        )))
    }
}

/// The elements of a tensor, as bytes. (Burn runs on little-endian machines only.)
struct Elements(TensorData);

impl AsRef<[u8]> for Elements {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// Passes tensors on through another transport, and moves what is received to this rank's device.
#[derive(Debug)]
pub struct OnDevice<P> {
    peers: P,
    device: Device,
}

impl<P> OnDevice<P> {
    /// `peers`, with received tensors on `device`.
    pub fn new(peers: P, device: &Device) -> Self {
        Self {
            peers,
            device: device.clone(),
        }
    }
}

impl<const D: usize, P: PeerExchange<Parcel<D>>> PeerExchange<Tensor<D>> for OnDevice<P> {
    fn rank(&self) -> usize {
        self.peers.rank()
    }

    fn world_size(&self) -> usize {
        self.peers.world_size()
    }

    fn send(&mut self, to: usize, tag: u64, message: Tensor<D>) -> Result<(), CommError> {
        self.peers.send(to, tag, Parcel::of_tensor(message))
    }

    fn recv(
        &mut self,
        from: usize,
        tag: u64,
        expected: &Form,
        within: Duration,
    ) -> Result<Tensor<D>, CommError> {
        let parcel = self.peers.recv(from, tag, expected, within)?;
        Ok(parcel.unpack(&self.device))
    }

    fn check(&mut self) -> Result<(), CommError> {
        self.peers.check()
    }

    fn fail(&mut self, reason: &str) {
        self.peers.fail(reason);
    }
}

/// A tensor in memory that a transport from device to device reaches.
pub trait Buffer<const D: usize> {
    /// The tensor's elements, at an address.
    fn of(tensor: Tensor<D>) -> Self;

    /// Memory for a tensor of `form`, with anything in it.
    fn empty(form: &Form, device: &Device) -> Self;

    /// The tensor whose elements are in it.
    fn into_tensor(self) -> Tensor<D>;
}

/// Passes tensors on from one device's memory to another's.
pub struct Direct<P, B> {
    peers: P,
    device: Device,
    buffers: PhantomData<fn(B)>,
}

impl<P, B> Direct<P, B> {
    /// `peers`, whose messages are buffers on `device`.
    pub fn new(peers: P, device: &Device) -> Self {
        Self {
            peers,
            device: device.clone(),
            buffers: PhantomData,
        }
    }
}

impl<const D: usize, P: PeerExchange<B>, B: Buffer<D>> PeerExchange<Parcel<D>> for Direct<P, B> {
    fn rank(&self) -> usize {
        self.peers.rank()
    }

    fn world_size(&self) -> usize {
        self.peers.world_size()
    }

    fn send(&mut self, to: usize, tag: u64, message: Parcel<D>) -> Result<(), CommError> {
        let tensor = message.unpack(&self.device);
        self.peers.send(to, tag, B::of(tensor))
    }

    fn recv(
        &mut self,
        from: usize,
        tag: u64,
        expected: &Form,
        within: Duration,
    ) -> Result<Parcel<D>, CommError> {
        let buffer = self.peers.recv(from, tag, expected, within)?;
        Ok(Parcel::of_tensor(buffer.into_tensor()))
    }

    fn check(&mut self) -> Result<(), CommError> {
        self.peers.check()
    }

    fn fail(&mut self, reason: &str) {
        self.peers.fail(reason);
    }
}
