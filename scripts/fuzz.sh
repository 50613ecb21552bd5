#!/usr/bin/env bash
# Gives every fuzz target to libFuzzer for a while: scripts/fuzz.sh [SECONDS, default 300] [TARGET ...]
# Needs a nightly compiler, a C++ compiler, and cargo-fuzz, which it installs. What a target does not stand is in fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:-300}
shift || true
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    for file in fuzz/fuzz_targets/*.rs; do
        targets+=("$(basename "$file" .rs)")
    done
fi
if ! cargo fuzz --version > /dev/null 2>&1; then
    cargo install --locked cargo-fuzz
fi
# What the tests start from, so that both try the same.
corpus=$PWD/fuzz/corpus
ASYNCDIFF_FUZZ_SECONDS=0 ASYNCDIFF_FUZZ_CORPUS=$corpus cargo test --release --quiet -p asyncdiff-models -p workspace-features --test fuzz
for target in "${targets[@]}"; do
    echo "== $target, $seconds s"
    # Without a sanitizer: no target has unsafe code of its own, and panics, hangs and memory are watched without one.
    cargo +nightly fuzz run --sanitizer none "$target" -- \
        -max_total_time="$seconds" -timeout=30 -rss_limit_mb=4096 -max_len=262144 -print_final_stats=1 2>&1 |
        tee "fuzz/$target.log" | grep -E "^stat::number_of_executed|^stat::new_units|SUMMARY|panicked|Test unit written" || true
    if compgen -G "fuzz/artifacts/$target/*" > /dev/null; then
        echo "$target does not stand what is in fuzz/artifacts/$target" >&2
        exit 1
    fi
done
