#!/usr/bin/env bash
# Sets up .venv if needed and runs the main job on the shipped data. Interrupted?
# The same command goes on where it stopped. Further arguments go to `physpretrain run`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup_env.sh
.venv/bin/physpretrain run demo --output runs/demo "$@"
echo
echo "The report: $PWD/runs/demo/report/index.html"
