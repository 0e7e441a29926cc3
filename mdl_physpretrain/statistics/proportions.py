"""Counts of unphysical trajectories with their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from scipy.stats import binomtest

from mdl_physpretrain.errors import ConfigError

__all__ = ["summarize", "wilson_interval"]

COUNTED = ("overlap", "lindemann_violation", "nan", "exploded", "physical")


def wilson_interval(count: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (sensible at 0 of 12, too).

    Parameters
    ----------
    count, total
        Successes and trials.
    confidence
        Coverage.

    Returns
    -------
    low, high
        Between 0 and 1; (0, 1) when ``total`` is 0.

    References
    ----------
    E. B. Wilson, J. Am. Stat. Assoc. 22, 209 (1927).
    """
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must lie between 0 and 1, not {confidence}")
    if not 0 <= count <= total:
        raise ConfigError(f"{count} of {total} is no proportion")
    if total == 0:
        return 0.0, 1.0
    interval = binomtest(count, total).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def summarize(table: pd.DataFrame, by: str | Sequence[str] = (), *, confidence: float = 0.95) -> pd.DataFrame:
    """Count overlaps, Lindemann violations and the rest per group.

    Parameters
    ----------
    table
        From :func:`mdl_physpretrain.dynamics.assessment`, with any columns
        added (arm, seed, ensemble, ...).
    by
        Columns to group by, in order of first appearance; all rows by default.
    confidence
        Of the Wilson intervals.

    Returns
    -------
    DataFrame
        One row per group: the ``by`` columns, ``n``, and for every verdict
        (``overlap``, ``lindemann_violation``, ``nan``, ``exploded``,
        ``physical``) its count, ``*_fraction``, ``*_low`` and ``*_high``.
        Trajectories of one model are not independent of each other: for the
        spread between models group by seed, too.

    Raises
    ------
    ConfigError
        If a column is missing.
    """
    keys = [by] if isinstance(by, str) else list(by)
    missing = [name for name in (*keys, *COUNTED) if name not in table.columns]
    if missing:
        raise ConfigError(f"no column {', '.join(missing)} in the table; there are: {', '.join(table.columns)}")
    groups = table.groupby(keys, sort=False, dropna=False) if keys else [((), table)]
    rows = []
    for values, group in groups:
        row: dict[str, Any] = dict(zip(keys, values, strict=True)) | {"n": len(group)}
        for name in COUNTED:
            count = int(group[name].astype(bool).sum())
            low, high = wilson_interval(count, len(group), confidence)
            fraction = count / len(group) if len(group) else float("nan")
            row |= {name: count, f"{name}_fraction": fraction, f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)
