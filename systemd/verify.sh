#!/usr/bin/env bash
# Checks the unit and the drop-ins of systemd/README.md:  bash systemd/verify.sh
#
# The program need not be installed: a stand-in takes its place, since systemd-analyze asks whether it
# can be run. With OUTBOX_RELAY=PROGRAM that program is put there and reads the README's configuration;
# if it has the demo, that runs under strace, and no system call of it may be one that the unit refuses.
set -euo pipefail
cd "$(dirname "$0")"
threshold=20 # in tenths: 2.0 of 10

command -v systemd-analyze >/dev/null 2>&1 || {
  apt-get update -qq >/dev/null && apt-get install -y -qq systemd >/dev/null
}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

program=${OUTBOX_RELAY:-$scratch/outbox-relay}
[ -n "${OUTBOX_RELAY:-}" ] || install -m 0755 /bin/true "$program"
unit() { # unit NAME < UNIT: a unit to look at, in a directory of its own; prints where it is
  mkdir -p "$scratch/$1/outbox-relay.service.d"
  sed "s|^ExecStart=/usr/bin/outbox-relay |ExecStart=$program |" >"$scratch/$1/outbox-relay.service"
  grep -q "^ExecStart=$program run" "$scratch/$1/outbox-relay.service"
  echo "$scratch/$1/outbox-relay.service"
}
verify() { # verify NAME FILE: any word of systemd-analyze is an error, a warning too
  local said
  if ! said=$(systemd-analyze verify --man=no "$2" 2>&1) || [ -n "$said" ]; then
    printf 'systemd: %s: %s\n' "$1" "$said" >&2
    return 1
  fi
  echo "systemd: $1: fine"
}
exposure() { # exposure FILE: fails above the threshold
  systemd-analyze security --no-pager --offline=true --threshold="$threshold" "$1"
}

plain=$(unit plain <outbox-relay.service)
verify "the unit" "$plain"
exposure "$plain" | tail -n 1

# Its commented lines must work once they are not comments any more.
active=$(unit active < <(sed -E 's/^#(LoadCredential|Environment)=/\1=/' outbox-relay.service))
[ "$(grep -cE '^(LoadCredential|Environment)=' "$active")" -ge 5 ]
verify "the unit with its examples of credentials" "$active"

# The README's drop-ins, each by itself.
names=$(sed -nE 's/^```ini drop-in="(.*)"$/\1/p' README.md)
[ "$(wc -w <<<"$names")" -ge 4 ]
for name in $names; do
  with=$(unit "with-$name" <outbox-relay.service)
  sed -n "/^\`\`\`ini drop-in=\"$name\"\$/,/^\`\`\`\$/p" README.md | sed '1d;$d' >"$(dirname "$with")/outbox-relay.service.d/$name"
  verify "the unit with the README's $name" "$with"
done

# Would these checks notice? A wrong setting, and a unit without its walls.
broken=$(unit broken < <(sed 's/^WatchdogSec=.*/WatchdogSecs=30/' outbox-relay.service))
if verify "broken on purpose" "$broken" >/dev/null 2>&1; then
  echo "systemd: a setting that does not exist went unnoticed" >&2
  exit 1
fi
open=$(unit open < <(sed -E '/^(System|Restrict|Private|Protect|Capability|DynamicUser)/d' outbox-relay.service))
if exposure "$open" >/dev/null 2>&1; then
  echo "systemd: a unit without hardening is below the threshold" >&2
  exit 1
fi
for line in Type=notify NotifyAccess=main WatchdogSec=30 DynamicUser=yes RestartPreventExitStatus=78; do
  grep -qx "$line" outbox-relay.service || { echo "systemd: $line is gone" >&2; exit 1; }
done

if [ -n "${OUTBOX_RELAY:-}" ]; then
  mkdir "$scratch/credentials"
  for name in scylla-password kafka-password admin-token; do
    echo not-a-secret-at-all >"$scratch/credentials/$name"
  done
  # Both pieces of configuration, over the example that lacks nothing.
  awk -v out="$scratch/readme" '/^```yaml$/ { inside = 1; file = out "-" ++count ".yaml"; next }
       /^```$/ { inside = 0 } inside { print > file }' README.md
  [ "$(find "$scratch" -maxdepth 1 -name 'readme-*.yaml' | wc -l)" -eq 2 ]
  for file in "$scratch"/readme-*.yaml; do
    CREDENTIALS_DIRECTORY="$scratch/credentials" "$OUTBOX_RELAY" config print \
      --config ../config/examples/minimal.yaml --config "$file" >/dev/null
  done
  echo "systemd: the relay takes the README's configuration"
  if "$OUTBOX_RELAY" demo --help >/dev/null 2>&1; then
    command -v strace >/dev/null 2>&1 || {
      apt-get update -qq >/dev/null && apt-get install -y -qq strace >/dev/null
    }
    strace -f -c -o "$scratch/trace" "$OUTBOX_RELAY" demo --events 20 --output json >/dev/null
    python3 syscalls.py outbox-relay.service "$scratch/trace"
  else
    echo "systemd: system calls were not looked at: this relay has no demo"
  fi
else
  echo "systemd: no relay read the README's configuration: OUTBOX_RELAY is not set"
fi
