#!/usr/bin/env bash
# Sets up .venv if needed and runs the tests, a process per core (at most 4); further arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup_env.sh
cores="$(.venv/bin/python -c 'import os; print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())')"
export OMP_NUM_THREADS=1
exec .venv/bin/python -m pytest -n "$((cores < 4 ? cores : 4))" --dist loadfile "$@"
