#!/usr/bin/env bash
# Puts a built relay and what belongs to it into a tarball.
#
#   release/assemble.sh BINARY OUT.tar.gz     its one folder is named like the file
#
# SBOMs (*.cdx.json) that lie beside OUT.tar.gz become part of it. The same sources and the same binary give
# the same bytes: files are dated by SOURCE_DATE_EPOCH (default: the last commit).
set -euo pipefail
binary=$(realpath "${1:?usage: release/assemble.sh BINARY OUT.tar.gz}")
out=${2:?usage: release/assemble.sh BINARY OUT.tar.gz}
mkdir -p "$(dirname "$out")"
out=$(realpath "$(dirname "$out")")/$(basename "$out")
cd "$(dirname "$0")/.."
umask 022
export LC_ALL=C

name=$(basename "$out" .tar.gz)
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
version=$(env -i "$binary" --version)
version=${version##* }
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
stage="$scratch/$name"

install -D -m 0755 "$binary" "$stage/outbox-relay"
install -m 0644 LICENSE README.md CHANGELOG.md "$stage/"
install -D -m 0644 -t "$stage/config" config/relay.yaml
install -D -m 0644 -t "$stage/config/examples" config/examples/*.yaml
# What runs it and watches it; not what checks that.
install -D -m 0644 -t "$stage/systemd" systemd/README.md systemd/outbox-relay.service
install -D -m 0644 -t "$stage/monitoring" monitoring/README.md monitoring/alerts.yaml monitoring/dashboard.json
install -D -m 0644 -t "$stage/docs" docs/*.md
install -D -m 0644 -t "$stage/docs/adr" docs/adr/*.md
install -D -m 0644 -t "$stage/docs/images" docs/images/*

# Manual pages and completions, where /usr and /usr/local have them. No environment: a value in it could
# get into a help text.
env -i "$binary" man --dir "$stage/share/man/man1"
completions() { # completions SHELL FILE
  mkdir -p "$(dirname "$stage/share/$2")"
  env -i "$binary" completions "$1" >"$stage/share/$2"
}
completions bash bash-completion/completions/outbox-relay
completions zsh zsh/site-functions/_outbox-relay
completions fish fish/vendor_completions.d/outbox-relay.fish

# A link to what is not in the tarball leads to where that is.
python3 - "$stage" "v$version" <<'PYTHON'
import os, pathlib, re, sys

stage, tag = pathlib.Path(sys.argv[1]), sys.argv[2]
here = pathlib.Path.cwd()
repository = re.search(r'^repository = "(.*)"', pathlib.Path("Cargo.toml").read_text(), re.M)[1]

for page in stage.rglob("*.md"):
    def led(link):
        name, mark, anchor = link[1].partition("#")
        if not name or re.match(r"[a-z][a-z0-9+.-]*:", name):
            return link[0]
        path = os.path.normpath(page.parent.relative_to(stage) / name)
        if path.startswith("..") or (stage / path).exists() or not (here / path).exists():
            return link[0]
        kind = "tree" if (here / path).is_dir() else "blob"
        return f"]({repository}/{kind}/{tag}/{path}{mark}{anchor})"

    page.write_text(re.sub(r"\]\(([^()\s]+)\)", led, page.read_text()))
PYTHON

# What release/sbom.sh has written, if it has.
shopt -s nullglob
sboms=("$(dirname "$out")"/*.cdx.json)
[ "${#sboms[@]}" -eq 0 ] || install -m 0644 "${sboms[@]}" "$stage/"
tar --directory "$scratch" --sort=name --format=gnu --mtime="@$epoch" --owner=0 --group=0 \
  --numeric-owner --mode='u+rwX,go+rX,go-w' -cf - "$name" | gzip -n -9 >"$out"
