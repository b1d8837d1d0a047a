#!/usr/bin/env bash
# Builds the program that the image holds:  docker/build.sh OUTPUT_DIR
#
# The Dockerfile and CI run this same script, so that they cannot drift apart. It installs nothing: a
# Rust toolchain, a C compiler, make and Perl (for OpenSSL) must be there. FEATURES names other
# features than those of the image, CARGO_TARGET_DIR another place for what cargo makes.
set -euo pipefail
out=${1:?usage: docker/build.sh OUTPUT_DIR}
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/.."
features=${FEATURES-tls}
target=${CARGO_TARGET_DIR:-$PWD/target}

# What gcr.io/distroless/cc-debian12 has.
libraries='^(libc|libm|libgcc_s|libdl|libpthread|librt|ld-linux-[a-z0-9-]+)\.so\.[0-9]+$'
glibc=2.36

fail() {
  printf 'docker/build.sh: %s\n' "$1" >&2
  exit 1
}
for command in cargo cc make perl strip readelf ldd; do
  command -v "$command" >/dev/null || fail "$command is needed (Debian: build-essential, perl, binutils)"
done

# The final image has no libz.so: librdkafka's zlib is linked in.
LIBZ_SYS_STATIC=1 cargo build --release --locked --package outbox-relay --bin outbox-relay \
  --no-default-features --features "$features" --target-dir "$target"
strip -o "$out/outbox-relay" "$target/release/outbox-relay"
program="$out/outbox-relay"

# It must run in an image that has glibc and nothing else.
needed=$(readelf --dynamic --wide "$program" | sed -nE 's/.*\(NEEDED\).*\[(.*)\]/\1/p')
[ -n "$needed" ] || fail "no library at all is needed: readelf cannot be right"
strangers=$(grep -vE "$libraries" <<<"$needed" || true)
[ -z "$strangers" ] || fail "linked against what the image lacks: $(tr '\n' ' ' <<<"$strangers")"
ldd "$program" | grep 'not found' && fail "a library is missing"
newest=$(readelf --version-info --wide "$program" | grep -oE 'GLIBC_[0-9.]+' | sed 's/GLIBC_//' | sort -uV | tail -n 1)
[ "$(printf '%s\n%s\n' "$newest" "$glibc" | sort -V | tail -n 1)" = "$glibc" ] ||
  fail "needs glibc $newest, the image has $glibc: build it on Debian 12"
# Against attackers: a position independent program whose tables are read-only.
readelf --file-header "$program" | grep -qE 'Type: +DYN' || fail "not position independent"
readelf --dynamic --wide "$program" | grep -qE 'BIND_NOW|FLAGS_1.*NOW' || fail "not linked with full RELRO"

version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
said=$(env -i "$program" --version)
[ "$said" = "outbox-relay $version" ] || fail "says \"$said\", not \"outbox-relay $version\""
env -i "$program" config reference >/dev/null
printf '%s: %s, %s bytes, needs %s and glibc %s\n' \
  "$program" "$said" "$(stat -c %s "$program")" "$(tr '\n' ' ' <<<"$needed")" "$newest"
