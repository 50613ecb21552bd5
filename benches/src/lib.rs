//! Benchmarks only; see `benches/denoise.rs`, run by `cargo bench -p benches`.
