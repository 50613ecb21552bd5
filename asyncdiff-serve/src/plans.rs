//! Which plan a request gets. Plans are made once for every shape.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use asyncdiff_core::choice::Preference;
use asyncdiff_core::scheduler::ScheduleError;
use asyncdiff_models::{
    Choices, Error, MeasuredMachine, RequestError, Run, Shape, Spread, StableDiffusion, Strategy,
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::catalog::Model;
use crate::refusal::Refusal;

/// What a plan is chosen by.
#[derive(Clone, Debug, Default)]
pub struct Planning {
    /// Which of two plans is chosen where one is more alike and the other one sooner.
    pub prefer: Preference,
    /// Bytes of each device's memory, if they are known.
    pub memory: Option<u64>,
    /// A machine that was measured, if one was.
    pub machine: Option<MeasuredMachine>,
}

/// The plan that is chosen for the devices.
pub(crate) const AUTO: &str = "auto";

/// How many plans are kept.
const KEPT: usize = 64;

/// A plan that a request may name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct PlanName {
    /// What the request says.
    pub value: String,
    /// What a person reads.
    pub label: String,
}

/// Plans runs.
#[derive(Debug)]
pub(crate) struct Planner {
    planning: Planning,
    /// How many devices every run has.
    devices: usize,
    kept: Mutex<Vec<Kept>>,
}

#[derive(Debug)]
struct Kept {
    model: usize,
    shape: Shape,
    name: String,
    run: Arc<Run>,
}

impl Planner {
    pub fn new(planning: Planning, devices: usize) -> Self {
        Self {
            planning,
            devices,
            kept: Mutex::default(),
        }
    }

    /// The run of a shape by the plan of that name.
    pub fn plan(&self, model: &Model, shape: &Shape, name: &str) -> Result<Arc<Run>, Refusal> {
        let same =
            |kept: &Kept| kept.model == model.index && kept.name == name && kept.shape == *shape;
        if let Some(kept) = self.kept().iter().find(|kept| same(kept)) {
            return Ok(Arc::clone(&kept.run));
        }
        // Not under the lock: a big model's plan takes a while.
        let pipeline = model.pipeline()?;
        let strategy = self.strategy(&pipeline, shape, name)?;
        let machine = self.planning.machine.as_ref();
        let run = pipeline.plan_on(machine, shape, &strategy);
        let run = Arc::new(run.map_err(|error| wrong(&error))?);
        let mut kept = self.kept();
        if kept.len() >= KEPT {
            kept.remove(0);
        }
        kept.push(Kept {
            model: model.index,
            shape: shape.clone(),
            name: name.to_owned(),
            run: Arc::clone(&run),
        });
        Ok(run)
    }

    /// The run of several requests in one batch, each of which would have `run` alone.
    ///
    /// # Errors
    ///
    /// Whatever speaks against it, such as the devices' memory.
    pub fn together(
        &self,
        pipeline: &StableDiffusion,
        run: &Run,
        requests: usize,
    ) -> Result<Run, Error> {
        let mut shape = run.shape.clone();
        shape.num_images *= requests;
        let Planning {
            memory, machine, ..
        } = &self.planning;
        let run = pipeline.plan_on(machine.as_ref(), &shape, &run.strategy)?;
        let ranks = run.summary.ranks.iter();
        let least = ranks.map(|rank| rank.weight_bytes.saturating_add(rank.activation_bytes));
        let least = least.max().unwrap_or(0);
        match *memory {
            Some(memory) if least > memory => Err(Error::Memory { memory, least }),
            _ => Ok(run),
        }
    }

    /// The plans that requests of a shape may name.
    pub fn names(&self, model: &Model, shape: &Shape) -> Result<Vec<PlanName>, Refusal> {
        let auto = PlanName {
            value: AUTO.to_owned(),
            label: "chosen for you".to_owned(),
        };
        let choices = self.choices(&*model.pipeline()?, shape)?;
        let names = choices
            .candidates
            .iter()
            .map(|candidate| name(&candidate.strategy));
        let names = names.map(|value| PlanName {
            label: label(&value),
            value,
        });
        Ok(std::iter::once(auto).chain(names).collect())
    }

