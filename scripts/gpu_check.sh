#!/usr/bin/env bash
# What a GPU gives, in one command of at most eight minutes: tests on the device, CPU against GPU numbers, speed, memory.
# Results go to the folder OUT (./gpu-check): results.json, table.md, tests.txt. Without a GPU it runs small on the CPU.
# Arguments go to scripts/gpu_check.py; PYTHON is the interpreter (.venv/bin/python).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out="${OUT:-./gpu-check}"
python="${PYTHON:-.venv/bin/python}"
mkdir -p "$out"
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
tests=0
timeout 150 "$python" -m pytest -q -p no:cacheprovider -m gpu tests/accelerator/everywhere.py > "$out/tests.txt" 2>&1 || tests=$?
tail -n 1 "$out/tests.txt"
[ "$tests" -eq 5 ] && tests=0  # none was collected: there is no GPU
timeout 330 "$python" scripts/gpu_check.py --out "$out" "$@"
exit "$tests"
