//! What a plan's messages go through: NCCL if every rank has a GPU and the library, else the network. Everything else goes through
//! the network.

use asyncdiff_burn::device::Worker;
use asyncdiff_burn::exchange::Parcel;
use asyncdiff_comm::{CommError, PeerExchange};

#[cfg(feature = "nccl")]
use asyncdiff_burn::exchange::{Buffer, Direct};
#[cfg(feature = "nccl")]
use asyncdiff_burn::gpu_memory::{self, GpuTensor};
#[cfg(feature = "nccl")]
use asyncdiff_comm::Form;
#[cfg(not(feature = "nccl"))]
use asyncdiff_comm::agree;
#[cfg(feature = "nccl")]
use asyncdiff_comm::nccl::{Communicator, Gpu, Library, NcclPeer, meet};

use super::{LONG, Seated, WIRE};
use crate::pipeline::Run;

/// A plan's messages, for one run.
pub(super) type Messages<'a> = Box<dyn PeerExchange<Parcel<4>> + Send + 'a>;

/// What carries a plan's messages.
pub(super) struct Wire {
    #[cfg(feature = "nccl")]
    nccl: Option<Communicator>,
    words: Option<String>,
}

impl Wire {
    /// The network.
    pub fn network() -> Self {
        Self {
            #[cfg(feature = "nccl")]
            nccl: None,
            words: None,
        }
    }

    /// What the ranks of the plan find that all of them can use; returns when each has called this.
    pub fn meet<P: PeerExchange<Parcel<4>>>(
        peers: &mut Seated<P>,
        ranks: usize,
        worker: &Worker,
    ) -> Result<Self, CommError> {
        if ranks < 2 {
            return Ok(Self::network());
        }
        let process = peers.peers.rank();
        let cannot = |why: &str| format!("rank {process} on {}: {why}", worker.name());
        #[cfg(not(feature = "nccl"))]
        {
            // The others may have been built with it.
            let own = Err(cannot("its program was built without nccl"));
            agree(peers, ranks, WIRE, own, LONG)?.ok();
            Ok(Self::network())
        }
        #[cfg(feature = "nccl")]
        {
            let own = gpu(worker).map_err(|why| cannot(&why));
            let version = own.as_ref().ok().and_then(|gpu| gpu.library.version().ok());
            let made = meet(peers, ranks, WIRE, own, LONG)?;
            let words = match &made {
                Ok(_) => format!("messages through NCCL {}", version.unwrap_or_default()),
                Err(reason) => format!("messages through the network: {reason}"),
            };
            Ok(Self {
                nccl: made.ok(),
                words: gpu_memory::index(worker.device()).map(|_| words),
            })
        }
    }

    /// For whoever reads along.
    pub fn words(&self) -> Option<&str> {
        self.words.as_deref()
    }

    /// What carries the messages of `run` to and from the device of `worker`.
    pub fn between<'a, P: PeerExchange<Parcel<4>> + Send>(
        &'a mut self,
        peers: &'a mut Seated<P>,
        run: &Run,
        worker: &Worker,
    ) -> Messages<'a> {
        #[cfg(feature = "nccl")]
        if let Some(nccl) = &mut self.nccl {
            let device = worker.device().clone();
            let empty = move |form: &Form| <GpuTensor as Buffer<4>>::empty(form, &device);
            let peers = NcclPeer::new(nccl, peers, &run.transfers(), Box::new(empty));
            return Box::new(Direct::<_, GpuTensor>::new(peers, worker.device()));
        }
        let _ = (run, worker);
        Box::new(peers)
    }
}

/// NCCL on a worker's device.
#[cfg(feature = "nccl")]
fn gpu(worker: &Worker) -> Result<Gpu, String> {
    let index = gpu_memory::index(worker.device());
    let index = index.ok_or("it is no NVIDIA GPU of Burn's CUDA backend")?;
    let library = Library::load().map_err(|error| error.to_string())?;
    Ok(Gpu { library, index })
}
