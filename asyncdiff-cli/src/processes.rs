//! Runs whose ranks are processes: this one, those that it starts, and those that others start.

use std::env;
use std::ffi::OsString;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use asyncdiff_burn::exchange::Parcel;
use asyncdiff_comm::launch::{self, Environment, Launcher, Place, Rendezvous};
use asyncdiff_comm::network::{self, ConnectError, Guests, NetworkPeer, Secret, Watch};
use asyncdiff_models::device::{Worker, workers};
use asyncdiff_models::{
    Assignment, Content, Error, MeasuredMachine, Member, Output, Previewer, Progress, Run, Session,
    Shape, StableDiffusion, Strategy,
};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::args::{Devices, Ranks};
use crate::setup::{self, Result};

/// Set for a process that another one has started, which ends when its standard input does.
const STARTED: &str = "ASYNCDIFF_STARTED";
/// How long a rank may take to end by itself once another one has failed.
const END: Duration = Duration::from_secs(1);

/// This process as one of several.
pub struct Together {
    place: Place,
    secret: Option<Secret>,
    /// Of a process that starts others.
    listener: Option<TcpListener>,
    /// Where those wait that lend their devices: the ranks 1, 2, ….
    lent: Vec<Rendezvous>,
    /// What they are told of the run.
    job: String,
    children: Owned,
}

impl Together {
    /// The place of this process, if it is not alone.
    pub fn find(ranks: &Ranks, devices: &Devices) -> Result<Option<Self>> {
        let (own, lent) = setup::lent_devices(devices)?;
        let secret = setup::secret(ranks.secret_file.as_deref())?;
        if let Some(processes) = ranks.processes {
            return match (processes, lent.first()) {
                (0, _) => Err("0 processes cannot run anything: use --processes 1 or more".into()),
                (_, Some(lent)) => Err(format!(
                    "with tcp://{lent}, every device of this machine has a process anyway: leave out --processes"
                )
                .into()),
                (1, _) => Ok(None),
                _ => Self::starting(processes, Vec::new(), Some(Secret::random()?)).map(Some),
            };
        }
        let environment: Environment = env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let place = launch::place(&ranks.settings(), &environment)?;
        let started = environment.contains_key(STARTED);
        match (place, lent.first()) {
            (Some(_), Some(lent)) if !started => Err(format!(
                "tcp://{lent} is a rank of a run that this process leads, and here others are started as ranks: leave out one of both"
            )
            .into()),
            (Some(place), _) => {
                if started {
                    end_with_input();
                }
                Ok(Some(Self {
                    place,
                    secret,
                    listener: None,
                    lent,
                    job: String::new(),
                    children: Owned::default(),
                }))
            }
            (None, None) => Ok(None),
            (None, Some(first)) => {
                let Some(own) = own else {
                    return Err(format!(
                        "this process encodes and decodes, so it needs a device of this machine, too: use --devices cpu+tcp://{first}"
                    )
                    .into());
                };
                let own = workers(&own, devices.threads)?.len();
                Self::starting(own, lent, secret).map(Some)
            }
        }
    }

    /// Rank 0 of a run with that many processes on this machine, of which the others are still to be started.
    fn starting(own: usize, lent: Vec<Rendezvous>, secret: Option<Secret>) -> Result<Self> {
        let listener = match own {
            1 => None,
            _ => Some(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?),
        };
        let address = listener.as_ref().map(TcpListener::local_addr).transpose()?;
        Ok(Self {
            place: Place {
                rank: 0,
                world_size: own + lent.len(),
                local_rank: 0,
                local_world_size: own,
                rendezvous: Rendezvous::loopback(address.map_or(0, |address| address.port())),
                job: String::new(),
                launcher: Launcher::Hand,
            },
            secret,
            listener,
            lent,
            job: String::new(),
            children: Owned::default(),
        })
    }

