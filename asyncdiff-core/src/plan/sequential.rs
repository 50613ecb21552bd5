//! The ordinary run.

use super::program::Program;
use super::role::Place;
use super::{Method, Plan, PlanError, Setting};

impl Plan {
    /// The ordinary run: every block of every call from fresh inputs, on one rank, or one for each branch.
    ///
    /// # Errors
    ///
    /// [`PlanError::NoGuidance`].
    pub fn sequential(setting: &Setting<'_>) -> Result<Self, PlanError> {
        let mut program = Program::new(setting, 0)?;
        for call in 0..program.schedule.calls() {
            program.whole(|branch| branch, call, false);
            program.predict(0, call, false);
            program.advance(call);
        }
        let roles = program.roles(&[Place::Whole]);
        program.finish(roles, Method::Sequential)
    }
}

impl Program<'_> {
    /// All blocks of a call for every branch, each on the rank that `rank` gives its number.
    pub(super) fn whole(&mut self, rank: impl Fn(usize) -> usize, call: usize, ahead: bool) {
        for (index, branch) in self.branches.iter().enumerate() {
            for (block, _) in self.graph.iter() {
                self.fresh(rank(index), block, *branch, (call, ahead));
            }
        }
    }
}
