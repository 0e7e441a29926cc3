#!/usr/bin/env bash
# Sets up .venv if needed and runs the tests; further arguments go to pytest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup_env.sh
export OMP_NUM_THREADS=1
exec .venv/bin/python -m pytest "$@"
