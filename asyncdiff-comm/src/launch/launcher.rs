//! What each launcher tells the processes that it starts.

use std::fmt;

use super::{Environment, LaunchError, number};

/// Who started a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Launcher {
    /// A person, or this program itself.
    Hand,
    /// PyTorch's `torchrun`, or whatever sets the same variables.
    Torch,
    /// Open MPI's `mpirun`, versions 4 and 5.
    OpenMpi,
    /// A launcher that speaks PMI: `mpirun` of MPICH and its kin.
    Pmi,
    /// Slurm's `srun`.
    Slurm,
    /// A Kubernetes Job whose completion mode is `Indexed`.
    Kubernetes,
}

impl fmt::Display for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hand => "whoever started this process",
            Self::Torch => "torchrun",
            Self::OpenMpi => "Open MPI",
            Self::Pmi => "the PMI launcher",
            Self::Slurm => "Slurm",
            Self::Kubernetes => "Kubernetes",
        })
    }
}

/// What a launcher says.
pub(super) struct Launched {
    pub launcher: Launcher,
    pub rank: Option<usize>,
    pub world_size: Option<usize>,
    pub local_rank: Option<usize>,
    pub local_world_size: Option<usize>,
    /// Rank 0's host.
    pub host: Option<String>,
    pub port: Option<u16>,
    pub job: String,
}

/// Where nothing tells runs on one host apart: the port that PyTorch's tools start from, too.
const PORT: u16 = 29500;

/// Launchers may be nested (an `mpirun` inside a Slurm job): the innermost is asked first. `world_size` is what is known
/// without it.
pub(super) fn launched(
    environment: &Environment,
    world_size: Option<usize>,
) -> Result<Launched, LaunchError> {
    let of = |name| number(environment, name);
    let both = |rank, size| -> Result<_, LaunchError> { Ok(of(rank)?.zip(of(size)?)) };
    if let Some(place) = both("RANK", "WORLD_SIZE")? {
        return torch(environment, place);
    }
    if let Some((rank, world_size)) = both("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE")? {
        let job = text(environment, "PMIX_NAMESPACE");
        return Ok(Launched {
            launcher: Launcher::OpenMpi,
            rank: Some(rank),
            world_size: Some(world_size),
            local_rank: of("OMPI_COMM_WORLD_LOCAL_RANK")?,
            local_world_size: of("OMPI_COMM_WORLD_LOCAL_SIZE")?,
            host: None,
            port: Some(port_of(&job)),
            job,
        });
    }
    // The step is what `srun` starts; the script of a batch job has a rank, too, but is alone.
    let slurm = match environment.get("SLURM_STEP_ID") {
        Some(_) => both("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")?,
        None => None,
    };
    let pmi = both("PMI_RANK", "PMI_SIZE")?;
    if let Some(place) = slurm
        && pmi.is_none_or(|pmi| pmi == place)
    {
        return slurm_step(environment, place);
    }
    if let Some((rank, world_size)) = pmi {
        return Ok(Launched {
            launcher: Launcher::Pmi,
            rank: Some(rank),
            world_size: Some(world_size),
            local_rank: of("MPI_LOCALRANKID")?,
            local_world_size: of("MPI_LOCALNRANKS")?,
            host: None,
            port: Some(PORT),
            job: String::new(),
        });
    }
    // Indexed jobs are also made of tasks that know nothing of each other: only with a number of ranks is it one run.
    let index = of("JOB_COMPLETION_INDEX")?.filter(|_| world_size.is_some());
    Ok(Launched {
        launcher: match index {
            Some(_) => Launcher::Kubernetes,
            None => Launcher::Hand,
        },
        rank: index,
        world_size: None,
        local_rank: None,
        local_world_size: None,
        host: None,
        port: None,
        job: String::new(),
    })
}

fn torch(
    environment: &Environment,
    (rank, world_size): (usize, usize),
) -> Result<Launched, LaunchError> {
    let port = number(environment, "MASTER_PORT")?;
    // The agent keeps its own store at this port, and tells so; the next one is free as a rule.
    let taken = environment
        .get("TORCHELASTIC_USE_AGENT_STORE")
        .is_some_and(|value| value == "True");
    let port = port.map(|port| u16::try_from(port + usize::from(taken)));
    let port = port.transpose().map_err(|_| LaunchError::Number {
        variable: "MASTER_PORT".to_owned(),
        value: text(environment, "MASTER_PORT"),
    })?;
    Ok(Launched {
        launcher: Launcher::Torch,
        rank: Some(rank),
        world_size: Some(world_size),
        local_rank: number(environment, "LOCAL_RANK")?,
        local_world_size: number(environment, "LOCAL_WORLD_SIZE")?,
        host: environment.get("MASTER_ADDR").cloned(),
        port,
        job: text(environment, "TORCHELASTIC_RUN_ID"),
    })
}

fn slurm_step(
    environment: &Environment,
    (rank, world_size): (usize, usize),
) -> Result<Launched, LaunchError> {
    let job = format!(
        "{}.{}",
        text(environment, "SLURM_JOB_ID"),
        text(environment, "SLURM_STEP_ID")
    );
    let alone = number(environment, "SLURM_STEP_NUM_NODES")? == Some(1);
    Ok(Launched {
        launcher: Launcher::Slurm,
        rank: Some(rank),
        world_size: Some(world_size),
        local_rank: number(environment, "SLURM_LOCALID")?,
        local_world_size: alone.then_some(world_size),
        host: environment
            .get("SLURM_STEP_NODELIST")
            .map(|nodes| first_node(nodes)),
        port: Some(port_of(&job)),
        job,
    })
}

fn text(environment: &Environment, name: &str) -> String {
    environment.get(name).cloned().unwrap_or_default()
}

/// The first name of a list such as `gpu[03-05,9],login1`: where a step's first task runs.
fn first_node(nodes: &str) -> String {
    match nodes.split_once('[') {
        Some((prefix, rest)) if !prefix.contains(',') => {
            let (numbers, rest) = rest.split_once(']').unwrap_or((rest, ""));
            let number = numbers.split([',', '-']).next().unwrap_or_default();
            let suffix = rest.split(',').next().unwrap_or_default();
            first_node(&format!("{prefix}{number}{suffix}"))
        }
        _ => nodes.split(',').next().unwrap_or_default().to_owned(),
    }
}

/// A port for a job, the same on all ranks and another for another job as a rule, outside the ranges that systems give out
/// themselves (from 32768 on).
fn port_of(job: &str) -> u16 {
    // FNV-1a.
    let hash = job.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    20_000 + (hash % 10_000) as u16
}

#[cfg(test)]
mod tests {
    use super::{first_node, port_of};

    #[test]
    fn the_first_of_a_list_of_nodes() {
        for (nodes, first) in [
            ("vm", "vm"),
            ("a1,a2", "a1"),
            ("gpu[03-05,9],login1", "gpu03"),
            ("gpu[7,9]", "gpu7"),
            ("login1,gpu[03-05]", "login1"),
            ("rack[2-3]node[01-04]", "rack2node01"),
            ("node[1-2].cluster", "node1.cluster"),
        ] {
            assert_eq!(first_node(nodes), first, "{nodes}");
        }
    }

    #[test]
    fn ports_of_jobs_are_outside_the_systems_range_and_differ() {
        let ports: std::collections::HashSet<_> =
            (0..100).map(|job| port_of(&format!("{job}.0"))).collect();
        assert!(ports.len() > 95, "{}", ports.len());
        assert!(ports.iter().all(|port| (20_000..30_000).contains(port)));
    }
}
