//! The global order of messages, under the rules of a transport that hands over one message at a time.

use std::collections::HashSet;

use asyncdiff_core::plan::Message;
use asyncdiff_core::{Action, Plan};

/// Whether a plan ends where every rank has one stream (NCCL's rules): it takes the rank's messages in the order of
/// [`Plan::transfers`], a message is handed over when it is the next of both its ranks' streams, and a rank that asks for a
/// message has put the receives, and sent the values, that come before it.
pub fn ends_with_one_stream_each(plan: &Plan) -> bool {
    let all = plan.transfers();
    let orders: Vec<Vec<Message>> = (0..plan.ranks.len())
        .map(|rank| {
            let mine = all.iter().filter(|one| one.from == rank || one.to == rank);
            mine.copied().collect()
        })
        .collect();
    let mut streams = Streams {
        asked: vec![0; orders.len()],
        posted: vec![0; orders.len()],
        done: vec![0; orders.len()],
        sent: HashSet::new(),
        orders,
    };
    let mut next = vec![0; plan.ranks.len()];
    loop {
        let mut progress = false;
        for (rank, list) in plan.ranks.iter().enumerate() {
            while let Some(instruction) = list.get(next[rank]) {
                match instruction.action {
                    Action::Send { what, to } => {
                        let from = rank;
                        let message = Message { what, from, to };
                        streams.sent.insert(message);
                        streams.ask(rank, message);
                    }
                    Action::Recv { what, from } => {
                        let to = rank;
                        let place = streams.ask(rank, Message { what, from, to });
                        if streams.posted[rank] <= place {
                            return false;
                        }
                        progress |= streams.hand_over();
                        if streams.done[rank] <= place {
                            break;
                        }
                    }
                    _ => {}
                }
                next[rank] += 1;
                progress = true;
            }
        }
        progress |= streams.hand_over();
        if !progress {
            let ended = |rank: usize| {
                next[rank] == plan.ranks[rank].len()
                    && streams.done[rank] == streams.orders[rank].len()
            };
            return (0..plan.ranks.len()).all(ended);
        }
    }
}

struct Streams {
    orders: Vec<Vec<Message>>,
    asked: Vec<usize>,
    posted: Vec<usize>,
    done: Vec<usize>,
    sent: HashSet<Message>,
}

impl Streams {
    /// Puts into a rank's stream what comes up to `message`, whose place is the result; a value that is not there ends it.
    fn ask(&mut self, rank: usize, message: Message) -> usize {
        let order = &self.orders[rank];
        let place = order.iter().position(|one| *one == message).unwrap();
        self.asked[rank] = self.asked[rank].max(place + 1);
        while self.posted[rank] < self.asked[rank] {
            let first = order[self.posted[rank]];
            if first.from == rank && !self.sent.contains(&first) {
                break;
            }
            self.posted[rank] += 1;
        }
        place
    }

    fn hand_over(&mut self) -> bool {
        let mut any = false;
        loop {
            let front = |rank: usize| {
                let waits = self.done[rank] < self.posted[rank];
                waits.then(|| self.orders[rank][self.done[rank]])
            };
            let ready = (0..self.orders.len()).find_map(|rank| {
                let message = front(rank)?;
                (message.from == rank && front(message.to) == Some(message)).then_some(message)
            });
            let Some(Message { from, to, .. }) = ready else {
                return any;
            };
            self.done[from] += 1;
            self.done[to] += 1;
            any = true;
        }
    }
}
