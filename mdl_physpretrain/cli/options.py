"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["Workers"]

Workers = Annotated[
    str, typer.Option("--executor", help="serial, processes[:N], threads[:N] or dask://host:port (docs/cluster.md).")
]
