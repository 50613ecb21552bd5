//! Which plan is chosen: a table of cases.

use asyncdiff_core::choice::{Preference, Wish, candidates, choose};
use asyncdiff_core::{Machine, Schedule, SegmentGraph, Setting};

fn chosen(
    graph: &SegmentGraph,
    schedule: &Schedule,
    guided: bool,
    wish: &Wish,
) -> Option<(String, usize)> {
    let guidance = guided.then_some(7.5.into());
    let setting = Setting::new(graph, schedule, guidance);
    let all = candidates(&setting, &Machine::ideal(graph), wish).unwrap();
    assert!(all.iter().all(|one| one.plan.ranks.len() <= wish.ranks));
    assert!(all[0].strategy.is_sequential());
    let chosen = &all[choose(&all, wish.preference)?];
    Some((chosen.strategy.to_string(), chosen.plan.ranks.len()))
}

#[test]
fn the_choice_is_the_table() {
    let (graph, schedule) = (
        super::common::graph(),
        super::common::schedule("DDIMScheduler", 25),
    );
    let wish = |ranks, preference| Wish {
        ranks,
        preference,
        memory: None,
        element_bytes: 2,
    };
    let (likeness, speed) = (Preference::Likeness, Preference::Speed);
    for (ranks, guided, preference, expected, used) in [
        (1, true, likeness, "sequential", 1),
        (1, false, speed, "sequential", 1),
        (2, true, likeness, "guidance split", 2),
        (2, true, speed, "guidance split", 2),
        (
            3,
            true,
            likeness,
            "guidance split x ring with one deep rank, warm-up 2",
            3,
        ),
        (4, true, likeness, "guidance split x ring, warm-up 2", 4),
        (4, true, speed, "guidance split x 2 copies, warm-up 2", 4),
        (6, true, likeness, "guidance split x ring, warm-up 2", 4),
        (6, true, speed, "guidance split x 3 copies, warm-up 2", 6),
        (2, false, likeness, "ring, warm-up 2", 2),
        (2, false, speed, "2 copies, warm-up 2", 2),
        (3, false, speed, "3 copies, warm-up 2", 3),
    ] {
        let found = chosen(&graph, &schedule, guided, &wish(ranks, preference));
        assert_eq!(
            found,
            Some((expected.to_owned(), used)),
            "{ranks} {guided} {preference}"
        );
    }
}

#[test]
fn few_calls_are_not_looked_ahead() {
    let graph = super::common::graph();
    for (class, steps) in [("LCMScheduler", 4), ("DDIMScheduler", 9)] {
        let schedule = super::common::schedule(class, steps);
        for (guided, expected) in [(true, "guidance split"), (false, "sequential")] {
            let wish = Wish {
                ranks: 4,
                preference: Preference::Likeness,
                memory: None,
                element_bytes: 2,
            };
            let found = chosen(&graph, &schedule, guided, &wish).unwrap();
            assert_eq!(found.0, expected, "{class}");
        }
    }
}

#[test]
fn memory_decides_where_it_is_short() {
    let (graph, schedule) = (
        super::common::graph(),
        super::common::schedule("DDIMScheduler", 25),
    );
    let of = |mebibytes: u64, ranks| {
        let wish = Wish {
            ranks,
            preference: Preference::Speed,
            memory: Some(mebibytes << 20),
            element_bytes: 2,
        };
        chosen(&graph, &schedule, true, &wish).map(|(strategy, _)| strategy)
    };
    // Stable Diffusion 1.5 has 1,640 MiB of weights in two bytes each, 1,500 of them in deep blocks.
    assert_eq!(
        of(4000, 4).as_deref(),
        Some("guidance split x 2 copies, warm-up 2")
    );
    assert_eq!(
        of(1600, 4).as_deref(),
        Some("guidance split x ring, warm-up 2")
    );
    assert_eq!(
        of(1200, 4).as_deref(),
        Some("guidance split x ring with one deep rank, warm-up 2")
    );
    assert_eq!(of(900, 4).as_deref(), Some("through 3 segments, warm-up 2"));
    assert_eq!(of(100, 4), None);
}
