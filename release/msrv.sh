#!/usr/bin/env bash
# Checks that everything compiles with the oldest Rust that Cargo.toml promises (rust-version).
#
#   release/msrv.sh [--if-available]     passes with a line where that toolchain cannot be had
set -euo pipefail
cd "$(dirname "$0")/.."

msrv=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
case "$msrv" in *.*.*) toolchain=$msrv ;; *) toolchain=$msrv.0 ;; esac
if ! rustup run "$toolchain" rustc --version >/dev/null 2>&1 &&
  ! timeout 300 rustup toolchain install "$toolchain" --profile minimal --no-self-update; then
  # Whoever only looks whether it compiles here goes on without.
  [ "${1:-}" = --if-available ] || exit 1
  echo "skipped: Rust $toolchain cannot be had here"
  exit
fi
rustup run "$toolchain" rustc --version
# OpenSSL is C, so that its own build says nothing about Rust.
if pkg-config --exists openssl; then export OPENSSL_NO_VENDOR=1; fi
# A folder of its own: another compiler would build everything anew in the usual one.
CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/msrv" \
  rustup run "$toolchain" cargo check --workspace --all-targets --locked --quiet
echo "compiles with Rust $toolchain"
