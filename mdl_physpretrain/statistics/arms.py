"""Is a difference between arms more than chance? Counts, pairs, seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import t

from mdl_physpretrain.statistics.proportions import wilson_interval

__all__ = ["Comparison", "PairedDifference", "compare_counts", "mcnemar_exact", "mean_std", "paired_difference"]

ALPHA = 0.05
NEGLIGIBLE = 1e-3
MIN_SEEDS = 3  # fewer repeats say nothing about the spread between seeds


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar test of paired yes/no outcomes.

    Under the null hypothesis each discordant pair is a fair coin:
    ``p = min(1, 2 sum_{k <= min(b, c)} C(b+c, k) / 2^(b+c))``.

    Parameters
    ----------
    only_first, only_second
        Pairs in which only the first, only the second one fails (b and c).

    Returns
    -------
    float
        The p-value; 1 without discordant pairs.

    Raises
    ------
    ValueError
        If a count is negative.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"counts must not be negative, got {only_first} and {only_second}")
    n = only_first + only_second
    tail = sum(math.comb(n, k) for k in range(min(only_first, only_second) + 1))
    return min(1.0, 2 * tail / 2**n)


def mean_std(values: Sequence[float] | np.ndarray | pd.Series) -> tuple[float, float, int]:
    """Mean, sample standard deviation (NaN for one value) and number of the finite values."""
    finite = np.asarray(values, dtype=float)
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return math.nan, math.nan, 0
    return float(finite.mean()), float(finite.std(ddof=1)) if len(finite) > 1 else math.nan, len(finite)


@dataclass(frozen=True)
class Comparison:
    """Paired trajectories (same structure, same seed) of two arms.

    Attributes
    ----------
    only_reference, only_arm
        Pairs in which only the reference, only the arm fails.
    seeds_better, seeds_worse, seeds_equal
        Seeds in which the arm fails less, more, equally often.
    """

    reference: str
    arm: str
    criterion: str
    condition: str
    n_pairs: int
    n_unpaired: int
    only_reference: int
    only_arm: int
    p_value: float
    seeds_better: int
    seeds_worse: int
    seeds_equal: int

    @property
    def n_seeds(self) -> int:
        """Seeds with pairs."""
        return self.seeds_better + self.seeds_worse + self.seeds_equal

    @property
    def direction(self) -> str:
        """``fewer``, ``more`` or ``equal`` failures of the arm."""
        if self.only_arm == self.only_reference:
            return "equal"
        return "fewer" if self.only_arm < self.only_reference else "more"

    @property
    def verdict(self) -> str:
        """``supported``, ``indicated`` or ``unsupported``.

        Trajectories of one seed share a network, so a small p-value alone is
        not enough: at least three seeds, and none that points the other way.
        """
        if not self.n_pairs or self.p_value >= ALPHA:
            return "unsupported"
        against = self.seeds_worse if self.direction == "fewer" else self.seeds_better
        return "supported" if self.n_seeds >= MIN_SEEDS and against == 0 else "indicated"


def compare_counts(table: pd.DataFrame, reference: str, arm: str, criterion: str, condition: str) -> Comparison:
    """Compare how often two arms fail, over paired trajectories.

    Parameters
    ----------
    table
        Rows with ``structure_id, seed, arm, condition`` and the boolean column ``criterion``.
    reference, arm
        The two arms.
    criterion
        Name of the boolean column, true where a trajectory fails.
    condition
        Which rows of ``table`` to use.
    """
    here = table[table["condition"] == condition]
    key = ["structure_id", "seed"]
    # the occurrence makes a repeated structure pair with its own repeat, not with all of them
    sides = []
    for name in (reference, arm):
        side = here.loc[here["arm"] == name, [*key, criterion]].copy()
        side["repeat"] = side.groupby(key).cumcount()
        sides.append(side)
    pairs = sides[0].merge(sides[1], on=[*key, "repeat"], suffixes=("_reference", "_arm"))
    first, second = pairs[f"{criterion}_reference"].astype(bool), pairs[f"{criterion}_arm"].astype(bool)
    only_reference, only_arm = int((first & ~second).sum()), int((~first & second).sum())
    change = (second.astype(int) - first.astype(int)).groupby(pairs["seed"]).sum()
    return Comparison(
        reference=reference,
        arm=arm,
        criterion=criterion,
        condition=condition,
        n_pairs=len(pairs),
        n_unpaired=len(sides[0]) + len(sides[1]) - 2 * len(pairs),
        only_reference=only_reference,
        only_arm=only_arm,
        p_value=mcnemar_exact(only_reference, only_arm),
        seeds_better=int((change < 0).sum()),
        seeds_worse=int((change > 0).sum()),
        seeds_equal=int((change == 0).sum()),
    )


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
    def verdict(self) -> str:
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
    """Student's t interval (95 %) of the difference over the seeds that both arms have.

    Parameters
    ----------
    reference_values, arm_values
        One number per seed, indexed by seed.
    reference, arm, quantity
        Names.
    """
    both = pd.concat([reference_values, arm_values], axis=1, join="inner").dropna()
    mean, std, n = mean_std(both.iloc[:, 1] - both.iloc[:, 0])
    half = float(t.ppf(0.975, n - 1)) * std / math.sqrt(n) if n > 1 else math.nan
    return PairedDifference(
        reference, arm, quantity, n, mean, std, mean - half, mean + half, float(both.iloc[:, 0].mean())
    )


def wilson(successes: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share; (NaN, NaN) for a total of zero."""
    if total <= 0:
        return math.nan, math.nan

    return wilson_interval(successes, total, 0.95)
