#!/usr/bin/env bash
# How the kernels use memory: their tests under the address sanitizer, with the best instructions that this processor has; with --all,
# also with the lesser ones, and the smallest tests under Miri, which has none but the plain ones and takes ten minutes.
# Needs a nightly compiler, which it installs beside others; ends with 77 where it cannot.
# Usage: scripts/check-memory.sh [--all]
set -euo pipefail
cd "$(dirname "$0")/.."

# One that is known to do, so that what tomorrow's finds does not stop today's work.
nightly=nightly-2026-05-20
sources() { rustc "+$nightly" --print sysroot | sed 's|$|/lib/rustlib/src/rust|'; }
if ! cargo "+$nightly" miri --version > /dev/null 2>&1 || [ ! -d "$(sources)" ]; then
    rustup toolchain install "$nightly" --profile minimal --component miri --component rust-src || exit 77
fi
tests=(test --locked -p asyncdiff-kernels --test kernels)

host=$(rustc "+$nightly" -vV | sed -n 's/^host: //p')
for level in avx512bf16 avx512 avx2 portable; do
    # Linux calls them avx512_bf16 and avx512f.
    if [ "$level" = portable ] || grep -qE "\b${level/bf16/_bf16}" /proc/cpuinfo; then
        echo "== address sanitizer, $level"
        RUSTFLAGS=-Zsanitizer=address ASAN_OPTIONS=detect_leaks=0 CARGO_PROFILE_RELEASE_OPT_LEVEL=1 ASYNCDIFF_KERNELS=$level \
            cargo "+$nightly" "${tests[@]}" --release --target "$host" --target-dir target/sanitizer
        if [ "${1-}" != --all ]; then
            exit
        fi
    fi
done

echo "== Miri"
# Tree borrows, leaks and casts: what crossbeam, below rayon, does, is no error by these rules; threads of pools outlive their tests.
MIRIFLAGS="-Zmiri-tree-borrows -Zmiri-ignore-leaks -Zmiri-permissive-provenance -Zmiri-disable-isolation" \
    cargo "+$nightly" miri "${tests[@]}" --target-dir target/miri
