#!/usr/bin/env bash
# Builds what is released: the relay without its demo, everything but glibc linked in, and a tarball
# of it.
#
#   release/build.sh [FOLDER]     writes to FOLDER (default: target/dist-out)
#
# Needs Rust, a C toolchain, make and Perl (for OpenSSL). SOURCE_DATE_EPOCH dates the files (default:
# the last commit), for the same sources, toolchain and paths to give the same bytes.
set -euo pipefail
cd "$(dirname "$0")/.."

out=${1:-target/dist-out}
target=$(rustc -vV | sed -n 's/^host: //p')
version=$(cargo pkgid --package outbox-relay | sed 's/.*[#@]//')
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
name="outbox-relay-$version-$target"

# librdkafka's zlib is to be linked in, too. No path of this machine in the binary.
export LIBZ_SYS_STATIC=1 SOURCE_DATE_EPOCH=$epoch
unset OPENSSL_NO_VENDOR
home=${CARGO_HOME:-$HOME/.cargo}
export RUSTFLAGS="--remap-path-prefix=$PWD=/build --remap-path-prefix=$home=/cargo"
export CFLAGS="-O2 -fstack-protector-strong -D_FORTIFY_SOURCE=2 -ffile-prefix-map=$PWD=/build -ffile-prefix-map=$home=/cargo"
cargo build --profile dist --locked --package outbox-relay --bin outbox-relay \
  --no-default-features --features tls --target "$target"
binary="${CARGO_TARGET_DIR:-target}/$target/dist/outbox-relay"

# What the binary asks the system for: glibc, and the unwinder of GCC that comes with it.
needed=$(ldd "$binary" | awk '{ print $1 }' | sed 's|.*/||' | sort)
printf 'needs of the system: %s\n' "$(echo "$needed" | xargs)"
unexpected=$(echo "$needed" | grep -vE '^(linux-vdso|libc|libm|libdl|libpthread|librt|libgcc_s|ld-linux[a-z0-9_-]*)\.so' || true)
if [ -n "$unexpected" ]; then
  echo "linked to more than glibc: $unexpected" >&2
  exit 1
fi
glibc=$(objdump -T "$binary" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1)
printf 'needs at least: %s\n' "$glibc"
"$binary" --version

mkdir -p "$out"
release/assemble.sh "$binary" "$out/$name.tar.gz"
(cd "$out" && sha256sum -- *.tar.gz *.cdx.json >SHA256SUMS)
ls -l "$out"
