#!/usr/bin/env bash
# The page of a relay that runs: the demo's, whose broker refuses some events. One of them is found,
# understood and replayed in the browser; the demo must then end as it promises.
#
#   OUTBOX_RELAY=path [PROMTOOL=path] tests/page/with-demo.sh
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
relay=${OUTBOX_RELAY:?the path of a relay with its demo}
log=$(mktemp)
"$relay" demo --refuse 60 --listen 127.0.0.1:0 >"$log" 2>&1 &
demo=$!
trap 'kill "$demo" 2>/dev/null || true; rm -f "$log"' EXIT

wait_for() { # wait_for WHAT COMMAND...: until the command succeeds, two minutes at most
  local what=$1
  shift
  for _ in $(seq 240); do
    "$@" && return
    kill -0 "$demo" 2>/dev/null || break
    sleep 0.5
  done
  echo "in vain: $what" >&2
  tail -n 20 "$log" >&2
  exit 1
}

wait_for "the page's address" grep -q '^page ' "$log"
page=$(awk '/^page / { print $2 }' "$log")
config=$(awk '/^shell / { print $NF }' "$log")
has_letter() { [ -n "$("$relay" dead-letters list --config "$config" --reason permanent --output json 2>/dev/null)" ]; }
wait_for "a dead letter" has_letter

# What the relay itself says is what Prometheus understands.
if [ -n "${PROMTOOL:-}" ]; then
  python3 -c 'import sys, urllib.request; sys.stdout.buffer.write(urllib.request.urlopen(sys.argv[1]).read())' \
    "${page%%#*}metrics" | "$PROMTOOL" check metrics
  echo "promtool accepts /metrics of the demo"
fi

RELAY_URL="${page%%#*}" RELAY_TOKEN="${page##*#token=}" bash "$here/run.sh"

kill -INT "$demo"
wait "$demo" || { tail -n 20 "$log" >&2; exit 1; }
tail -n 2 "$log"
