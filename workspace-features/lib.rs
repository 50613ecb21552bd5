//! Nothing but dependencies: the tests, examples and benchmarks of every member that is built on Burn depend on this crate, and
//! the program stands beside it in the workspace's default members, so that all of them share one build of Burn. It is not
//! published, and what is published does not depend on it.

#![deny(missing_docs)]
