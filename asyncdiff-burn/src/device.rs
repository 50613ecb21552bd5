//! Which devices a run works on: the specification a user types, and the [`Worker`] that each rank gets from it.
//!
//! A specification is one or more groups joined by `+`:
//!
//! ```text
//! spec  = group { "+" group }
//! group = "cpu" [ ":" count ]            workers on Burn's pure-Rust CPU backend
//!       | "cuda" [ ":" indices ]         NVIDIA GPUs
//!       | "wgpu" [ ":" indices ]         Vulkan, Metal or DirectX adapters
//!       | "tch:cpu" [ ":" count ]        workers on LibTorch's CPU kernels
//!       | "tch:cuda" [ ":" indices ]     NVIDIA GPUs through LibTorch
//! indices = index { "," index }
//! ```
//!
//! There is one worker per index, or `count` of them; a bare name is one worker (`cpu` is `cpu:1`, `cuda` is `cuda:0`). So
//! `cuda:2` is the third GPU, while `cpu:2` is two workers: a CPU has no devices to number, only cores to share out.
//! Ranks take the workers in the order written. The same index may stand twice: two ranks then share that GPU, which
//! makes nothing faster but lets one GPU run any plan.
//!
//! The CPU workers split the CPU's threads evenly, each in a pool of its own, and so are separate devices in all but
//! memory.
//!
//! ```
//! # #[cfg(feature = "flex")] {
//! use asyncdiff_burn::device::workers;
//!
//! let workers = workers("cpu:2", Some(4))?;
//! assert_eq!(workers[1].name(), "cpu:1");
//! assert_eq!(workers[1].threads(), Some(2));
//! # }
//! # Ok::<(), asyncdiff_burn::device::DeviceError>(())
//! ```

use asyncdiff_core::quoted;
use std::fmt;
use std::num::NonZero;

use burn::tensor::Device;
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};

/// The most workers that one specification may ask for: far above any published run, low enough that a slip of the
/// keyboard does not exhaust the machine's threads.
const MAX_WORKERS: usize = 256;

/// The most threads that the CPU workers may share.
const MAX_THREADS: usize = 512;

/// One rank's place of work: a device, and for the CPU a thread pool of its own.
///
/// It is not `Clone`: two ranks in one pool could wait for each other forever.
pub struct Worker {
    name: String,
    device: Device,
    pool: Option<ThreadPool>,
}

impl Worker {
    /// The worker's full name, such as `cpu:0`, `cuda:1`, `tch:cpu:0`, `tch:cuda:0` or `wgpu:0`. CPU workers count
    /// from 0 over the whole specification.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The device on which this worker's tensors live.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// How many threads this worker computes with, or `None` where the device is not the CPU.
    pub fn threads(&self) -> Option<usize> {
        self.pool.as_ref().map(ThreadPool::current_num_threads)
    }

    /// Runs `job` on this worker and waits for it.
    ///
    /// A CPU worker runs it inside its pool, so that all tensor operations in it use that pool's threads and no
    /// others. Any other worker runs it on the calling thread, because a CUDA stream belongs to the thread that calls.
    /// A `job` may wait for other ranks: nobody else's work is in the pool.
    pub fn install<R: Send>(&self, job: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            Some(pool) => pool.install(job),
            None => job(),
        }
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("name", &self.name())
            .field("threads", &self.threads())
            .finish_non_exhaustive()
    }
}

