"""Tables of flags of energy curves, and answers made of them."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from mdl_physpretrain.probes.base import Answer
from mdl_physpretrain.probes.page import by_arm

__all__ = ["flag_answer", "flag_counts"]

FLAGS = ("hole", "missing_repulsion", "spurious_minima", "collapse", "discontinuity")
MAX_NAMED = 4


def flag_answer(table: pd.DataFrame | None, column: str, plural: str) -> Answer | None:
    """Answer "yes" where no curve has a flag, else the first few that have one; ``column`` names the curves."""
    if table is None or not len(table):
        return None
    flagged = table[~table["ok"].astype(bool)]
    words = f"{len(table) - len(flagged)} of {len(table)} {plural} without a flag"
    if not len(flagged):
        return "yes", words
    kinds = [flag for flag in FLAGS if flag in flagged]
    named = []
    for row in flagged.to_dict("records")[:MAX_NAMED]:
        named.append(f"{row[column]} ({', '.join(c.replace('_', ' ') for c in kinds if row[c])})")
    remainder = f" and {len(flagged) - MAX_NAMED} more" if len(flagged) > MAX_NAMED else ""
    return "no", f"{words}; {', '.join(named)}{remainder}"


def flag_counts(table: pd.DataFrame, arms: Sequence[str], flags: Sequence[str], by: str | None = None) -> pd.DataFrame:
    """``arm``, the column ``by``, ``curves``, how many have each flag, and how many have none (``ok``)."""
    rows = []
    for arm, rows_of_arm in by_arm(table, arms):
        for name, group in rows_of_arm.groupby(by, sort=False) if by else [(None, rows_of_arm)]:
            row = {"arm": arm} | ({by: name} if by else {}) | {"curves": len(group)}
            for flag in (*flags, "ok"):
                values = pd.to_numeric(group[flag], errors="coerce") if flag in group else pd.Series(dtype=float)
                row[flag] = int((values.fillna(0) > 0).sum())
            rows.append(row)
    return pd.DataFrame(rows)
