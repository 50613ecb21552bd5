#!/usr/bin/env bash
# The page of `asyncdiff serve` in a real browser, with the real service and the model that is built in.
# Installs Debian's Chromium and Node.js where they are missing, and the packages of the tests beside these.
# Ends with 77 where they cannot be installed.
# Usage: scripts/check-page.sh [folder for screenshots, target/page if there is none]
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
command -v chromium > /dev/null || missing+=(chromium fonts-dejavu-core)
command -v node > /dev/null || missing+=(nodejs)
command -v npm > /dev/null || missing+=(npm)
if [ ${#missing[@]} -gt 0 ]; then
    apt-get update -qq || exit 77
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" || exit 77
fi

cargo build --release --locked --quiet --workspace --bin asyncdiff
export ASYNCDIFF=$PWD/target/release/asyncdiff
export SCREENSHOTS=${1:-$PWD/target/page}
CHROMIUM=$(command -v chromium)
export CHROMIUM

cd asyncdiff-serve/tests/page
# Debian 12's Node.js is version 18, on which the newest playwright-core does not run.
npm install --no-package-lock --no-audit --no-fund --silent || exit 77
npm test --silent