    /// Plans by what those are told that lend their devices, if there are any: then all plan the same, to the last bit.
    pub fn plan(
        &mut self,
        pipeline: &StableDiffusion,
        shape: &Shape,
        strategy: &Strategy,
        machine: Option<&MeasuredMachine>,
    ) -> Result<Option<Run>> {
        if self.lent.is_empty() {
            return Ok(None);
        }
        self.job = Assignment::new(pipeline, shape, strategy, machine)?.to_text()?;
        let run = Assignment::of_text(&self.job)?.plan(pipeline)?;
        Ok(Some(run))
    }

    /// The devices that others lend, as they are named.
    pub fn lent(&self) -> impl Iterator<Item = String> {
        self.lent.iter().map(|place| format!("tcp://{place}"))
    }

    /// Says what went wrong with those who lend their devices in words that name them.
    fn explain(&self, error: ConnectError) -> Box<dyn std::error::Error> {
        let place = |rank: usize| self.lent.get(rank.checked_sub(1)?);
        match &error {
            ConnectError::Unreachable { rank, source, .. } => match place(*rank) {
                Some(place) => format!(
                    "the worker at {place} cannot be reached: {source}; start it there with asyncdiff worker --listen {place}"
                )
                .into(),
                None => error.into(),
            },
            ConnectError::Refused { rank, reason } => match place(*rank) {
                Some(place) => {
                    format!("the worker at {place} does not take part: {reason}").into()
                }
                None => error.into(),
            },
            _ => error.into(),
        }
    }

    /// Number of processes.
    pub fn processes(&self) -> usize {
        self.place.world_size
    }

    /// Whether this is the process that makes pictures; the others help it.
    pub fn leads(&self) -> bool {
        self.place.rank == 0
    }

    /// This process's worker: its share of those that are named, or of the host's processor.
    pub fn worker(&self, devices: &Devices) -> Result<Worker> {
        let Place {
            local_rank,
            local_world_size,
            ..
        } = self.place;
        let share = || format!("cpu:{local_world_size}");
        let spec = setup::lent_devices(devices)?.0.unwrap_or_else(share);
        let mut workers = workers(&spec, devices.threads)?;
        let found = workers.len();
        match found {
            1 => Ok(workers.remove(0)),
            _ if local_rank < found => Ok(workers.swap_remove(local_rank)),
            _ => Err(format!(
                "process {local_rank} of this host needs a device of its own: {spec} has {found}"
            )
            .into()),
        }
    }

    /// Connects to all others and loads this process's part of `run`.
    pub fn join(
        mut self,
        pipeline: &Arc<StableDiffusion>,
        worker: Worker,
        run: &Run,
    ) -> Result<Joined> {
        let (needed, found) = (run.plan.ranks.len(), self.place.world_size);
        if needed > found {
            return Err(format!(
                "the plan is for {needed} ranks, and there are {found} processes: use as many"
            )
            .into());
        }
        let setup = run.joining(&self.place, self.secret.clone());
        let peers = match self.leads() {
            true => {
                let listener = self.listener.take();
                if listener.is_some() {
                    self.start_others()?;
                }
                let (at, job) = (&self.lent[..], &self.job[..]);
                network::host(&setup, listener, &Guests { at, job })
            }
            false => network::connect(&setup),
        };
        let peers = peers.map_err(|error| self.explain(error))?;
        let watch = peers.watch();
        self.children.0.end_all_if(watch.clone());
        if !self.leads() {
            let watched = Watched::default();
            watched.set(Some(watch));
            end_with_signals(&watched)?;
        }
        Ok(Joined {
            member: Member::join(pipeline, worker, run, peers)?,
            children: self.children,
        })
    }

