//! Which segment owns which block.

mod tables;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::graph::{BlockId, Input, SegmentGraph};
use crate::machine::Machine;
use crate::quoted;
use tables::TABLES;

/// An owner for every block of a graph. Segments are numbered from 0 and need not be contiguous.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Partition {
    segment_of: Vec<usize>,
    segments: usize,
}

/// Why a graph cannot be partitioned as asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PartitionError {
    /// The partition was made for another graph.
    #[error("the partition has {partition} blocks, the graph has {graph}")]
    Mismatch {
        /// Blocks in the partition.
        partition: usize,
        /// Blocks in the graph.
        graph: usize,
    },
    /// No segment at all.
    #[error("0 segments are not possible: use at least 1")]
    NoSegments,
    /// More segments than blocks.
    #[error(
        "{segments} segments are not possible: the denoiser has {blocks} blocks, and every segment needs one"
    )]
    TooMany {
        /// Segments asked for.
        segments: usize,
        /// Blocks in the graph.
        blocks: usize,
    },
    /// The published tables for this structure do not have that many segments.
    #[error(
        "no published partition of this denoiser has {segments} segments, only {available:?}: use one of these, or the balanced partition"
    )]
    NoTable {
        /// Segments asked for.
        segments: usize,
        /// Segment counts that are published.
        available: Vec<usize>,
    },
    /// No published table fits the structure.
    #[error(
        "no published partition fits the structure of this denoiser: use the balanced partition, or a map of your own"
    )]
    NoFit,
    /// A block→segment map names a block that does not exist.
    #[error(
        "the partition names {found:?}, which is no block of this denoiser; blocks are named as \"down_blocks.0.resnets.1\"",
        found = quoted(.0)
    )]
    UnknownBlock(String),
    /// A block→segment map leaves a block out.
    #[error("the partition gives no segment for block {found:?}: name it, or a prefix of it", found = quoted(.0))]
    Unassigned(String),
    /// A segment number without blocks.
    #[error(
        "segment {segment} of the partition owns no block: number segments 0 to {last} without a gap"
    )]
    EmptySegment {
        /// The segment.
        segment: usize,
        /// The highest segment number in the map.
        last: usize,
    },
}

impl Partition {
    /// One segment that owns everything: the sequential run.
    #[must_use]
    pub fn single(graph: &SegmentGraph) -> Self {
        Self {
            segment_of: vec![0; graph.blocks.len()],
            segments: 1,
        }
    }

    /// The partition that the AsyncDiff authors published for denoisers of this structure (paper, appendix; code
    /// `pipe_config`).
    ///
    /// A table fits a graph if it was made for the same [`Structure`](crate::graph::Structure), each of its entries names at least one block, and
    /// every block is named exactly once.
    ///
    /// # Errors
    ///
    /// [`PartitionError::NoFit`] if no table fits; [`PartitionError::NoTable`] if those that fit have other numbers of
    /// segments; errors of [`Partition::balanced`] for numbers that no partition can have.
    pub fn published(graph: &SegmentGraph, segments: usize) -> Result<Self, PartitionError> {
        check_count(graph, segments)?;
        if segments == 1 {
            return Ok(Self::single(graph));
        }
        let fitting = Self::all_published(graph);
        if fitting.is_empty() {
            return Err(PartitionError::NoFit);
        }
        let available = fitting.iter().map(|table| table.segments).collect();
        fitting
            .into_iter()
            .find(|table| table.segments == segments)
            .ok_or(PartitionError::NoTable {
                segments,
                available,
            })
    }

    /// All published partitions that fit the graph, in ascending number of segments.
    #[must_use]
    pub fn all_published(graph: &SegmentGraph) -> Vec<Self> {
        TABLES
            .iter()
            .filter(|(structure, _)| *structure == graph.structure)
            .filter_map(|(_, table)| Self::from_table(graph, table))
            .collect()
    }

    fn from_table(graph: &SegmentGraph, table: &[&[&str]]) -> Option<Self> {
        let mut segment_of = vec![None; graph.blocks.len()];
        for (segment, entries) in table.iter().enumerate() {
            for entry in *entries {
                let mut found = false;
                for (id, block) in graph.iter() {
                    if covers(entry, &block.name) {
                        found = true;
                        if segment_of[id.0].replace(segment).is_some() {
                            return None;
                        }
                    }
                }
                if !found {
                    return None;
                }
            }
        }
        Some(Self {
            segment_of: segment_of.into_iter().collect::<Option<_>>()?,
            segments: table.len(),
        })
    }

    /// The partition whose slowest segment is the fastest on `machine`, contiguous or circular: the last segment may also own
    /// the first blocks. Of partitions within 1 % of it, the one of which the least crosses between segments.
    ///
    /// # Errors
    ///
    /// [`PartitionError::NoSegments`] and [`PartitionError::TooMany`].
    pub fn balanced(
        graph: &SegmentGraph,
        machine: &Machine,
        segments: usize,
    ) -> Result<Self, PartitionError> {
        check_count(graph, segments)?;
        let blocks = graph.blocks.len();
        // With the first `offset` blocks behind the last one, a circular partition is a contiguous one.
        let offsets = if segments == 1 {
            0..1
        } else {
            0..blocks - segments + 1
        };
        let all: Vec<_> = offsets
            .map(|offset| {
                let mut time = machine.block_time.clone();
                time.rotate_left(offset);
                let (slowest, mut segment_of) = contiguous(&time, segments, offset);
                segment_of.rotate_right(offset);
                let partition = Self {
                    segment_of,
                    segments,
                };
                (slowest, partition)
            })
            .collect();
        let fastest = all
            .iter()
            .map(|(time, _)| *time)
            .fold(f64::INFINITY, f64::min);
        let close = all.into_iter().filter(|(time, _)| *time <= 1.01 * fastest);
        let best = close.min_by_key(|(_, partition)| partition.crossing(graph));
        Ok(best.map_or_else(|| Self::single(graph), |(_, partition)| partition))
    }

