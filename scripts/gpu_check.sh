#!/usr/bin/env bash
# What a GPU gives, in one command that takes at most eight minutes there: tests on the device, CPU against GPU numbers,
# speed, memory. Results go to the folder OUT (./gpu-check): results.json, table.md, tests.txt, log.txt. Without a GPU it
# runs small on the CPU. Arguments go to scripts/gpu_check.py; PYTHON is the interpreter (.venv/bin/python, made where
# it is missing).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out="${OUT:-./gpu-check}"
[ -n "${PYTHON:-}" ] || [ -x .venv/bin/python ] || source scripts/setup_env.sh
python="${PYTHON:-.venv/bin/python}"
mkdir -p "$out"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
tests=0 summary="none: there is no GPU" seconds=1600
if "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  seconds=330
  PHYSPRETRAIN_TEST_DEVICE=cuda timeout 150 "$python" -m pytest -q -p no:cacheprovider tests/accelerator/everywhere.py \
    > "$out/tests.txt" 2>&1 || tests=$?
  summary="$(tail -n 1 "$out/tests.txt")"
  [ "$tests" -ne 124 ] || summary="ended after 150 s"
fi
echo "tests: $summary"
code=0
timeout "$seconds" "$python" scripts/gpu_check.py --out "$out" --tests "$summary" "$@" || code=$?
exit "$((tests > code ? tests : code))"
