"""Numba functions whose machine code is kept between processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba

from mdl_physpretrain.source_graph import dependencies, source_hash

__all__ = ["compiled", "exact", "on_threads"]

exact = numba.njit(nogil=True, error_model="numpy", fastmath=False)
"""Compile a helper whose arithmetic is that of IEEE, operation by operation; without it has the caller's freedoms."""


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile with numba, without the interpreter lock, and keep the machine code where there is room for it."""
    return _compiled(function)


def on_threads(function: Callable[..., Any]) -> Callable[..., Any]:
    """As :func:`compiled`, and ``numba.prange`` runs on numba's threads."""
    return _compiled(function, parallel=True)


def _compiled(function: Callable[..., Any], **overrides: Any) -> Callable[..., Any]:
    # sums may be regrouped by the compiler; NaN and infinity keep their meaning
    options: dict[str, Any] = {
        "nogil": True,
        "fastmath": {"contract", "reassoc", "nsz", "arcp"},
        "error_model": "numpy",
        **overrides,
    }
    try:
        dispatcher = numba.njit(function, cache=True, **options)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return numba.njit(function, **options)
    # numba looks at the file of the function only; what is compiled into it comes from imported modules, too
    cache_file: Any = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if hasattr(cache_file, "_source_stamp"):
        cache_file._source_stamp = (cache_file._source_stamp, source_hash(dependencies([function.__module__])))
    return dispatcher
