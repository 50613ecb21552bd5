//! A shape, planned.

use asyncdiff_comm::launch::Place;
use asyncdiff_comm::network::{Secret, Setup, digest};
use asyncdiff_comm::{Element, Form, Transfer};
use asyncdiff_core::plan::{Value, Versioned};
use asyncdiff_core::{Plan, Schedule, SegmentGraph, Strategy, Summary};

use crate::dtype::Dtype;
use crate::request::Shape;

/// A shape, planned: everything that will be done, and what it should cost. With any [`Content`](crate::Content) of that shape
/// it is the same.
#[derive(Clone, Debug)]
pub struct Run {
    /// What is to be made.
    pub shape: Shape,
    /// The denoiser's blocks at the shape's size.
    pub graph: SegmentGraph,
    /// The noise scheduler's coefficients.
    pub schedule: Schedule,
    /// How it was to be spread.
    pub strategy: Strategy,
    /// Who does what.
    pub plan: Plan,
    /// The plan in figures.
    pub summary: Summary,
    /// The noise scheduler's class in diffusers.
    pub scheduler: String,
    /// What the denoiser and the text encoders compute in.
    pub dtype: Dtype,
    /// Whether no published partition fits, and the balanced one was taken.
    pub fell_back: bool,
}

impl Run {
    /// Shape and element type that a value has when one rank sends it to another.
    #[must_use]
    pub fn form(&self, what: Versioned) -> Form {
        let element = match what.value {
            Value::Block(_) => self.dtype.element(),
            // Whatever the blocks compute in, sums are f32.
            _ => Element::F32,
        };
        Form::new(self.graph.shape(what), element)
    }

    /// All messages of the plan, in the one order of [`Plan::transfers`].
    #[must_use]
    pub fn transfers(&self) -> Vec<Transfer> {
        let messages = self.plan.transfers().into_iter();
        messages
            .map(|message| Transfer {
                from: message.from,
                to: message.to,
                tag: message.what.tag(),
                form: self.form(message.what),
            })
            .collect()
    }

    /// How the process at `place` joins the others that have planned the same: program and plan are compared before anything
    /// runs, and no message may be larger than what the plan needs.
    #[must_use]
    pub fn joining(&self, place: &Place, secret: Option<Secret>) -> Setup {
        let sent = self.transfers();
        let sizes = sent.iter().filter_map(|transfer| transfer.form.bytes());
        let mut setup = Setup::new(place.rank, place.world_size, place.rendezvous.clone());
        setup.secret = secret;
        setup.largest = sizes.max().unwrap_or(0).max(LARGEST_TOLD);
        setup.facts = [
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("job", place.job.clone()),
            ("plan", self.digest()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        setup
    }

    /// What tells this run from others: of its shape, its graph, its plan and what it computes in.
    fn digest(&self) -> String {
        let text = serde_json::to_vec(&(&self.shape, &self.graph, &self.plan, self.dtype));
        digest(&text.unwrap_or_default())[..16].to_owned()
    }
}

/// More bytes than any tensor has that the denoiser is told beside the latents: texts and masks of a large batch.
const LARGEST_TOLD: usize = 256 << 20;
