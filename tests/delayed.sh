#!/usr/bin/env bash
# Runs the tests while system calls are delayed at random, so that threads meet in orders that are
# rare otherwise.
#
#     tests/delayed.sh EVERY MS [TEST...]
#
# One call in EVERY (send, recv, poll, futex, starting a thread, ...: see testkit/delay.c) sleeps
# for up to MS milliseconds. TEST is the name of a file or folder in tests/, or `lib` for the unit
# tests; without one, all run. DELAY_SEED (1 by default) selects other calls. For example:
#
#     tests/delayed.sh 20 5                        # all tests
#     DELAY_SEED=7 tests/delayed.sh 3 1 closing    # one file
#
# A test that fails with long delays may have reached a deadline of its own: repeat it with short
# ones. Tests that preload a library themselves run undelayed. Needs Linux and a C compiler.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ $# -ge 2 ] || { sed -n '2,/^$/s/^# \?//p' "${BASH_SOURCE[0]}" >&2; exit 2; }
every=$1 ms=$2
shift 2

# rustix enters the kernel without libc, where nothing can be preloaded, unless it is built with
# this flag. The flag changes all dependencies, so the binaries have a folder of their own.
target=${CARGO_TARGET_DIR:-target}/delayed
export RUSTFLAGS="${RUSTFLAGS:-} --cfg rustix_use_libc"
which=()
for name in "$@"; do
    case $name in
        lib) which+=(--lib) ;;
        *) which+=(--test "$name") ;;
    esac
done
binaries=$(cargo test --locked --target-dir "$target" "${which[@]}" \
    --no-run --message-format json-render-diagnostics |
    sed -n 's/.*"executable":"\([^"]*\/deps\/[^"]*\)".*/\1/p')
library=$(cd "$target" && pwd)/delay.so
cc -shared -fPIC -O1 -o "$library" tests/testkit/delay.c -ldl -lpthread

failed=()
for binary in $binaries; do
    name=$(basename "$binary" | sed 's/-[0-9a-f]*$//')
    printf '\n=== %s\n' "$name"
    DELAY_EVERY=$every DELAY_MS=$ms DELAY_SEED=${DELAY_SEED:-1} timeout --kill-after=10 1800 \
        env LD_PRELOAD="$library" "$binary" --test-threads 8 || failed+=("$name")
done
[ ${#failed[@]} = 0 ] || { printf '\nFAILED: %s\n' "${failed[*]}"; exit 1; }
printf '\nAll passed.\n'
