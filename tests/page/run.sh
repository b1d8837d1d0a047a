#!/usr/bin/env bash
# The relay's page in a real browser.
#
#   tests/page/run.sh                          all tests, against the stand-in
#   RELAY_URL=… RELAY_TOKEN=… tests/page/run.sh   a walk through the page of a relay that runs
#   tests/page/run.sh screenshots [FOLDER]     pictures for the docs (docs/images)
#   tests/page/run.sh planted                  plants bugs in the page; the tests must find each
#
# Needs Chromium (CHROMIUM=path, or Debian's package, which is installed when run as root) and Node 18.
set -euo pipefail
cd "$(dirname "$0")"

install() { # install COMMAND PACKAGE...
  command -v "$1" >/dev/null 2>&1 && return
  shift
  if [ "$(id -u)" != 0 ]; then echo "missing: apt-get install $*" >&2; exit 1; fi
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@"; } >/dev/null
}
install node nodejs
install npm npm
[ -n "${CHROMIUM:-}" ] || install chromium chromium

# Installed again only when the lock has changed.
if ! cmp -s package-lock.json node_modules/.installed-from; then
  npm ci --no-audit --no-fund --ignore-scripts --loglevel=error
  cp package-lock.json node_modules/.installed-from
fi

case "${1:-test}" in
  test)
    if [ -n "${RELAY_URL:-}" ]; then
      node --test --test-reporter=spec smoke.test.mjs
    else
      node --test --test-reporter=spec page.test.mjs smoke.test.mjs
    fi
    ;;
  screenshots) node screenshots.mjs "${@:2}" ;;
  planted) node planted.mjs "${@:2}" ;;
  *) sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
