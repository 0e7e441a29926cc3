"""Falls and jumps of energy curves, and tables of such flags."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mdl_physpretrain.probes.base import Answer
from mdl_physpretrain.probes.page import by_arm

__all__ = ["deepest_fall", "flag_answer", "flag_counts", "standing_out", "stands_out", "unexplained_jump"]

STANDS_OUT = 2.0  # times both neighbouring differences; those of a smooth curve on a sensible grid are alike
FLAGS = ("hole", "missing_repulsion", "spurious_minima", "collapse", "discontinuity")
MAX_NAMED = 4


def deepest_fall(energy: np.ndarray, least_rise: float) -> tuple[float, int]:
    """Depth and lowest index of the deepest fall below an earlier maximum, after a rise of ``least_rise``."""
    highest = np.maximum.accumulate(energy)
    fall = np.where(highest - energy[0] > least_rise, highest - energy, 0.0)
    index = int(np.argmax(fall))
    return float(fall[index]), index


def standing_out(differences: np.ndarray) -> float:
    """The largest step that is more than twice both of its neighbours, else 0; the first and the last do not count."""
    return float(np.abs(differences)[stands_out(differences)].max(initial=0.0))


def stands_out(differences: np.ndarray) -> np.ndarray:
    """Which steps are more than twice both of their neighbours, shape (n,)."""
    size = np.abs(differences)
    mask = np.zeros(len(size), dtype=bool)
    mask[1:-1] = size[1:-1] > STANDS_OUT * np.maximum(size[:-2], size[2:])
    return mask


def unexplained_jump(r: np.ndarray, energy: np.ndarray, force: np.ndarray) -> float:
    """Largest change of the energy that neither forces nor neighbouring changes explain, eV."""
    change, step = np.diff(energy), np.diff(r)
    # the mean force of an interval is within the forces around it
    around = np.pad(force, 1, mode="edge")
    four = np.stack([around[k : k + len(step)] for k in range(4)])
    mean = 0.5 * (force[:-1] + force[1:])
    unexplained = np.abs(change + mean * step) - 0.5 * (four.max(0) - four.min(0)) * step
    return float(np.maximum(unexplained, 0.0)[stands_out(change)].max(initial=0.0))


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
