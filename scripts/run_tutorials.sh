#!/usr/bin/env bash
# Runs the notebooks of docs/tutorials, each in a folder of its own; those whose package is missing are skipped and named.
# Needs the extra `docs`. PYTHON=... names another interpreter, arguments choose notebooks: run_tutorials.sh own_data
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec env TUTORIALS="${*:-all}" "${PYTHON:-.venv/bin/python}" -m pytest tests/test_tutorials.py -q -rs
