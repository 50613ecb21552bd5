//! How much memory there is.

/// Where Linux says what a container may have: control groups of version 2, and of version 1.
#[cfg(target_os = "linux")]
const LIMITS: [&str; 2] = [
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
];

/// Bytes of main memory that this process may have: the machine's, or what its container is allowed if that is less. `None` where
/// nothing says so.
#[cfg(target_os = "linux")]
#[must_use]
pub fn total() -> Option<u64> {
    let machine = rustix::system::sysinfo();
    let machine = (machine.totalram as u64).saturating_mul(u64::from(machine.mem_unit));
    // A container without a limit has a word there, or a number that no machine has.
    let limit = |file: &&str| std::fs::read_to_string(file).ok()?.trim().parse().ok();
    let limits = LIMITS.iter().filter_map(limit);
    limits.chain([machine]).filter(|bytes| *bytes > 0).min()
}

/// Nothing says so here.
#[cfg(not(target_os = "linux"))]
#[must_use]
pub fn total() -> Option<u64> {
    None
}
