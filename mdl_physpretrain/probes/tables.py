"""Reading and joining the CSV tables of run folders and checks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

__all__ = ["TEXT", "joined", "read_table"]

TEXT = ("structure_id", "arm", "pair", "set", "split", "formula", "reason", "ensemble", "element", "part", "label",
        "question", "verdict", "finding")  # fmt: skip
NOTHING = ["", "nan", "NaN", "<NA>", "None"]


def read_table(path: Path, *, texts: Sequence[str] = (), whole_steps: bool = True) -> pd.DataFrame:
    """A CSV table in which names such as ``NA`` are names, and ``007`` is not 7.

    ``texts`` are further columns of text.
    """
    columns = pd.read_csv(path, nrows=0).columns
    text = {*TEXT, *texts}
    types: Any = dict.fromkeys(text, str) | ({"first_unphysical_step": "Int64"} if whole_steps else {})
    missing = {c: [""] if c in text else NOTHING for c in columns}
    return pd.read_csv(path, dtype=types, keep_default_na=False, na_values=missing)


def joined(tables: Sequence[pd.DataFrame]) -> str:
    """Several tables of a kind as the text of one CSV file."""
    return pd.concat([t.astype(object) for t in tables], ignore_index=True).to_csv(index=False)