    fn strategy(
        &self,
        pipeline: &StableDiffusion,
        shape: &Shape,
        wanted: &str,
    ) -> Result<Strategy, Refusal> {
        if wanted == AUTO && self.devices == 1 {
            return Ok(Strategy::sequential());
        }
        let choices = self.choices(pipeline, shape)?;
        if wanted == AUTO {
            let chosen = choices.chosen().map_err(|error| wrong(&error))?;
            return Ok(chosen.strategy.clone());
        }
        let mut candidates = choices.candidates.iter();
        match candidates.find(|candidate| name(&candidate.strategy) == wanted) {
            Some(candidate) => Ok(candidate.strategy.clone()),
            None => {
                let names = choices.candidates.iter();
                let names = names.map(|candidate| name(&candidate.strategy));
                let names: Vec<_> = std::iter::once(AUTO.to_owned()).chain(names).collect();
                Err(Refusal::field(
                    "plan",
                    format!(
                        "this picture cannot be made by that plan on {} devices: use {}",
                        self.devices,
                        names.join(", ")
                    ),
                ))
            }
        }
    }

    /// What there is to choose from on as many devices as there are.
    fn choices(&self, pipeline: &StableDiffusion, shape: &Shape) -> Result<Choices, Refusal> {
        let Planning {
            prefer,
            memory,
            machine,
        } = &self.planning;
        let choices = pipeline.choices(machine.as_ref(), shape, self.devices, *prefer, *memory);
        choices.map_err(|error| wrong(&error))
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is wrong with a request that cannot be planned, or made.
pub(crate) fn wrong(error: &Error) -> Refusal {
    match error {
        Error::Request(request) => Refusal {
            field: of_request(request).map(Into::into),
            ..Refusal::bad(error.to_string())
        },
        Error::Schedule(schedule) => Refusal {
            field: Some(Cow::Borrowed(match schedule {
                ScheduleError::Name(_) | ScheduleError::Class(_) => "scheduler",
                _ => "steps",
            })),
            ..Refusal::bad(error.to_string())
        },
        Error::Plan(_) | Error::Partition(_) => Refusal::field("plan", error.to_string()),
        Error::NotFinite | Error::Memory { .. } | Error::TooMuchMemory { .. } => {
            Refusal::bad(error.to_string())
        }
        _ => Refusal::internal("this picture cannot be made", error),
    }
}

/// The field that a request's error is about.
fn of_request(error: &RequestError) -> Option<&'static str> {
    match error {
        RequestError::Size { side, .. } => Some(side),
        RequestError::TooManyFrames { .. } | RequestError::NeedsMotionAdapter(_) => Some("frames"),
        RequestError::Guidance(_) => Some("guidance_scale"),
        RequestError::Strength(_) => Some("strength"),
        RequestError::NeedsMask => Some("mask"),
        RequestError::NeedsPicture => Some("init_image"),
        RequestError::ReadsNoText => Some("prompt"),
        _ => None,
    }
}

/// What requests call a strategy with its usual parameters.
fn name(strategy: &Strategy) -> String {
    let spread = match &strategy.spread {
        Spread::Whole => match strategy.guidance_split {
            true => return "guidance-split".to_owned(),
            false => return "one".to_owned(),
        },
        Spread::Ring { one_deep: true, .. } => "ring-3".to_owned(),
        Spread::Ring { .. } => "ring".to_owned(),
        Spread::Copies(copies) => format!("copies-{}", copies.copies),
        Spread::ThroughSegments { segments, .. } => format!("through-{segments}"),
        Spread::AsyncDiff { partition, .. } => match partition {
            asyncdiff_models::PartitionChoice::Published(segments)
            | asyncdiff_models::PartitionChoice::Balanced(segments) => {
                format!("asyncdiff-{segments}")
            }
            asyncdiff_models::PartitionChoice::Map(_) => "asyncdiff".to_owned(),
        },
    };
    match strategy.guidance_split {
        true => format!("split-{spread}"),
        false => spread,
    }
}

fn label(name: &str) -> String {
    match name {
        "one" => return "one device".to_owned(),
        "guidance-split" => return "guidance split".to_owned(),
        _ => {}
    }
    let (split, spread) = match name.strip_prefix("split-") {
        Some(spread) => ("guidance split x ", spread),
        None => ("", name),
    };
    let spread = match spread.split_once('-') {
        Some(("ring", _)) => "ring with one deep device".to_owned(),
        Some(("copies", count)) => format!("{count} copies"),
        Some(("through", count)) => format!("through {count} segments"),
        Some(("asyncdiff", count)) => format!("AsyncDiff, {count} segments"),
        _ => spread.to_owned(),
    };
    format!("{split}{spread}")
}