    /// Starts the other ranks of this machine, the last ones, as this program was started.
    fn start_others(&self) -> Result<()> {
        let program = env::current_exe()?;
        let Place {
            world_size,
            local_world_size,
            rendezvous,
            ..
        } = &self.place;
        let first = 1 + self.lent.len();
        for (local, rank) in (1..).zip(first..*world_size) {
            let mut command = Command::new(&program);
            command
                .args(without_processes(env::args_os().skip(1)))
                .env("ASYNCDIFF_RANK", rank.to_string())
                .env("ASYNCDIFF_LOCAL_RANK", local.to_string())
                .env("ASYNCDIFF_WORLD_SIZE", world_size.to_string())
                .env("ASYNCDIFF_LOCAL_WORLD_SIZE", local_world_size.to_string())
                .env("ASYNCDIFF_RENDEZVOUS", rendezvous.to_string())
                .env(STARTED, "1")
                .stdin(Stdio::piped())
                .stdout(Stdio::null());
            match &self.secret {
                Some(secret) => command.env("ASYNCDIFF_SECRET", secret.reveal()),
                None => command.env_remove("ASYNCDIFF_SECRET"),
            };
            #[cfg(unix)]
            {
                // Ctrl-C is for the first process alone, which ends the run at its next step.
                use std::os::unix::process::CommandExt;
                command.process_group(0);
            }
            let child = command.spawn()?;
            self.children.0.lock().push(child);
        }
        self.children.0.end_all_if_one_does(first);
        Ok(())
    }
}

/// One of several processes, connected and loaded.
pub struct Joined {
    pub member: Member<NetworkPeer<Parcel<4>>>,
    children: Owned,
}

impl Joined {
    /// Ends the run for all: waits for the processes that were started.
    fn finish(self) -> Result<()> {
        let Self { member, children } = self;
        member.finish()?;
        children.0.wait();
        Ok(())
    }
}

/// What makes pictures, wherever its ranks are.
pub enum Maker {
    /// Threads of this process.
    Threads(Box<Session>),
    /// Processes, of which this one leads.
    Processes(Box<Joined>),
}

impl Maker {
    /// Loads what `run` needs on `workers`. A process that only helps another one does so here, until all is made; then there
    /// is nothing left to do.
    pub fn load(
        together: Option<Together>,
        pipeline: &Arc<StableDiffusion>,
        workers: Vec<Worker>,
        run: &Run,
    ) -> Result<Option<Self>> {
        let Some(together) = together else {
            let mut session = Session::new(pipeline, workers)?;
            session.prepare(run)?;
            return Ok(Some(Maker::Threads(Box::new(session))));
        };
        let (leads, rank) = (together.leads(), together.place.rank);
        let worker = workers
            .into_iter()
            .next()
            .ok_or("this process has no device")?;
        let helped = together.join(pipeline, worker, run).and_then(|mut joined| {
            if leads {
                return Ok(Some(Maker::Processes(Box::new(joined))));
            }
            joined.member.serve(run)?;
            Ok(None)
        });
        // The messages of several processes often end up in one place.
        helped.map_err(|error| match leads {
            true => error,
            false => format!("rank {rank} ends: {error}").into(),
        })
    }

    /// [`Session::previewer`].
    pub fn previewer(&self) -> Previewer {
        match self {
            Maker::Threads(session) => session.previewer(),
            Maker::Processes(joined) => joined.member.previewer(),
        }
    }

    /// [`Session::generate`].
    pub fn generate(
        &mut self,
        run: &Run,
        content: &Content,
        progress: &mut dyn Progress,
    ) -> std::result::Result<Output, Error> {
        match self {
            Maker::Threads(session) => session.generate(run, content, progress),
            Maker::Processes(joined) => joined.member.generate(run, content, progress),
        }
    }

    /// [`Member::wire`].
    pub fn wire(&self) -> Option<&str> {
        match self {
            Maker::Threads(_) => None,
            Maker::Processes(joined) => joined.member.wire(),
        }
    }

    /// [`Session::loaded_bytes`], of this process's ranks.
    pub fn loaded_bytes(&self) -> Vec<u64> {
        match self {
            Maker::Threads(session) => session.loaded_bytes(),
            Maker::Processes(joined) => vec![joined.member.loaded_bytes()],
        }
    }

    /// Nothing more will be made.
    pub fn finish(self) -> Result<()> {
        match self {
            Maker::Threads(_) => Ok(()),
            Maker::Processes(joined) => joined.finish(),
        }
    }
}

/// Processes that this one has started. They do not outlive it: when it ends in order it ends them, and otherwise they see their
/// standard input end.
#[derive(Clone, Default)]
struct Children(Arc<Mutex<Vec<Child>>>);