/// Why a device specification gives no workers.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// The specification is empty, or has nothing on one side of a `+`.
    #[error("a device name is missing in `{spec}`: write one such as `cpu`, `cpu:2` or `cuda:0,1`", spec = quoted(spec))]
    Missing {
        /// The specification as it was given.
        spec: String,
    },
    /// A group starts with no known name.
    #[error(
        "`{group}` is not a device: write `cpu`, `cuda:0`, `wgpu:0`, `tch:cpu` or `tch:cuda:0`",
        group = quoted(group)
    )]
    Unknown {
        /// The group as it was given.
        group: String,
    },
    /// What follows a known name is not a count or a list of indices.
    #[error("`{group}` is malformed: after `{name}:` comes {expected}", group = quoted(group))]
    Malformed {
        /// The group as it was given.
        group: String,
        /// The name it starts with.
        name: &'static str,
        /// What may follow, with an example.
        expected: &'static str,
    },
    /// A group asks for no workers at all.
    #[error("`{group}` asks for no workers: ask for at least 1, as in `{name}:1`", group = quoted(group))]
    ZeroWorkers {
        /// The group as it was given.
        group: String,
        /// The name it starts with.
        name: &'static str,
    },
    /// The specification asks for more workers than one run may have.
    #[error("`{spec}` asks for more than {MAX_WORKERS} workers: ask for fewer", spec = quoted(spec))]
    TooManyWorkers {
        /// The specification as it was given.
        spec: String,
    },
    /// The CPU's kernels cannot be what the environment asks for.
    #[error(transparent)]
    Kernels(#[from] asyncdiff_kernels::LevelError),
    /// The CPU workers were given no threads.
    #[error(
        "0 CPU threads were given to the workers: give at least 1, or leave the number out to use every core"
    )]
    ZeroThreads,
    /// The CPU workers were given more threads than any machine makes use of.
    #[error(
        "{threads} CPU threads are too many: give at most {MAX_THREADS}, or leave the number out to use every core"
    )]
    TooManyThreads {
        /// How many were asked for.
        threads: usize,
    },
    /// The backend was left out when this program was built.
    #[error(
        "`{name}` needs a backend that this program was built without: build it with `--features {feature}`",
        name = quoted(name)
    )]
    NotCompiled {
        /// The device asked for.
        name: String,
        /// The Cargo feature that compiles its backend in.
        feature: &'static str,
    },
    /// The NVIDIA driver's library cannot be loaded.
    #[error(
        "`{name}` needs the NVIDIA driver, and its library libcuda was not found: install the driver, or use `cpu`",
        name = quoted(name)
    )]
    NoDriver {
        /// The device asked for.
        name: String,
    },
    /// The driver is there and does not work.
    #[error(
        "`{name}` cannot be used because the NVIDIA driver reports {reason}: see whether `nvidia-smi` lists the device",
        name = quoted(name)
    )]
    Driver {
        /// The device asked for.
        name: String,
        /// The driver's own words.
        reason: String,
    },
    /// The machine has fewer devices of this kind.
    #[error("`{name}` does not exist: {} found here, so use {}", found_text(.kind, *.found), remedy(.kind, *.found), name = quoted(name))]
    NoSuchDevice {
        /// The device asked for.
        name: String,
        /// The part of the name before the index.
        kind: &'static str,
        /// How many devices of this kind there are.
        found: usize,
    },
    /// The operating system refused the threads.
    #[error(
        "the {threads} threads of `{name}` could not be started ({reason}): ask for fewer threads or workers",
        name = quoted(name)
    )]
    ThreadPool {
        /// The worker they were meant for.
        name: String,
        /// How many threads it was to have.
        threads: usize,
        /// The operating system's own words.
        reason: ThreadPoolBuildError,
    },
}

fn found_text(kind: &str, found: usize) -> String {
    match found {
        0 => format!("no `{kind}` device was"),
        1 => format!("only 1 `{kind}` device was"),
        _ => format!("only {found} `{kind}` devices were"),
    }
}

fn remedy(kind: &str, found: usize) -> String {
    match found {
        0 => "`cpu`, or install this device's driver".to_owned(),
        1 => format!("`{kind}:0`"),
        _ => format!("`{kind}:0` to `{kind}:{}`", found - 1),
    }
}

/// What a name stands for. The order is that of [`available`].
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Cpu,
    Cuda,
    Wgpu,
    TchCpu,
    TchCuda,
}

impl Kind {
    const ALL: [Kind; 5] = [
        Kind::Cpu,
        Kind::Cuda,
        Kind::Wgpu,
        Kind::TchCpu,
        Kind::TchCuda,
    ];

