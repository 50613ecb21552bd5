//! What a person says of how a run is to be spread, before the denoiser's blocks are known.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::graph::SegmentGraph;
use crate::machine::Machine;
use crate::partition::{Partition, PartitionError};
use crate::plan::{AsyncDiff, Copies, Plan, PlanError, Ring, Setting, ThroughSegments};

/// How a run is spread over ranks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Strategy {
    /// Whether the negative and the positive prompt's half of the batch are computed by ranks of their own. Exact.
    pub guidance_split: bool,
    /// How the denoiser is spread, for each half if they are split.
    pub spread: Spread,
}

/// How the denoiser is spread over ranks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spread {
    /// Not at all.
    #[default]
    Whole,
    /// Ring look-ahead over two ranks; with `one_deep`, over three for both halves of split guidance.
    Ring {
        /// Calls at the start that are run with every input fresh, at least 2.
        warm_up: usize,
        /// One deep rank for both halves.
        one_deep: bool,
    },
    /// Look-ahead with a rank for each copy.
    Copies(Copies),
    /// Look-ahead through segments, with a rank for each.
    ThroughSegments {
        /// Number of segments.
        segments: usize,
        /// Warm-up.
        parameters: ThroughSegments,
    },
    /// The published method: a rank for each segment, and one more with stride 2.
    AsyncDiff {
        /// Which segment owns which block.
        partition: PartitionChoice,
        /// Warm-up, stride, time shift, forecast.
        parameters: AsyncDiff,
    },
}

/// Where the partition comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PartitionChoice {
    /// The published table with that many segments, or the balanced partition where no table fits the denoiser's structure.
    Published(usize),
    /// That many segments of equal cost.
    Balanced(usize),
    /// Block names, or prefixes of them, to segments.
    Map(BTreeMap<String, usize>),
}

impl PartitionChoice {
    /// `published`, `balanced` or `custom`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            PartitionChoice::Published(_) => "published",
            PartitionChoice::Balanced(_) => "balanced",
            PartitionChoice::Map(_) => "custom",
        }
    }

    /// The partition.
    ///
    /// # Errors
    ///
    /// As [`Partition::published`], [`Partition::balanced`] and [`Partition::from_map`].
    pub fn resolve(
        &self,
        graph: &SegmentGraph,
        machine: &Machine,
    ) -> Result<Partition, PartitionError> {
        match self {
            PartitionChoice::Published(segments) if !self.falls_back(graph) => {
                Partition::published(graph, *segments)
            }
            PartitionChoice::Published(segments) | PartitionChoice::Balanced(segments) => {
                Partition::balanced(graph, machine, *segments)
            }
            PartitionChoice::Map(map) => Partition::from_map(graph, map),
        }
    }

    /// Whether this is the balanced partition for want of a published one.
    #[must_use]
    pub fn falls_back(&self, graph: &SegmentGraph) -> bool {
        matches!(self, PartitionChoice::Published(2..))
            && Partition::all_published(graph).is_empty()
    }
}

impl Spread {
    /// Two ranks of a ring look-ahead.
    #[must_use]
    pub fn ring() -> Self {
        Self::Ring {
            warm_up: 2,
            one_deep: false,
        }
    }

    /// A rank for each of that many copies.
    #[must_use]
    pub fn copies(copies: usize) -> Self {
        Self::Copies(Copies::new(copies))
    }

    /// A rank for each of that many segments, with calls under way through them.
    #[must_use]
    pub fn through_segments(segments: usize) -> Self {
        Self::ThroughSegments {
            segments,
            parameters: ThroughSegments::new(segments),
        }
    }

    /// That many segments of the published partition, with the default parameters.
    #[must_use]
    pub fn segments(segments: usize) -> Self {
        Self::AsyncDiff {
            partition: PartitionChoice::Published(segments),
            parameters: AsyncDiff::default(),
        }
    }
}

impl From<Spread> for Strategy {
    /// Without a split.
    fn from(spread: Spread) -> Self {
        Self {
            guidance_split: false,
            spread,
        }
    }
}

impl Strategy {
    /// One rank, every input fresh.
    #[must_use]
    pub fn sequential() -> Self {
        Self::default()
    }

    /// The published method: that many segments of the published partition, with the default parameters.
    #[must_use]
    pub fn segments(segments: usize) -> Self {
        Spread::segments(segments).into()
    }

    /// The same with guidance split.
    #[must_use]
    pub fn split(self) -> Self {
        Self {
            guidance_split: true,
            ..self
        }
    }

    /// Whether this is the ordinary run on one rank.
    #[must_use]
    pub fn is_sequential(&self) -> bool {
        *self == Self::sequential()
    }

    /// The plan for a setting (whose own split is not looked at), balanced for `machine`.
    ///
    /// # Errors
    ///
    /// [`PlanError`] of the builder.
    pub fn plan(&self, setting: &Setting<'_>, machine: &Machine) -> Result<Plan, PlanError> {
        let setting = &Setting {
            split: self.guidance_split,
            ..*setting
        };
        let graph = setting.graph;
        match &self.spread {
            Spread::Whole => Plan::sequential(setting),
            Spread::Ring { warm_up, one_deep } => {
                let ring = Ring::new(setting, machine, *one_deep)?;
                let warm_up = *warm_up;
                Plan::ring(setting, &Ring { warm_up, ..ring })
            }
            Spread::Copies(copies) => Plan::copies(setting, copies),
            Spread::ThroughSegments {
                segments,
                parameters,
            } => {
                let partition = Partition::contiguous(graph, machine, *segments)?;
                Plan::through_segments(setting, &partition, parameters)
            }
            Spread::AsyncDiff {
                partition,
                parameters,
            } => {
                let partition = partition.resolve(graph, machine)?;
                Plan::asyncdiff(setting, &partition, parameters)
            }
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.guidance_split, &self.spread) {
            (true, Spread::Whole) => return f.write_str("guidance split"),
            (true, _) => f.write_str("guidance split x ")?,
            (false, _) => {}
        }
        match &self.spread {
            Spread::Whole => f.write_str("sequential"),
            Spread::Ring { warm_up, one_deep } => {
                let deep = if *one_deep { " with one deep rank" } else { "" };
                write!(f, "ring{deep}, warm-up {warm_up}")
            }
            Spread::Copies(Copies {
                copies, warm_up, ..
            }) => write!(f, "{copies} copies, warm-up {warm_up}"),
            Spread::ThroughSegments {
                segments,
                parameters,
            } => {
                let warm_up = parameters.warm_up;
                write!(f, "through {segments} segments, warm-up {warm_up}")
            }
            Spread::AsyncDiff {
                partition,
                parameters,
            } => {
                let AsyncDiff {
                    stride,
                    warm_up,
                    time_shift,
                    forecast,
                } = parameters;
                let shifted = if *time_shift { " shifted" } else { "" };
                let segments = match partition {
                    PartitionChoice::Published(segments) | PartitionChoice::Balanced(segments) => {
                        *segments
                    }
                    PartitionChoice::Map(map) => map.values().max().map_or(0, |last| last + 1),
                };
                write!(
                    f,
                    "n={segments} stride {stride} warm-up {warm_up}{shifted} forecast {forecast}"
                )?;
                match partition {
                    PartitionChoice::Published(_) => Ok(()),
                    other => write!(f, " {}", other.name()),
                }
            }
        }
    }
}
