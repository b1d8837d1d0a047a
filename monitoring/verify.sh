#!/usr/bin/env bash
# Checks the alert rules and the dashboard:  CI_CACHE=DIR bash monitoring/verify.sh
#
# Needs Go and Python. Takes promtool and prometheus out of Debian's package without installing it, so
# that no service is started. METRICS and RUNBOOK name other files than docs/metrics.md and docs/runbook.md.
set -euo pipefail
cd "$(dirname "$0")"
root=$(cd .. && pwd)
cache="${CI_CACHE:-$root/target/ci}/monitoring"
metrics=${METRICS:-$root/docs/metrics.md}
runbook=${RUNBOOK:-$root/docs/runbook.md}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)

for needed in "$metrics" "$runbook"; do
  [ -r "$needed" ] || { echo "monitoring: $needed is missing" >&2; exit 1; }
done

if ! [ -x "$cache/prometheus/usr/bin/promtool" ]; then
  apt-get update -qq >/dev/null
  (cd "$cache" && apt-get download -qq -o APT::Sandbox::User=root prometheus >/dev/null)
  dpkg -x "$cache"/prometheus_*.deb "$cache/prometheus.part"
  mv "$cache/prometheus.part" "$cache/prometheus"
fi
if ! [ -x "$cache/python/bin/python" ] || ! cmp -s requirements.txt "$cache/requirements.txt"; then
  python3 -m venv --clear "$cache/python"
  "$cache/python/bin/pip" install --quiet --disable-pip-version-check --requirement requirements.txt
  cp requirements.txt "$cache/requirements.txt"
fi
bin="$cache/prometheus/usr/bin"

"$bin/promtool" check rules alerts.yaml
"$bin/promtool" check config --syntax-only "$root/docker/compose/prometheus.yaml"
"$bin/promtool" test rules alerts_test.yaml
(cd dashboardfile && go vet ./... && go build -o "$cache/dashboardfile" .)
"$cache/dashboardfile" dashboard.json
sed 's/"gridPos"/"gridPosition"/' dashboard.json >"$cache/bad.json"
if "$cache/dashboardfile" "$cache/bad.json" >/dev/null 2>&1; then
  echo "monitoring: a field that Grafana does not know goes unnoticed" >&2
  exit 1
fi
"$cache/python/bin/python" check.py --metrics "$metrics" --runbook "$runbook" \
  --promtool "$bin/promtool" --prometheus "$bin/prometheus"
