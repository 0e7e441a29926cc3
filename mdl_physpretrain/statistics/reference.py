"""What potentials lose in MD that a reference potential keeps: verdicts relative to the reference's own MD."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import ttest_1samp

from mdl_physpretrain.statistics.paired import mcnemar_exact
from mdl_physpretrain.statistics.proportions import wilson_interval

__all__ = ["REFERENCE_POTENTIAL", "BesideReference", "beside_reference", "compare_with_reference", "has_reference"]

REFERENCE_POTENTIAL = "reference potential"  # as an arm; no arm or potential can have a name with a space
KEPT, LINDEMANN, BROKEN = "kept", "lindemann", "broken"


def beside_reference(table: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """Add what the reference potential did from the same start, and whether a loss counts against the potential.

    A trajectory is held against a potential when it is lost and the reference
    keeps it to its end, however early or late it is lost. One that the
    reference loses, too, at any time, is not: when a crystal melts is chance,
    and the reference says no more than that it does. The exception is an
    overlap, a NaN or an explosion where the reference violates nothing but the
    Lindemann limits: melting excuses melting, not atoms that fall into each
    other. A reference that itself overlaps or explodes excuses everything.

    Parameters
    ----------
    table, reference
        Of :func:`mdl_physpretrain.dynamics.assessment.assess`, each structure
        once, of one simulation.

    Returns
    -------
    DataFrame
        With ``reference_verdict`` (``kept``, ``lindemann``: that alone,
        ``broken``, or empty where the reference was not run),
        ``reference_step`` (at which it was lost, else its last) and
        ``held_against`` (empty where there is no reference).
    """
    by_id = reference.assign(structure_id=reference["structure_id"].astype(str)).set_index("structure_id")
    kept, fell = by_id["physical"].astype(bool), by_id[["overlap", "nan", "exploded"]].astype(bool).any(axis=1)
    melted = by_id["lindemann_violation"].astype(bool) & ~fell
    verdict = pd.Series(np.select([kept, melted], [KEPT, LINDEMANN], BROKEN), by_id.index)
    step = by_id["first_unphysical_step"].where(~kept).fillna(by_id["steps_done"])
    ids = table["structure_id"].astype(str)
    beside = ids.map(verdict)
    lost = ~table["physical"].astype(bool)
    falls = table[["overlap", "nan", "exploded"]].astype(bool).any(axis=1)
    held = lost & ((beside == KEPT) | ((beside == LINDEMANN) & falls))
    return table.assign(
        reference_verdict=beside,
        reference_step=ids.map(step).astype("Int64"),
        held_against=held.astype("boolean").where(beside.notna()),
    )


def has_reference(table: pd.DataFrame | None) -> bool:
    """Whether any trajectory of a table has one of the reference potential beside it."""
    return table is not None and "reference_verdict" in table and bool(table["reference_verdict"].notna().any())


@dataclass(frozen=True)
class BesideReference:
    """Trajectories of one arm beside those of the reference potential from the same starts.

    Attributes
    ----------
    total, without
        Trajectories with a reference, and those without, which do not count here.
    kept, lost, low, high
        Those that the reference keeps to the end; of these, the ones that the
        arm loses, with Wilson's 95 % bounds of their share.
    fell
        Lost by overlap, NaN or explosion where the reference violates the
        Lindemann limits alone: held against the arm, too.
    excused
        Lost, but not held against the arm: the reference loses them, too.
    per_seed
        What is held against the arm, by seed.
    only_reference, only_arm, p_value
        Pairs in which one of the two fails, and McNemar's exact test of them.
    time, time_low, time_high, n_structures
        Mean of the time that a trajectory of the arm stays physical (at most
        its length) minus that of its reference, ps, with Student's 95 %
        interval over structures (NaN for fewer than two, or without spread).
    """

    arm: str
    condition: str
    total: int
    without: int
    kept: int
    lost: int
    low: float
    high: float
    fell: int
    excused: int
    per_seed: tuple[tuple[int, int], ...]
    only_reference: int
    only_arm: int
    p_value: float
    time: float
    time_low: float
    time_high: float
    n_structures: int

    @property
    def held(self) -> int:
        """What is held against the arm."""
        return self.lost + self.fell

    @property
    def row(self) -> dict[str, object]:
        """The attributes as one row of a table."""
        values = dict(vars(self))
        return values | {"held": self.held, "per_seed": " ".join(str(n) for _, n in self.per_seed)}


def compare_with_reference(table: pd.DataFrame, arms: Sequence[str]) -> list[BesideReference]:
    """Compare arms with the reference potential, by condition.

    Parameters
    ----------
    table
        Rows with ``structure_id, seed, arm, condition, physical, overlap, nan,
        exploded, first_unphysical_step, steps_done, timestep`` (fs) and the
        columns of :func:`beside_reference`.
    arms
        Their order; arms and conditions without a reference are left out.
    """
    if not has_reference(table):
        return []
    rows = []
    for condition, part in table.groupby("condition", sort=False):
        for arm in arms:
            mine = part[part["arm"] == arm]
            pairs = mine[mine["reference_verdict"].notna()]
            if arm != REFERENCE_POTENTIAL and len(pairs):
                rows.append(_compare(arm, str(condition), pairs, len(mine) - len(pairs)))
    return rows


def _compare(arm: str, condition: str, pairs: pd.DataFrame, without: int) -> BesideReference:
    held = pairs["held_against"].astype(bool)
    kept, lost = pairs["reference_verdict"] == KEPT, ~pairs["physical"].astype(bool)
    counts = int((kept & lost).sum()), int(kept.sum())
    low, high = wilson_interval(*counts)
    end = pairs["first_unphysical_step"].where(lost).fillna(pairs["steps_done"]).astype(float)
    picoseconds = (end - pairs["reference_step"].astype(float)) * pairs["timestep"].astype(float) / 1000
    of_structures = picoseconds.groupby(pairs["structure_id"]).mean()
    interval = (math.nan, math.nan)
    if len(of_structures) > 1 and of_structures.std() > 0:
        interval = tuple(ttest_1samp(of_structures, 0.0).confidence_interval(0.95))
    only_reference, only_arm = int((~kept & ~lost).sum()), int((kept & lost).sum())
    per_seed = held.groupby(pairs["seed"]).sum()
    return BesideReference(
        arm=arm,
        condition=condition,
        total=len(pairs),
        without=without,
        kept=counts[1],
        lost=counts[0],
        low=low,
        high=high,
        fell=int((held & ~kept).sum()),
        excused=int((lost & ~held).sum()),
        per_seed=tuple((int(seed), int(n)) for seed, n in per_seed.items()),  # type: ignore[call-overload]
        only_reference=only_reference,
        only_arm=only_arm,
        p_value=mcnemar_exact(only_reference, only_arm),
        time=float(of_structures.mean()),
        time_low=float(interval[0]),
        time_high=float(interval[1]),
        n_structures=len(of_structures),
    )
