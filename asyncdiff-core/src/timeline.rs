//! Draws a simulated run: ranks as lanes, blocks as bars, transfers as arrows.

use std::fmt::Write;

use crate::graph::SegmentGraph;
use crate::plan::{Method, Plan, Value};
use crate::simulate::Simulation;

const LEFT: f64 = 190.0;
const TOP: f64 = 44.0;
const LANE: f64 = 46.0;
const GAP: f64 = 30.0;
/// Fill colours of successive denoiser calls: greys in the warm-up, colours after it.
const WARM_UP: [&str; 2] = ["#b8bcc4", "#d3d6dc"];
const ROUNDS: [&str; 4] = ["#4c78a8", "#f58518", "#54a24b", "#b279a2"];

/// An SVG picture of `simulation`, which is of `plan`.
#[must_use]
pub fn svg(plan: &Plan, graph: &SegmentGraph, simulation: &Simulation) -> String {
    let warm_up = match plan.method {
        Method::Sequential => 0,
        method => method.warm_up(),
    };
    // Wide enough for every call to be seen, however many there are.
    let width = (plan.calls as f64 * 60.0).clamp(900.0, 6000.0);
    let scale = width / simulation.makespan;
    let ranks = plan.ranks.len() as f64;
    let height = TOP + ranks * (LANE + GAP);
    let lane = |rank: usize| TOP + rank as f64 * (LANE + GAP);
    let x = |time: f64| LEFT + time * scale;

    let mut out = String::new();
    let total = LEFT + width + 20.0;
    // Writing to a string cannot fail.
    let _ = write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {total:.0} {height:.0}\" width=\"{total:.0}\" \
         height=\"{height:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <defs><marker id=\"tip\" viewBox=\"0 0 6 6\" refX=\"6\" refY=\"3\" markerWidth=\"5\" markerHeight=\"5\" \
         orient=\"auto\"><path d=\"M0,0 L6,3 L0,6 z\" fill=\"#333\"/></marker></defs>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let _ = writeln!(
        out,
        "<text x=\"{LEFT}\" y=\"20\">{} ranks, {} denoiser calls, {:.0} % of the ranks' time idle; grey: warm-up; \
         colours: one denoiser call each, pale: on predicted latents; arrows: transfers</text>",
        plan.ranks.len(),
        plan.calls,
        100.0 * simulation.idle_share
    );
    for rank in 0..plan.ranks.len() {
        let y = lane(rank);
        let _ = writeln!(
            out,
            "<text x=\"8\" y=\"{:.1}\">{rank}: {}</text>\
             <rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{LANE}\" fill=\"#f4f4f4\"/>",
            y + LANE / 2.0 + 4.0,
            plan.roles[rank]
        );
    }
    for bar in &simulation.bars {
        let fill = if bar.version < warm_up {
            WARM_UP[bar.version % WARM_UP.len()]
        } else {
            ROUNDS[bar.version % ROUNDS.len()]
        };
        let (opacity, ahead) = if bar.ahead {
            (0.6, ", on predicted latents")
        } else {
            (1.0, "")
        };
        let _ = writeln!(
            out,
            "<rect x=\"{:.2}\" y=\"{:.1}\" width=\"{:.2}\" height=\"{LANE}\" fill=\"{fill}\" fill-opacity=\"{opacity}\" \
             stroke=\"white\" stroke-width=\"0.3\"><title>{} for call {}{ahead}</title></rect>",
            x(bar.start),
            lane(bar.rank),
            (bar.end - bar.start) * scale,
            graph.block(bar.block).name,
            bar.version
        );
    }
    for transfer in &simulation.transfers {
        let down = transfer.to > transfer.from;
        let edge = |rank: usize, bottom: bool| lane(rank) + if bottom { LANE } else { 0.0 };
        let name = match (transfer.what.value, transfer.what.ahead) {
            (Value::Block(id), _) => graph.block(id).name.as_str(),
            (Value::Prediction, _) => "noise prediction",
            (_, true) => "predicted latents",
            _ => "latents",
        };
        let _ = writeln!(
            out,
            "<line x1=\"{:.2}\" y1=\"{:.1}\" x2=\"{:.2}\" y2=\"{:.1}\" stroke=\"#333\" stroke-width=\"0.6\" \
             stroke-opacity=\"0.6\" marker-end=\"url(#tip)\"><title>{name} of call {}</title></line>",
            x(transfer.sent),
            edge(transfer.from, down),
            // A transfer that takes no time is drawn slightly slanted, so that its direction can be seen.
            x(transfer.arrived) + 3.0,
            edge(transfer.to, !down),
            transfer.what.version
        );
    }
    out.push_str("</svg>\n");
    out
}
