//! Every way to spread a run, as people name it.

use asyncdiff_core::{Machine, Setting, Spread, Strategy};

use super::common::{graph, schedule};

/// One after the other; a new way does not compile until it has its place.
fn next(spread: &Spread) -> Option<Spread> {
    match spread {
        Spread::Whole => Some(Spread::ring()),
        Spread::Ring { .. } => Some(Spread::copies(2)),
        Spread::Copies(_) => Some(Spread::through_segments(2)),
        Spread::ThroughSegments { .. } => Some(Spread::segments(2)),
        Spread::AsyncDiff { .. } => None,
    }
}

#[test]
fn every_way_to_spread_a_run_has_a_plan_a_name_and_json() {
    let (graph, schedule) = (graph(), schedule("DDIMScheduler", 12));
    let machine = Machine::ideal(&graph);
    let setting = Setting::new(&graph, &schedule, Some(3.0.into()));
    let mut names = Vec::new();
    for spread in std::iter::successors(Some(Spread::Whole), next) {
        let whole = Strategy::from(spread);
        for strategy in [whole.clone(), whole.split()] {
            let plan = strategy.plan(&setting, &machine).unwrap();
            assert_eq!(plan.validate(&graph), Ok(()), "{strategy}");
            assert_eq!(
                plan.ranks.len() == 1,
                strategy.is_sequential(),
                "{strategy}"
            );
            let text = serde_json::to_string(&strategy).unwrap();
            assert_eq!(serde_json::from_str::<Strategy>(&text).unwrap(), strategy);
            names.push(strategy.to_string());
        }
    }
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count, "two ways have one name: {names:?}");
}
