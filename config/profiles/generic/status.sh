#!/usr/bin/env bash
# Says of a job's id: running, success or failed. See submit.sh; ask your batch system instead.
set -euo pipefail
if [ -f ".snakemake/generic/$1.exit" ]; then
    [ "$(cat ".snakemake/generic/$1.exit")" = 0 ] && echo success || echo failed
elif kill -0 "$1" 2>/dev/null; then
    echo running
else
    echo failed
fi
