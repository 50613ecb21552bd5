#!/usr/bin/env bash
# Builds the program with every backend and NCCL, and tests it on each that runs without a GPU: Burn's Flex, LibTorch on the CPU, and
# Vulkan, for which Mesa's driver on the CPU is enough. No part of .ci/run: the build alone takes the better part of an hour on two cores.
#
#   scripts/check-backends.sh
#
# Needs what .ci/run needs, Python with pip, and 15 GB of disk; where no Vulkan driver is installed, apt and root rights to install Mesa's.
set -euo pipefail
cd "$(dirname "$0")/.."

step() {
    echo
    echo "== $*"
    "$@"
}

if ! compgen -G "/usr/share/vulkan/icd.d/*.json" > /dev/null; then
    step apt-get update -qq
    step apt-get install -y -qq --no-install-recommends mesa-vulkan-drivers libvulkan1
fi
step scripts/install-llvm.sh
variables=$(step scripts/install-libtorch.sh | grep ^export)
eval "$variables"

# The workspace's own set of features below Burn, so that every step has the same build of it.
with=(--release --locked -p workspace-features --features "tch,nccl,wgpu")
step cargo build "${with[@]}" -p asyncdiff-cli
step cargo clippy "${with[@]}" -p asyncdiff-burn -p asyncdiff-models -p asyncdiff-cli --all-targets -- -D warnings

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# The tests take every device that they find, these must be among them.
for device in cpu tch:cpu wgpu:0; do
    step target/release/asyncdiff generate "red apple, fluent style" --steps 2 --devices "$device" -o "$work/$device.png"
done
step cargo test "${with[@]}" -p asyncdiff-burn
step cargo test "${with[@]}" -p asyncdiff-models --test parity
step cargo test "${with[@]}" -p asyncdiff-cli --test cli -- devices:: --nocapture
