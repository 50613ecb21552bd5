#!/usr/bin/env bash
# Whether clients that others have written get on with `asyncdiff serve`: the Python packages openai and webuiapi, in a virtual
# environment of their own, against a service with the embedded model. Ends with 77 where they cannot be installed.
#
#     scripts/check-clients.sh [PROGRAM]
set -euo pipefail
cd "$(dirname "$0")/.."

program=${1:-target/release/asyncdiff}
folder=$(mktemp -d)
service=
finish() {
    if [ -n "$service" ]; then
        kill -TERM "$service" 2> /dev/null || true
        wait "$service" || true
    fi
    rm -rf "$folder"
}
trap finish EXIT

python3 -m venv "$folder/venv" || exit 77
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check -r scripts/check-clients.txt || exit 77

echo sesame > "$folder/key"
"$program" serve --listen 127.0.0.1:0 --api-key-file "$folder/key" --log warn > "$folder/address" &
service=$!
for _ in $(seq 600); do
    if grep -q listening "$folder/address"; then
        break
    fi
    kill -0 "$service"
    sleep 0.1
done
address=$(sed -n 's/^listening at //p' "$folder/address")
"$folder/venv/bin/python" scripts/check-clients.py "$address" sesame
