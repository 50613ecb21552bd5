//! `asyncdiff worker`

use std::sync::Arc;

use asyncdiff_burn::device::Worker as Device;
use asyncdiff_comm::network::Lender;
use asyncdiff_models::{Member, StableDiffusion};

use crate::args::{Devices, Worker};
use crate::model;
use crate::processes::{Watched, end_with_signals};
use crate::setup::{self, Result};

pub fn run(args: &Worker) -> Result<()> {
    let secret = setup::secret(args.secret_file.as_deref())?;
    let name = device(&args.devices)?.name().to_owned();
    let models = models(args)?;
    let mut lender = Lender::listen(&args.listen, secret.as_ref())?;
    let watched = Watched::default();
    end_with_signals(&watched)?;
    if !args.quiet {
        say!("{name} waits at {}", args.listen)?;
    }
    loop {
        let invitation = lender.wait()?;
        let from = invitation.from();
        let helped = device(&args.devices).and_then(|device| {
            let joined = |watch| watched.set(Some(watch));
            Ok(Member::help(invitation, &models, device, joined)?)
        });
        watched.set(None);
        match helped {
            Ok(()) if args.quiet => {}
            Ok(()) => say!("helped {from}")?,
            // Whoever comes next has nothing to do with it.
            Err(error) => complain!("error: the run of {from} has ended: {error}"),
        }
    }
}

/// The device that is lent: anew for each run, so that a run leaves nothing behind on it.
fn device(devices: &Devices) -> Result<Device> {
    let mut named =
        setup::named_devices(devices)?.map_or_else(|| setup::cpu_workers(devices, 1), Ok)?;
    match named.len() {
        1 => Ok(named.remove(0)),
        found => Err(format!(
            "a worker lends one device, and {found} are named: start one for each, with a port of its own"
        )
        .into()),
    }
}

/// All models that may be used.
fn models(args: &Worker) -> Result<Vec<Arc<StableDiffusion>>> {
    let mut models = Vec::new();
    for name in &args.model {
        let model = model::open(Some(name), &args.files, args.quiet)?;
        models.push(Arc::new(model));
    }
    if cfg!(feature = "embedded") {
        let model = model::open(None, &args.files, args.quiet)?;
        let adapter = model::open_adapter(model::MotionSource::Embedded, args.quiet)?;
        models.push(Arc::new(model.with_motion(adapter)?));
    }
    match models.is_empty() {
        true => Err("this program was built without the embedded model: name a model that may be used with --model".into()),
        false => Ok(models),
    }
}
