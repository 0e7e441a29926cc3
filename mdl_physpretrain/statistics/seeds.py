"""Means over seeds, and the difference of two arms within seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import t

__all__ = ["MIN_SEEDS", "PairedDifference", "mean_std", "paired_difference"]

NEGLIGIBLE = 1e-3
MIN_SEEDS = 3  # fewer repeats say nothing about the spread between seeds


def mean_std(values: Sequence[float] | np.ndarray | pd.Series) -> tuple[float, float, int]:
    """Mean, sample standard deviation (NaN for one value) and number of the finite values."""
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return math.nan, math.nan, 0
    return float(finite.mean()), float(finite.std(ddof=1)) if len(finite) > 1 else math.nan, len(finite)


@dataclass(frozen=True)
class PairedDifference:
    """Difference (arm minus reference) of a number measured once per seed, with its t interval."""

    reference: str
    arm: str
    quantity: str
    n_seeds: int
    mean: float
    std: float
    low: float
    high: float
    scale: float = math.nan

    @property
    def conclusion(self) -> str:
        """``lower``, ``higher`` or ``unsupported``.

        Unsupported: the interval holds zero, there are too few seeds, or the
        difference is below one part in a thousand of the reference's mean
        (``scale``), which nobody would call one.
        """
        if abs(self.mean) < NEGLIGIBLE * abs(self.scale):
            return "unsupported"
        if self.n_seeds < MIN_SEEDS or not (math.isfinite(self.low) and math.isfinite(self.high)):
            return "unsupported"
        return "lower" if self.high < 0 else "higher" if self.low > 0 else "unsupported"


def paired_difference(
    reference_values: pd.Series, arm_values: pd.Series, *, reference: str, arm: str, quantity: str
) -> PairedDifference:
    """Student's t interval (95 %) of the difference over the seeds that both arms have; values are indexed by seed."""
    both = pd.concat([reference_values, arm_values], axis=1, join="inner").dropna()
    mean, std, n = mean_std(both.iloc[:, 1] - both.iloc[:, 0])
    half = float(t.ppf(0.975, n - 1)) * std / math.sqrt(n) if n > 1 else math.nan
    return PairedDifference(
        reference, arm, quantity, n, mean, std, mean - half, mean + half, float(both.iloc[:, 0].mean())
    )
