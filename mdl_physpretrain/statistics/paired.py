"""Paired comparison of failures: two potentials on the same structures, velocities and noise."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from scipy.stats import binomtest

from mdl_physpretrain.statistics.seeds import MIN_SEEDS

__all__ = ["Comparison", "PotentialPair", "compare_counts", "compare_potentials", "mcnemar_exact"]

ALPHA = 0.05


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar test of paired yes/no outcomes.

    Under the null hypothesis each discordant pair is a fair coin.

    Parameters
    ----------
    only_first, only_second
        Pairs in which only the first, only the second one fails.

    Returns
    -------
    float
        The p-value; 1 without discordant pairs.

    Raises
    ------
    ValueError
        If a count is negative.

    References
    ----------
    Q. McNemar, Psychometrika 12, 153 (1947), in its exact (binomial) form.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"counts must not be negative, got {only_first} and {only_second}")
    total = only_first + only_second
    return float(binomtest(only_first, total, 0.5).pvalue) if total else 1.0


def _paired(table: pd.DataFrame, criterion: str, reference: str, other: str) -> tuple[pd.DataFrame, pd.Series]:
    """Outcomes of both for every (structure_id, seed) that both have, and their change (1: only ``other`` fails)."""
    # the occurrence makes a repeated structure pair with its own repeat, not with all of them
    repeat = table.groupby(["arm", "structure_id", "seed"]).cumcount()
    wide = table.assign(repeat=repeat).pivot(index=["structure_id", "seed", "repeat"], columns="arm", values=criterion)
    wide = wide.reindex(columns=[reference, other]).dropna().astype(bool)
    return wide, wide[other].astype(int) - wide[reference].astype(int)


@dataclass(frozen=True)
class Comparison:
    """Paired trajectories (same structure, same seed) of two arms."""

    reference: str
    arm: str
    criterion: str
    condition: str
    n_pairs: int
    n_unpaired: int
    only_reference: int  # pairs in which only the reference fails
    only_arm: int  # pairs in which only the arm fails
    p_value: float
    seeds_better: int  # seeds in which the arm fails less
    seeds_worse: int  # more
    seeds_equal: int  # equally often

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
    def conclusion(self) -> str:
        """``supported``, ``indicated`` or ``unsupported``.

        Trajectories of one seed share a network, so a small p-value alone is
        not enough: at least three seeds, and none that points the other way.
        """
        if not self.n_pairs or self.p_value >= ALPHA:
            return "unsupported"
        against = self.seeds_worse if self.direction == "fewer" else self.seeds_better
        return "supported" if self.n_seeds >= MIN_SEEDS and against == 0 else "indicated"


def compare_counts(table: pd.DataFrame, reference: str, arm: str, criterion: str, condition: str) -> Comparison:
    """Compare how often (boolean column ``criterion``) two arms fail under a condition, over paired trajectories."""
    table = table[table["condition"] == condition]
    pairs, change = _paired(table, criterion, reference, arm)
    only_reference, only_arm = int((change < 0).sum()), int((change > 0).sum())
    per_seed = change.groupby(level="seed").sum()
    return Comparison(
        reference=reference,
        arm=arm,
        criterion=criterion,
        condition=condition,
        n_pairs=len(pairs),
        n_unpaired=int(table["arm"].isin([reference, arm]).sum()) - 2 * len(pairs),
        only_reference=only_reference,
        only_arm=only_arm,
        p_value=mcnemar_exact(only_reference, only_arm),
        seeds_better=int((per_seed < 0).sum()),
        seeds_worse=int((per_seed > 0).sum()),
        seeds_equal=int((per_seed == 0).sum()),
    )


@dataclass(frozen=True)
class PotentialPair:
    """Paired trajectories of two finished potentials.

    Seeds are those of velocities and noise: trajectories of one structure are
    repeats of each other and not of a training. What is counted in the end
    are structures, and what is said is about these two potentials only.

    Attributes
    ----------
    reference, potential
        Their names.
    n_pairs, only_reference, only_potential
        Pairs, and those in which only one of the two is unphysical.
    p_pairs
        Exact McNemar test of the pairs.
    n_structures, n_seeds
        What the pairs are made of.
    structures_better, structures_worse
        Structures with fewer, with more unphysical trajectories of ``potential``.
    p_structures
        The same test of the structures (the sign test): repeats of a structure
        are not independent of each other, structures are. Without repeats it
        equals ``p_pairs``.
    """

    reference: str
    potential: str
    n_pairs: int
    only_reference: int
    only_potential: int
    p_pairs: float
    n_structures: int
    n_seeds: int
    structures_better: int
    structures_worse: int
    p_structures: float

    @property
    def direction(self) -> str:
        """``fewer``, ``more`` or ``equal`` failures of ``potential``."""
        difference = self.structures_worse - self.structures_better
        return "equal" if difference == 0 else "more" if difference > 0 else "fewer"

    @property
    def conclusion(self) -> str:
        """``supported``, ``indicated`` (by pairs, not by structures) or ``unsupported``."""
        if self.direction != "equal" and self.p_structures < ALPHA:
            return "supported"
        return "indicated" if self.direction != "equal" and self.p_pairs < ALPHA else "unsupported"

    def sentence(self) -> str:
        """The comparison and what it supports, in words."""
        if not self.n_pairs:
            return f"{self.potential} and {self.reference} share no trajectory, so nothing is compared."
        p, q = self.potential, self.reference
        start = (
            f"{p} against {q}: of {_count(self.n_pairs, 'pair')} of trajectories (same structure, velocities and "
            f"noise) {_fail(self.only_reference)} only with {q} and {_fail(self.only_potential)} only with {p} "
            f"(exact McNemar {_p(self.p_pairs)})."
        )
        if self.n_seeds > 1:
            start += (
                f" {p} fails less often in {self.structures_better} and more often in {self.structures_worse} of "
                f"{_count(self.n_structures, 'structure')} ({_p(self.p_structures)})."
            )
        about = (
            "This is about these two potentials on structures like these: velocities and noise were "
            f"{'repeated' if self.n_seeds > 1 else 'drawn once'}, trainings were not, so it says nothing about two "
            "ways of training."
        )
        if self.conclusion == "supported":
            return (
                f"{start} That {p} fails {'less' if self.direction == 'fewer' else 'more'} often is supported. {about}"
            )
        if self.conclusion == "indicated":
            return (
                f"{start} The pairs point to {self.direction} failures of {p}, but repeats of a structure are not "
                f"independent, and too few structures differ: not established. {about}"
            )
        few = (
            ", and there are too few structures for this test to show any"
            if 2.0 ** (1 - self.n_structures) >= ALPHA
            else ""
        )
        return f"{start} A difference is not supported{few}. {about}"


def compare_potentials(table: pd.DataFrame, reference: str, potential: str) -> PotentialPair:
    """Compare how often two finished potentials are unphysical; ``table`` has ``structure_id, seed, arm, physical``."""
    failed = table.assign(failed=~table["physical"].astype(bool))
    pairs, change = _paired(failed, "failed", reference, potential)
    only_reference, only_potential = int((change < 0).sum()), int((change > 0).sum())
    per_structure = change.groupby(level="structure_id").sum()
    better, worse = int((per_structure < 0).sum()), int((per_structure > 0).sum())
    return PotentialPair(
        reference=reference,
        potential=potential,
        n_pairs=len(pairs),
        only_reference=only_reference,
        only_potential=only_potential,
        p_pairs=mcnemar_exact(only_reference, only_potential),
        n_structures=len(per_structure),
        n_seeds=int(pairs.index.get_level_values("seed").nunique()),
        structures_better=better,
        structures_worse=worse,
        p_structures=mcnemar_exact(better, worse),
    )


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" + ("" if n == 1 else "s")


def _fail(n: int) -> str:
    return "1 fails" if n == 1 else f"{n} fail"


def _p(p: float) -> str:
    return f"p = {p:.3f}" if p >= 0.0005 else f"p = {p:.0e}"