    fn name(self) -> &'static str {
        match self {
            Kind::Cpu => "cpu",
            Kind::Cuda => "cuda",
            Kind::Wgpu => "wgpu",
            Kind::TchCpu => "tch:cpu",
            Kind::TchCuda => "tch:cuda",
        }
    }

    fn feature(self) -> &'static str {
        match self {
            Kind::Cpu => "flex",
            Kind::Cuda => "cuda",
            Kind::Wgpu => "wgpu",
            Kind::TchCpu | Kind::TchCuda => "tch",
        }
    }

    /// Whether the number in a name counts workers that share the CPU, rather than numbering devices.
    fn is_cpu(self) -> bool {
        matches!(self, Kind::Cpu | Kind::TchCpu)
    }

    /// The devices of this kind on this machine, in the order of their indices. `name` is for the error.
    fn devices(self, name: &str) -> Result<Vec<Device>, DeviceError> {
        match self {
            #[cfg(feature = "flex")]
            Kind::Cpu => Ok(vec![Device::flex()]),
            #[cfg(feature = "cuda")]
            Kind::Cuda => Ok((0..cuda_count(name)?).map(Device::cuda).collect()),
            #[cfg(feature = "wgpu")]
            Kind::Wgpu => Ok(wgpu_adapters()),
            #[cfg(feature = "tch")]
            #[expect(
                deprecated,
                reason = "Burn 0.22 deprecates LibTorch and still ships it"
            )]
            Kind::TchCpu => Ok(vec![Device::libtorch()]),
            #[cfg(feature = "tch")]
            #[expect(
                deprecated,
                reason = "Burn 0.22 deprecates LibTorch and still ships it"
            )]
            Kind::TchCuda => {
                let count = usize::try_from(tch::Cuda::device_count()).unwrap_or(0);
                Ok((0..count).map(Device::libtorch_cuda).collect())
            }
            #[allow(
                unreachable_patterns,
                reason = "with every backend compiled in, nothing is left"
            )]
            _ => Err(DeviceError::NotCompiled {
                name: name.to_owned(),
                feature: self.feature(),
            }),
        }
    }
}

