#!/usr/bin/env bash
# Tries thousands of odd inputs of every kind and counts what becomes of them: scripts/fuzz.sh [seed] [kind ...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup_env.sh
export OMP_NUM_THREADS=1
exec .venv/bin/python tests/fuzz/everything.py "$@"
