#!/usr/bin/env bash
# Whether every crate could be published: its package can be made, holds no tests, and is below the 10 MiB that a registry takes.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cargo package --quiet --workspace --exclude benches --exclude workspace-features --no-verify --allow-dirty --target-dir "$folder"

failed=0
for package in "$folder"/package/*.crate; do
    bytes=$(wc -c < "$package")
    printf '%10d  %s\n' "$bytes" "$(basename "$package")"
    if ((bytes >= 10 * 1024 * 1024)); then
        echo "error: $(basename "$package") is too large for a registry: move data into another crate" >&2
        failed=1
    fi
    if tar -tzf "$package" | grep -E '^[^/]+/(tests|fixtures)/' >&2; then
        echo "error: $(basename "$package") holds these tests: leave them out with exclude in its Cargo.toml" >&2
        failed=1
    fi
done
exit "$failed"
