#!/usr/bin/env bash
# Writes what the released binary is made of, as a CycloneDX SBOM.
#
#   release/sbom.sh [FOLDER]     writes FOLDER/outbox-relay.cdx.json (default: target/dist-out)
#
# Build dependencies are part of it: OpenSSL, librdkafka, zstd and zlib are compiled by them, and their
# versions carry those of the C libraries (openssl-src 300.6.1+3.6.3 is OpenSSL 3.6.3).
set -euo pipefail
cd "$(dirname "$0")/.."

out=${1:-target/dist-out}
tools="${CARGO_TARGET_DIR:-target}/ci/tools"
if ! cargo cyclonedx --version >/dev/null 2>&1; then
  CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}/ci/cargo-cyclonedx" \
    cargo install cargo-cyclonedx --version 0.5.9 --locked --quiet --root "$tools"
  PATH="$(cd "$tools" && pwd)/bin:$PATH"
  export PATH
fi
# It dates the SBOM, and numbers it by the sources.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
target=$(rustc -vV | sed -n 's/^host: //p')
mkdir -p "$out"
# It writes a file beside each manifest of the workspace.
trap 'find . -path ./target -prune -o -name "sbom-*.json" -type f -print0 | xargs -0 -r rm -f' EXIT
cargo cyclonedx --quiet --format json --spec-version 1.5 --target "$target" \
  --no-default-features --features tls --override-filename sbom-dist
python3 - sbom-dist.json "$out/outbox-relay.cdx.json" <<'PYTHON'
import json, sys

bom = json.load(open(sys.argv[1]))
components = {c["name"]: c["version"] for c in bom["components"]}
missing = [n for n in ("openssl-src", "rdkafka-sys", "scylla", "tokio", "zstd-sys") if n not in components]
if missing or "scylla-emulator" in components:
    sys.exit(f"the SBOM is wrong: without {missing}, or with the demo's parts")
nameless = [c["name"] for c in bom["components"] if not c.get("licenses")]
if nameless:
    sys.exit(f"without a license: {nameless}")
json.dump(bom, open(sys.argv[2], "w"), indent=1, sort_keys=True)
print(f"{len(components)} components, OpenSSL {components['openssl-src'].split('+')[-1]}, "
      f"librdkafka {components['rdkafka-sys'].split('+')[-1]}")
PYTHON