impl Children {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Child>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends all processes if a rank fails and this one does not end by itself soon: it may be in the middle of something long.
    fn end_all_if(&self, watch: Watch) {
        let children = self.clone();
        thread::spawn(move || {
            if let Some(error) = watch.wait() {
                thread::sleep(END);
                children.kill();
                complain!("error: {error}");
                process::exit(1);
            }
        });
    }

    /// Ends all processes if one that was started, the ranks from `first` on, ends with an error: it may not have come so far that
    /// the others know it.
    fn end_all_if_one_does(&self, first: usize) {
        let children = self.clone();
        thread::spawn(move || {
            loop {
                thread::sleep(Duration::from_millis(50));
                let failed = children
                    .lock()
                    .iter_mut()
                    .enumerate()
                    .find_map(|(index, child)| {
                        let status = child.try_wait().ok().flatten()?;
                        (!status.success()).then_some((first + index, status))
                    });
                if let Some((rank, status)) = failed {
                    thread::sleep(END);
                    children.kill();
                    complain!("error: rank {rank} failed: its process ended with {status}");
                    process::exit(1);
                }
            }
        });
    }

    fn kill(&self) {
        for mut child in self.lock().drain(..) {
            // Whoever has ended already needs no more.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Lets them end by themselves.
    fn wait(&self) {
        let start = Instant::now();
        while start.elapsed() < END {
            let mut children = self.lock();
            children.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
            if children.is_empty() {
                return;
            }
            drop(children);
            thread::sleep(Duration::from_millis(5));
        }
        self.kill();
    }
}

/// Ends the processes that were started when it is dropped.
#[derive(Default)]
struct Owned(Children);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.kill();
    }
}

/// The arguments without the flag that says how many processes to start.
fn without_processes(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut value = false;
    for argument in arguments {
        let text = argument.to_string_lossy();
        if std::mem::take(&mut value) || text.starts_with("--processes=") {
            continue;
        }
        if text == "--processes" {
            value = true;
            continue;
        }
        kept.push(argument);
    }
    kept
}

/// Ends this process when the one that started it is gone.
fn end_with_input() {
    thread::spawn(|| {
        let mut nothing = [0];
        while matches!(std::io::stdin().read(&mut nothing), Ok(1..)) {}
        // Where the ranks are connected, it ends by itself and says why.
        thread::sleep(2 * END);
        process::exit(1);
    });
}

/// The run that this process takes part in, if any.
#[derive(Clone, Default)]
pub struct Watched(Arc<Mutex<Option<Watch>>>);

impl Watched {
    pub fn set(&self, watch: Option<Watch>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = watch;
    }

    fn get(&self) -> Option<Watch> {
        let watch = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        watch.clone()
    }
}

/// A process that helps another one and is told to end says so.
pub fn end_with_signals(watched: &Watched) -> Result<()> {
    let asked = [SIGINT, SIGTERM].map(|signal| (signal, Arc::new(AtomicBool::new(false))));
    for (signal, flag) in &asked {
        signal_hook::flag::register(*signal, Arc::clone(flag))?;
    }
    let watched = watched.clone();
    thread::spawn(move || {
        loop {
            thread::sleep(Duration::from_millis(50));
            if let Some((signal, _)) = asked.iter().find(|(_, flag)| flag.load(Ordering::Relaxed)) {
                let name = if *signal == SIGINT {
                    "SIGINT"
                } else {
                    "SIGTERM"
                };
                if let Some(watch) = watched.get() {
                    watch.fail(&format!("it was told to end by {name}"));
                    thread::sleep(END);
                }
                process::exit(128 + signal);
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::without_processes;

    #[test]
    fn others_are_started_with_the_same_arguments_but_for_their_number() {
        for (given, kept) in [
            (
                "generate cat --processes 3 --steps 4",
                "generate cat --steps 4",
            ),
            ("generate --processes=3 cat", "generate cat"),
            ("generate cat", "generate cat"),
        ] {
            let given = given.split(' ').map(OsString::from);
            let kept: Vec<_> = kept.split(' ').map(OsString::from).collect();
            assert_eq!(without_processes(given), kept);
        }
    }
}
