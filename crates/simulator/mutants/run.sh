#!/usr/bin/env bash
# Plants each bug of this directory, one after the other, and demands that the simulator finds it;
# first that it finds nothing without them.
#
#   crates/simulator/mutants/run.sh [NAME...]       all patches, or those whose names begin so
#
#   SEEDS=2000          seeds for each bug, at most
#   CLEAN_SEEDS=2000    seeds for the code as it is
#   PROFILE=release     or dev: builds faster, runs slower
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(git -C "$here" rev-parse --show-toplevel)
seeds=${SEEDS:-2000}
clean_seeds=${CLEAN_SEEDS:-2000}
profile=${PROFILE:-release}
target=${CARGO_TARGET_DIR:-$root/target}
scratch=$(mktemp -d)/tree
trap 'git -C "$root" worktree remove --force "$scratch"' EXIT
git -C "$root" worktree add --quiet --detach "$scratch" HEAD

built=$target/$profile/outbox-simulator
[ "$profile" = dev ] && built=$target/debug/outbox-simulator

# Builds what is in the scratch tree, and runs seeds.
run() {
    (cd "$scratch" && CARGO_TARGET_DIR=$target CARGO_INCREMENTAL=1 \
        cargo build --quiet --locked -p outbox-simulator --profile "$profile" 2>"$scratch/../build.log") || {
        cat "$scratch/../build.log"
        return 2
    }
    timeout 600 "$built" --seeds "$1" --most "$2" 2>/dev/null
}

if [ $# -eq 0 ]; then
    if ! said=$(run "$clean_seeds" 5); then
        printf 'without a bug, the simulator finds one:\n%s\n' "$said"
        exit 1
    fi
    printf '%-36s clean: %s\n' none "$(tail -n 1 <<<"$said")"
fi

missed=0
for patch in "$here"/*.patch; do
    name=$(basename "$patch" .patch)
    if [ $# -gt 0 ]; then
        wanted=no
        for prefix in "$@"; do [[ $name == "$prefix"* ]] && wanted=yes; done
        [ $wanted = yes ] || continue
    fi
    git -C "$scratch" checkout --quiet -- .
    git -C "$scratch" apply "$patch"
    if said=$(run "$seeds" 1); then
        printf '%-36s MISSED\n' "$name"
        missed=1
    else
        printf '%-36s %s\n' "$name" "$(head -n 1 <<<"$said" | cut -c 1-150)"
    fi
done
exit $missed
