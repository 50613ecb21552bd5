//! Tensors between ranks.

use asyncdiff_comm::{CommError, PeerExchange};
use burn::tensor::{Device, Tensor};

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

impl<const D: usize, P: PeerExchange<Tensor<D>>> PeerExchange<Tensor<D>> for OnDevice<P> {
    fn rank(&self) -> usize {
        self.peers.rank()
    }

    fn world_size(&self) -> usize {
        self.peers.world_size()
    }

    fn send(&mut self, to: usize, tag: u64, message: Tensor<D>) -> Result<(), CommError> {
        self.peers.send(to, tag, message)
    }

    fn recv(&mut self, from: usize, tag: u64) -> Result<Tensor<D>, CommError> {
        Ok(self.peers.recv(from, tag)?.to_device(&self.device))
    }

    fn barrier(&mut self) -> Result<(), CommError> {
        self.peers.barrier()
    }

    fn fail(&mut self, reason: &str) {
        self.peers.fail(reason);
    }
}
