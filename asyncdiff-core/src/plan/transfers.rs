//! All messages of a plan in one order.

use std::collections::HashSet;

use super::Plan;
use super::action::Action;
use crate::value::Versioned;

/// A value that one rank hands to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Message {
    /// What.
    pub what: Versioned,
    /// The sending rank.
    pub from: usize,
    /// The receiving rank.
    pub to: usize,
}

impl Plan {
    /// One global order of all messages: every rank sends in this order, and no rank that receives in it waits for a message
    /// that waits for a later one. A transport that hands over one message at a time (NCCL) may rely on it.
    ///
    /// Of a plan that is not valid, only the messages that could be sent.
    #[must_use]
    pub fn transfers(&self) -> Vec<Message> {
        let mut order = Vec::new();
        let mut sent = HashSet::new();
        let mut next = vec![0; self.ranks.len()];
        loop {
            let before = order.len();
            let mut progress = false;
            for (rank, list) in self.ranks.iter().enumerate() {
                while let Some(instruction) = list.get(next[rank]) {
                    match instruction.action {
                        Action::Recv { what, from } if !sent.contains(&(what, from, rank)) => break,
                        Action::Send { what, to } => {
                            sent.insert((what, rank, to));
                            order.push(Message {
                                what,
                                from: rank,
                                to,
                            });
                        }
                        _ => {}
                    }
                    next[rank] += 1;
                    progress = true;
                }
            }
            if !progress && order.len() == before {
                return order;
            }
        }
    }
}
