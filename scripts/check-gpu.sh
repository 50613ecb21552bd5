#!/usr/bin/env bash
# Everything that a machine with a GPU should be asked, as a Markdown table on standard output.
#
#   scripts/check-gpu.sh PROGRAM [PARITY]
#
# PROGRAM is asyncdiff, built with `--features nccl`. PARITY is the test binary of the same build, whose path is what
#   cargo test --release -p asyncdiff-models --features nccl --test parity --no-run
# prints; without it, nothing is compared with reference tensors. Both may be built on another machine. Needs bash and
# python3, 8 GB of disk in the folder for temporary files, and less than ten minutes.
#
# Other devices, and a quick look at the script itself, on a machine without a GPU:
#   DEVICE=cpu:1 TWO=cpu:2 SIZES=tiny scripts/check-gpu.sh target/release/asyncdiff
set -euo pipefail
cd "$(dirname "$0")/.."

program=$(realpath "${1:?which program is to be checked?}")
parity=${2:+$(realpath "$2")}
device=${DEVICE:-cuda:0}
# Two ranks on one GPU: for correctness, not for speed.
two=${TWO:-cuda:0,0}
# Two GPUs, for NCCL: it refuses two ranks on one.
apart=${APART:-cuda:0,1}
sizes=${SIZES:-real}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

row() { echo "| $1 | $2 | $3 |"; }

# Runs the rest of the arguments; a row with the first as its name says how it went, and how long it took.
check() {
    local name=$1 start=$SECONDS
    shift
    if "$@" > "$work/out" 2> "$work/err"; then
        row "$name" passed "$((SECONDS - start)) s"
    else
        failures=$((failures + 1))
        row "$name" "**failed**: $(tail -n 1 "$work/err" | cut -c 1-300 | tr '|' '/')" "$((SECONDS - start)) s"
    fi
}

echo "Device: $device, $(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2> /dev/null | head -n 1 || true)"
echo "Program: $("$program" --version), $(date -u +%F)"
echo
echo "| check | result | |"
echo "|---|---|---|"
if [ -n "$parity" ]; then
    # The tests take every device that the machine has.
    check "parity with reference tensors" env ASYNCDIFF_FIXTURES="$PWD/fixtures" "$parity"
else
    row "parity with reference tensors" "left out: no test binary was named" ""
fi
for dtype in f32 f16 bf16; do
    check "embedded model, $dtype" "$program" generate "red apple" --steps 20 --devices "$device" --dtype "$dtype" \
        --quiet -o "$work/$dtype.png"
done
check "embedded model, two ranks as processes on one device" "$program" generate "red apple" --steps 20 --guidance-split \
    --processes 2 --devices "$two" --quiet -o "$work/processes.png"

# What two processes on two devices make, whose messages NCCL carries, is what threads make of it.
through_nccl() {
    local spread run=("$program" generate "red apple" --steps 20 --devices "$apart" --force)
    for spread in --guidance-split --segments=2 --look-ahead=ring; do
        "${run[@]}" "$spread" --quiet -o "$work/threads.png" &&
            "${run[@]}" "$spread" --processes 2 -o "$work/nccl.png" > "$work/lines" &&
            { grep "^messages through NCCL" "$work/lines" || { grep "^messages" "$work/lines" >&2; false; }; } &&
            { cmp "$work/threads.png" "$work/nccl.png" >&2 || { echo "$spread: another picture" >&2; false; }; } || return 1
    done
}
if [ "$(nvidia-smi --list-gpus 2> /dev/null | wc -l)" -gt 1 ]; then
    check "NCCL: two processes on $apart make what threads make" through_nccl
else
    row "NCCL between two processes" "left out: it needs two GPUs" ""
fi

# Rows of a comparison: name, seconds of all steps, likeness to the sequential run.
compare() {
    local name=$1
    shift
    if ! "$program" compare "red apple" --repeat 3 -o "$work/compare.png" "$@" > "$work/out" 2> "$work/err"; then
        failures=$((failures + 1))
        echo "| $name | **failed**: $(tail -n 1 "$work/err" | cut -c 1-300 | tr '|' '/') | | | |"
        return
    fi
    # The first column has spaces in it, and 44 characters.
    awk -v name="$name" -v steps="$steps" '
        /^run / { table = 1; next }
        table && NF == 0 { exit }
        table && !/as fast: / {
            run = substr($0, 1, 44); sub(/ +$/, "", run)
            split(substr($0, 45), cell, " ")
            printf "| %s | %s | %.1f | %s | %s |\n", name, run, 1000 * cell[2] / steps, cell[3], cell[5]
        }' "$work/out"
}

steps=20
echo
echo "Two ranks share one device here: their speed-up says nothing about two devices, their likeness does."
echo
echo "| model | run | ms a step | sooner | PSNR dB |"
echo "|---|---|---|---|---|"
for dtype in f32 f16; do
    compare "embedded, $dtype" --devices "$two" --steps $steps --dtype "$dtype" --guidance-split on,off --look-ahead 1,2,ring
done
if [ "$sizes" = real ]; then
    for model in sd15 sdxl; do
        if ! python3 scripts/random-checkpoint.py "fixtures/configs/${model}_unet.json" "fixtures/$model/checkpoint" \
            "$work/$model" > "$work/out" 2> "$work/err"; then
            failures=$((failures + 1))
            echo "| $model | **failed**: $(tail -n 1 "$work/err") | | | |"
            continue
        fi
        side=$([ "$model" = sdxl ] && echo 1024 || echo 512)
        steps=12
        for dtype in f16 bf16; do
            compare "$model, random weights, $side x $side, $dtype" --model "$work/$model" --devices "$two" --steps $steps \
                --dtype "$dtype" --width $side --height $side --guidance-scale 5 --guidance-split on,off --look-ahead 1,2
        done
        rm -rf "${work:?}/$model"
    done
fi
if [ "$failures" -gt 0 ]; then
    echo
    echo "$failures checks failed."
    exit 1
fi
