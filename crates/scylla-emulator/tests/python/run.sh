#!/usr/bin/env bash
# Runs Python's scylla-driver and cqlsh against the emulator; fails on any answer that is not the expected one.
#
#   SCYLLA_EMULATOR  the emulator's program; built and run by cargo when not set
#   CI_CACHE         where the Python environment is kept; a temporary directory when not set
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"

scratch="$(mktemp -d)"
emulator=""
stop() {
  status=$?
  if [ -n "$emulator" ]; then
    kill "$emulator" 2>/dev/null || true
    wait "$emulator" 2>/dev/null || true
  fi
  rm -rf "$scratch"
  exit "$status"
}
trap stop EXIT

environment="${CI_CACHE:-$scratch}/emulator-python"
if ! cmp -s "$here/requirements.txt" "$environment/installed.txt"; then
  rm -rf "$environment"
  python3 -m venv "$environment"
  "$environment/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
  cp "$here/requirements.txt" "$environment/installed.txt"
fi

if [ -z "${SCYLLA_EMULATOR:-}" ]; then
  cd "$here/../.."
  SCYLLA_EMULATOR="$(cargo build --quiet --package scylla-emulator --message-format json \
    | python3 -c '
import json, sys
artifacts = (json.loads(line) for line in sys.stdin)
programs = [a.get("executable") for a in artifacts if a.get("target", {}).get("name") == "scylla-emulator"]
print([program for program in programs if program][-1])')"
fi

mkfifo "$scratch/ready"
"$SCYLLA_EMULATOR" --listen 127.0.0.1:0 --vnodes 4 --shards 2 > "$scratch/ready" &
emulator=$!
read -r line < "$scratch/ready"
address="${line##* }"
echo "emulator at $address"

"$environment/bin/python" "$here/driver_smoke.py" "${address%:*}" "${address##*:}"
"$environment/bin/python" "$here/cqlsh_session.py" "$environment/bin/cqlsh" "${address%:*}" "${address##*:}"

kill "$emulator"
wait "$emulator"
emulator=""
echo "the emulator stopped by itself after SIGTERM"
