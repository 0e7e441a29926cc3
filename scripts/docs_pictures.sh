#!/usr/bin/env bash
# Redraws the pictures of README and docs that are those of the demo: copies the figures of its report.
# Runs the demo first, or goes on with it (scripts/demo.sh). An argument names the folder of a run that is finished.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ $# -eq 0 ]; then bash scripts/demo.sh; fi
figures="${1:-runs/demo}/report/figures"
for name in coverage diatomics failing_frames failure_steps learning_curves parity; do
  cp "$figures/$name.png" "docs/pictures/$name.png"
done
cp "$figures/min_distances.png" docs/pictures/smallest_distances.png
cp "$figures/failure_steps.png" docs/demo_survival.png
