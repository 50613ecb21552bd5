//! Several processes.

use std::path::PathBuf;

use asyncdiff_comm::launch::{Rendezvous, Settings};
use clap::Args;

#[derive(Debug, Args)]
pub struct Ranks {
    /// Processes on this machine, each with a device of its own: this program starts itself again [default: 1]
    #[arg(long, value_name = "N", conflicts_with_all = ["rank", "world_size", "rendezvous"])]
    pub processes: Option<usize>,
    /// Which rank this process is, from 0 [default: what torchrun, mpirun, srun or ASYNCDIFF_RANK say]
    #[arg(long, value_name = "N")]
    pub rank: Option<usize>,
    /// Number of ranks, each of which is a process [default: what torchrun, mpirun, srun or ASYNCDIFF_WORLD_SIZE say]
    #[arg(long, value_name = "N")]
    pub world_size: Option<usize>,
    /// Where rank 0 waits for the others; on several hosts, ASYNCDIFF_SECRET must hold the same secret on all of them
    /// [default: what torchrun, srun or ASYNCDIFF_RENDEZVOUS say]
    #[arg(long, value_name = "HOST:PORT")]
    pub rendezvous: Option<Rendezvous>,
    /// File with what all ranks know, and nobody else: 16 or more characters [default: ASYNCDIFF_SECRET; none on one host]
    #[arg(long, value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
}

impl Ranks {
    /// What was typed of a rank's place.
    pub fn settings(&self) -> Settings {
        Settings {
            rank: self.rank,
            world_size: self.world_size,
            local_rank: None,
            rendezvous: self.rendezvous.clone(),
        }
    }
}
