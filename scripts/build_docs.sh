#!/usr/bin/env bash
# Builds the documentation site into build/site; a broken link or reference is an error.
# Needs the extra `docs`: pip install -e '.[docs]'. PYTHON=... names another interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python="${PYTHON:-.venv/bin/python}"
export NO_MKDOCS_2_WARNING=1 PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
"$python" -m mkdocs build --strict --quiet "$@"
"$python" scripts/check_site.py build/site
echo "The site: $PWD/build/site/index.html"
