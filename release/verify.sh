#!/usr/bin/env bash
# Checks the tarball that release/assemble.sh makes of a built relay.
#
#   release/verify.sh BINARY
#
# It is made twice, in different surroundings, and must be the same byte for byte; unpacked, the binary must
# run, each command must have its manual page, and each link of the documents must lead somewhere.
set -euo pipefail
binary=$(realpath "${1:?usage: release/verify.sh BINARY}")
cd "$(dirname "$0")/.."
fail() {
  printf 'release: %s\n' "$1" >&2
  exit 1
}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

name=outbox-relay-verified
release/assemble.sh "$binary" "$scratch/one/$name.tar.gz"
(
  umask 077
  export TZ=Asia/Tokyo LC_ALL=C.UTF-8 OUTBOX_RELAY_CONFIG=/nowhere HOME=/nowhere
  cd "$scratch"
  "$OLDPWD/release/assemble.sh" "$binary" "two/$name.tar.gz"
)
cmp "$scratch/one/$name.tar.gz" "$scratch/two/$name.tar.gz" || fail "two tarballs of the same files differ"
echo "release: two tarballs are the same, $(stat -c %s "$scratch/one/$name.tar.gz") bytes"

tar -xzf "$scratch/one/$name.tar.gz" -C "$scratch"
root="$scratch/$name"
[ "$(find "$scratch" -mindepth 1 -maxdepth 1 | wc -l)" -eq 3 ] || fail "the tarball has more than one folder"
said=$(env -i "$root/outbox-relay" --version)
[ "$said" = "$(env -i "$binary" --version)" ] || fail "the program in it says \"$said\""
env -i "$root/outbox-relay" config reference | cmp - "$root/config/relay.yaml" || fail "config/relay.yaml is another one's"
strangers=$(cd "$root" && find . -type f \( -name '*.sh' -o -name '*.py' -o -name '*.rs' \) -o -perm /022)
[ -z "$strangers" ] || fail "not for users, or to be written by all: $strangers"
for file in LICENSE systemd/outbox-relay.service monitoring/alerts.yaml monitoring/dashboard.json \
  docs/images/page-light.png share/man/man1/outbox-relay.1 share/man/man1/outbox-relay-dead-letters-replay.1 \
  share/bash-completion/completions/outbox-relay share/zsh/site-functions/_outbox-relay \
  share/fish/vendor_completions.d/outbox-relay.fish; do
  [ -s "$root/$file" ] || fail "$file is missing"
done
bash -n "$root/share/bash-completion/completions/outbox-relay"

links() { # links ROOT: every link of the documents below it, as docs/verify.py follows them
  python3 - "$1" <<'PYTHON'
import pathlib, sys

sys.dont_write_bytecode = True
sys.path.insert(0, "docs")
import verify

checker = verify.Checker(pathlib.Path(sys.argv[1]).resolve())
checker.links()
print(*checker.problems, sep="\n", end="\n" if checker.problems else "")
print(f"release: {len(checker.pages)} documents, {checker.counts['links']} links, problems: {len(checker.problems)}")
sys.exit(1 if checker.problems else 0)
PYTHON
}
links "$root"
# Would it notice?
rm "$root/docs/http.md"
if links "$root" >/dev/null; then
  fail "a link to a document that is not there goes unnoticed"
fi
