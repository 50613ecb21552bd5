//! Ranks of runs that other people lead.

use std::sync::Arc;

use asyncdiff_burn::device::Worker;
use asyncdiff_burn::exchange::Parcel;
use asyncdiff_comm::launch::{Launcher, Place, Rendezvous};
use asyncdiff_comm::network::{Invitation, NetworkPeer, Watch};

use super::Member;
use crate::error::Error;
use crate::pipeline::{Assignment, Run, StableDiffusion};

impl Member<NetworkPeer<Parcel<4>>> {
    /// Takes part in the run that this process is invited to, with whichever of `models` it is of, on `worker`: returns when all is
    /// made. `joined` is given what sees failures, once there are ranks that can fail. Who leads the run is told why, if this process
    /// does not take part.
    ///
    /// # Errors
    ///
    /// [`Error::Assignment`] for a run that this process cannot help with; [`Error`] of [`StableDiffusion::plan_on`];
    /// [`Error::Connect`] if the ranks do not meet; [`Error`] of [`Member::join`] and [`Member::serve`].
    pub fn help(
        invitation: Invitation,
        models: &[Arc<StableDiffusion>],
        worker: Worker,
        joined: impl FnOnce(Watch),
    ) -> Result<(), Error> {
        let (pipeline, run) = match understood(invitation.job(), models) {
            Ok(understood) => understood,
            Err(error) => {
                invitation.refuse(&error.to_string());
                return Err(error);
            }
        };
        let place = Place {
            rank: invitation.rank(),
            world_size: invitation.world_size(),
            local_rank: 0,
            local_world_size: 1,
            // Where rank 0 is needs no telling: it has come here.
            rendezvous: Rendezvous::loopback(0),
            job: String::new(),
            launcher: Launcher::Hand,
        };
        let peers = invitation.accept(&run.joining(&place, None))?;
        joined(peers.watch());
        Self::join(&pipeline, worker, &run, peers)?.serve(&run)
    }
}

fn understood(
    text: &str,
    models: &[Arc<StableDiffusion>],
) -> Result<(Arc<StableDiffusion>, Run), Error> {
    let assignment = Assignment::of_text(text)?;
    let pipeline = assignment.model(models)?;
    let run = assignment.plan(&pipeline)?;
    Ok((pipeline, run))
}
