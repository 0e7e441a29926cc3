#!/usr/bin/env bash
# Makes .venv in the repository root with the package and its test extra, or does
# nothing when it is up to date. Run it, or source it from another script.
#
# PYTHON=...       interpreter to use (at least 3.11)
# TORCH_SPEC=...   which PyTorch to install (default torch==2.13.0)

setup_env() {
  local root venv stamp wanted python candidate candidates
  root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)" || return 1
  venv="$root/.venv"
  stamp="$venv/.physpretrain-stamp"
  # The folder's own path is part of the stamp: a moved or copied .venv is broken.
  wanted="$({ cat "$root/pyproject.toml" "$root/scripts/setup_env.sh"; printf '%s' "$root ${TORCH_SPEC:-}"; } | cksum)"
  if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    return 0
  fi

  if ! _physpretrain_recent "$venv/bin/python" || ! grep -qsF "$root/.venv" "$venv/bin/activate"; then
    python=""
    candidates=(python3.11 python3.12 python3.13 python3)
    if [ -n "${PYTHON:-}" ]; then candidates=("$PYTHON"); fi
    # "python -c" rather than "command -v" alone: version managers leave launchers of absent versions.
    for candidate in "${candidates[@]}"; do
      if _physpretrain_recent "$candidate"; then
        python="$candidate"
        break
      fi
    done
    if [ -z "$python" ]; then
      echo "error: Python 3.11 or newer is needed and was not found (tried: ${candidates[*]})." >&2
      echo "       Install one, or name it: PYTHON=/path/to/python3.12 bash $0" >&2
      return 1
    fi
    echo "Creating $venv with $("$python" --version 2>&1) ..."
    if ! "$python" -m venv --clear "$venv"; then
      echo "error: '$python -m venv' failed (on Debian and Ubuntu: apt install python3-venv)." >&2
      return 1
    fi
  fi

  if ! "$venv/bin/python" -c "import torch" 2>/dev/null; then
    _physpretrain_torch "$venv/bin/python" || return 1
  fi
  echo "Installing mdl_physpretrain ..."
  if ! "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -e "$root[test]"; then
    echo "error: installing mdl_physpretrain failed, see above." >&2
    return 1
  fi
  printf '%s\n' "$wanted" > "$stamp"  # last, so that an interrupted set-up starts again
}

_physpretrain_recent() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# On Linux, PyPI's torch brings several GB of CUDA libraries: without an NVIDIA
# GPU the CPU build is tried first, from wherever pip is told to look and then
# from PyTorch's own index.
_physpretrain_torch() {
  local spec pip=("$1" -m pip install --quiet --disable-pip-version-check)
  spec="${TORCH_SPEC:-torch==2.13.0}"
  echo "Installing $spec ..."
  if [ "$(uname -s)" = Linux ] && ! nvidia-smi >/dev/null 2>&1; then
    "${pip[@]}" "$spec+cpu" 2>/dev/null && return 0
    "${pip[@]}" --retries 1 --timeout 20 --index-url https://download.pytorch.org/whl/cpu "$spec" 2>/dev/null && return 0
  fi
  "${pip[@]}" "$spec" && return 0
  "${pip[@]}" --index-url https://download.pytorch.org/whl/cpu "$spec" && return 0
  echo "error: could not install $spec; install PyTorch into .venv yourself and run this again." >&2
  return 1
}

setup_env
# Sourced: hand the status to the caller; run: it is the exit status.