/// How many GPUs the NVIDIA driver has. cudarc panics where the driver's library is missing, so that comes first.
#[cfg(feature = "cuda")]
fn cuda_count(name: &str) -> Result<usize, DeviceError> {
    use cudarc::driver::{CudaContext, sys};

    // SAFETY: this only tries to load the driver's library, under the names it is known by.
    if !unsafe { sys::is_culib_present() } {
        return Err(DeviceError::NoDriver {
            name: name.to_owned(),
        });
    }
    let count = CudaContext::device_count().map_err(|error| DeviceError::Driver {
        name: name.to_owned(),
        reason: match error.error_string() {
            Ok(text) => text.to_string_lossy().into_owned(),
            Err(_) => error.to_string(),
        },
    })?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// The graphics adapters. A software rasterizer is one too, and comes last: `wgpu:0` is a GPU wherever there is one.
#[cfg(feature = "wgpu")]
fn wgpu_adapters() -> Vec<Device> {
    use burn::tensor::{DeviceKind, DeviceType};

    let mut adapters = Device::enumerate(DeviceType::Wgpu).into_vec();
    adapters.sort_by_key(|adapter| *adapter == Device::wgpu(DeviceKind::Cpu));
    adapters
}

/// The workers that `spec` asks for, in the order written. The grammar is at the top of this module.
///
/// `threads` is the number of CPU threads that all CPU workers share (default: every core); each gets
/// `threads / workers` of them, and never less than one. It has no effect on other workers.
///
/// # Errors
///
/// A specification that is empty, malformed or asks for nothing; a backend that was not compiled in; a driver or a
/// device that this machine does not have; and threads that could not be started.
pub fn workers(spec: &str, threads: Option<usize>) -> Result<Vec<Worker>, DeviceError> {
    let groups = parse(spec)?;
    let on_cpu: usize = groups
        .iter()
        .filter(|(kind, _)| kind.is_cpu())
        .map(|(_, indices)| indices.len())
        .sum();
    let threads = match threads {
        Some(0) => return Err(DeviceError::ZeroThreads),
        Some(threads) if threads > MAX_THREADS => {
            return Err(DeviceError::TooManyThreads { threads });
        }
        Some(threads) => threads,
        None => std::thread::available_parallelism().map_or(1, NonZero::get),
    };
    let threads_each = (threads / on_cpu.max(1)).max(1);
    if on_cpu > 0 {
        asyncdiff_kernels::Level::chosen()?;
    }

    let mut workers = Vec::new();
    for (kind, indices) in groups {
        let devices = kind.devices(&full_name(kind, indices[0]))?;
        for index in indices {
            let name = full_name(kind, index);
            let (device, pool) = if kind.is_cpu() {
                (devices.first(), Some(pool(kind, &name, threads_each)?))
            } else {
                (devices.get(index), None)
            };
            let Some(device) = device.cloned() else {
                return Err(DeviceError::NoSuchDevice {
                    name,
                    kind: kind.name(),
                    found: devices.len(),
                });
            };
            workers.push(Worker { name, device, pool });
        }
    }
    Ok(workers)
}

/// The names of the devices that this build can use on this machine, for messages. Never empty for a build with a CPU
/// backend, where it starts with `cpu`.
pub fn available() -> Vec<String> {
    let mut names = Vec::new();
    for kind in Kind::ALL {
        let devices = kind.devices(kind.name()).unwrap_or_default();
        if kind.is_cpu() {
            names.extend(devices.iter().map(|_| kind.name().to_owned()));
        } else {
            names.extend((0..devices.len()).map(|index| full_name(kind, index)));
        }
    }
    names
}

fn full_name(kind: Kind, index: usize) -> String {
    format!("{}:{index}", kind.name())
}

fn pool(kind: Kind, name: &str, threads: usize) -> Result<ThreadPool, DeviceError> {
    let label = name.to_owned();
    ThreadPoolBuilder::new()
        .num_threads(threads)
        .thread_name(move |thread| format!("{label} thread {thread}"))
        .start_handler(move |_| limit_libtorch(kind, threads))
        .build()
        .map_err(|reason| DeviceError::ThreadPool {
            name: name.to_owned(),
            threads,
            reason,
        })
}

/// LibTorch computes on OpenMP threads of its own, as many as the calling thread was last told.
fn limit_libtorch(kind: Kind, threads: usize) {
    #[cfg(feature = "tch")]
    if kind == Kind::TchCpu {
        tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
    }
    #[cfg(not(feature = "tch"))]
    let _ = (kind, threads);
}

/// The groups of `spec` with the indices each asks for: never empty, and neither are its groups' indices.
fn parse(spec: &str) -> Result<Vec<(Kind, Vec<usize>)>, DeviceError> {
    let mut groups = Vec::new();
    let mut numbered = [(Kind::Cpu, 0), (Kind::TchCpu, 0)];
    let mut total = 0;
    for group in spec.split('+').map(str::trim) {
        if group.is_empty() {
            return Err(DeviceError::Missing {
                spec: spec.to_owned(),
            });
        }
        let (kind, rest) = split_name(group).ok_or_else(|| DeviceError::Unknown {
            group: group.to_owned(),
        })?;
        let malformed = |expected| DeviceError::Malformed {
            group: group.to_owned(),
            name: kind.name(),
            expected,
        };

        let indices = if let Some((_, next)) =
            numbered.iter_mut().find(|(counted, _)| *counted == kind)
        {
            let count = rest.map_or(Some(1), number);
            let count = count.ok_or_else(|| malformed("the number of workers, as in `cpu:2`"))?;
            if count == 0 {
                return Err(DeviceError::ZeroWorkers {
                    group: group.to_owned(),
                    name: kind.name(),
                });
            }
            // One more than allowed is enough to be refused below, and cheap to list.
            let first = *next;
            *next += count.min(MAX_WORKERS + 1);
            (first..*next).collect()
        } else {
            let indices: Option<Vec<_>> = rest.map_or_else(
                || Some(vec![0]),
                |rest| rest.split(',').map(number).collect(),
            );
            indices.ok_or_else(|| malformed("the index of each device, as in `cuda:0,1`"))?
        };
        total += indices.len();
        if total > MAX_WORKERS {
            return Err(DeviceError::TooManyWorkers {
                spec: spec.to_owned(),
            });
        }
        groups.push((kind, indices));
    }
    Ok(groups)
}

/// The kind a group names, and what stands after the colon.
fn split_name(group: &str) -> Option<(Kind, Option<&str>)> {
    Kind::ALL
        .into_iter()
        .find_map(|kind| match group.strip_prefix(kind.name())? {
            "" => Some((kind, None)),
            rest => Some((kind, Some(rest.strip_prefix(':')?))),
        })
}

/// A plain decimal number; unlike `str::parse`, no sign.
fn number(text: &str) -> Option<usize> {
    let text = text.trim();
    text.bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| text.parse().ok())?
}