    /// The contiguous partition whose slowest segment is the fastest on `machine`.
    ///
    /// # Errors
    ///
    /// [`PartitionError::NoSegments`] and [`PartitionError::TooMany`].
    pub fn contiguous(
        graph: &SegmentGraph,
        machine: &Machine,
        segments: usize,
    ) -> Result<Self, PartitionError> {
        check_count(graph, segments)?;
        let (_, segment_of) = contiguous(&machine.block_time, segments, 0);
        Ok(Self {
            segment_of,
            segments,
        })
    }

    /// Elements that move between segments in a call: every output once to each other segment that reads it.
    fn crossing(&self, graph: &SegmentGraph) -> u64 {
        let mut moved = BTreeSet::new();
        for (id, block) in graph.iter() {
            for input in &block.inputs {
                if let Input::Block(read) = input
                    && self.owner(*read) != self.owner(id)
                {
                    moved.insert((*read, self.owner(id)));
                }
            }
        }
        moved
            .iter()
            .map(|(read, _)| graph.block(*read).elements())
            .sum()
    }

    /// A partition of your own: block names, or prefixes of them such as `down_blocks.0`, to segment numbers. Where
    /// several entries cover a block, the longest decides.
    ///
    /// # Errors
    ///
    /// [`PartitionError::UnknownBlock`], [`PartitionError::Unassigned`], [`PartitionError::EmptySegment`].
    pub fn from_map(
        graph: &SegmentGraph,
        map: &BTreeMap<String, usize>,
    ) -> Result<Self, PartitionError> {
        if let Some(unknown) = map
            .keys()
            .find(|entry| !graph.blocks.iter().any(|block| covers(entry, &block.name)))
        {
            return Err(PartitionError::UnknownBlock(unknown.clone()));
        }
        let segment_of = graph
            .blocks
            .iter()
            .map(|block| {
                map.iter()
                    .filter(|(entry, _)| covers(entry, &block.name))
                    .max_by_key(|(entry, _)| entry.len())
                    .map(|(_, segment)| *segment)
                    .ok_or_else(|| PartitionError::Unassigned(block.name.clone()))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let last = segment_of.iter().copied().max().unwrap_or(0);
        if let Some(segment) = (0..=last).find(|segment| !segment_of.contains(segment)) {
            return Err(PartitionError::EmptySegment { segment, last });
        }
        Ok(Self {
            segment_of,
            segments: last + 1,
        })
    }

    /// That this is a partition of `graph`.
    pub(crate) fn check(&self, graph: &SegmentGraph) -> Result<(), PartitionError> {
        let (partition, graph) = (self.segment_of.len(), graph.blocks.len());
        if partition != graph {
            return Err(PartitionError::Mismatch { partition, graph });
        }
        Ok(())
    }

    /// Number of segments.
    #[must_use]
    pub fn segments(&self) -> usize {
        self.segments
    }

    /// The segment of every block, in graph order.
    #[must_use]
    pub fn segment_of(&self) -> &[usize] {
        &self.segment_of
    }

    /// The segment that owns a block.
    ///
    /// # Panics
    ///
    /// If the block belongs to a larger graph.
    #[must_use]
    pub fn owner(&self, block: BlockId) -> usize {
        self.segment_of[block.0]
    }
}

fn check_count(graph: &SegmentGraph, segments: usize) -> Result<(), PartitionError> {
    let blocks = graph.blocks.len();
    match segments {
        0 => Err(PartitionError::NoSegments),
        _ if segments > blocks => Err(PartitionError::TooMany { segments, blocks }),
        _ => Ok(()),
    }
}

/// Whether a table entry (a module path, with or without `.*` behind it) names the block or a module above it.
fn covers(entry: &str, block: &str) -> bool {
    let entry = entry.strip_suffix(".*").unwrap_or(entry);
    block
        .strip_prefix(entry)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The sums of the first 0, 1, … of `times`.
pub(crate) fn running_sum(times: &[f64]) -> Vec<f64> {
    let mut sums = vec![0.0];
    for time in times {
        sums.push(sums[sums.len() - 1] + time);
    }
    sums
}

/// The contiguous partition of a list of times whose largest segment is the smallest, and how large that is. The last segment
/// has at least the last `least` entries.
fn contiguous(times: &[f64], segments: usize, least: usize) -> (f64, Vec<usize>) {
    let blocks = times.len();
    let before = running_sum(times);
    // largest[end]: the smallest possible largest segment when the first `end` blocks form `count` segments;
    // cuts[count][end]: where its last segment begins.
    let mut largest = before.clone();
    let mut cuts = vec![vec![0; blocks + 1]];
    for count in 2..=segments {
        let mut next = vec![f64::INFINITY; blocks + 1];
        let mut cut = vec![0; blocks + 1];
        let (first_end, most) = if count == segments {
            (blocks, blocks - least)
        } else {
            (count, blocks)
        };
        for end in first_end..=blocks {
            for start in count - 1..end.min(most + 1) {
                let worst = largest[start].max(before[end] - before[start]);
                if worst < next[end] {
                    next[end] = worst;
                    cut[end] = start;
                }
            }
        }
        largest = next;
        cuts.push(cut);
    }
    let mut segment_of = vec![0; blocks];
    let mut end = blocks;
    for segment in (0..segments).rev() {
        let start = cuts[segment][end];
        segment_of[start..end].fill(segment);
        end = start;
    }
    (largest[blocks], segment_of)
}
