"""Does one potential fail more often than another? Paired trajectories of two finished potentials.

Seeds are those of velocities and noise here: trajectories of one structure
are repeats of each other and not of the training. What is counted in the end
are structures, and what is said is about these two potentials only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mdl_physpretrain.statistics.arms import mcnemar_exact

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["PotentialPair", "compare_potentials"]

ALPHA = 0.05


@dataclass(frozen=True)
class PotentialPair:
    """Trajectories with the same structure, velocities and noise of two potentials.

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
    def verdict(self) -> str:
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
        if self.verdict == "supported":
            return (
                f"{start} That {p} fails {'less' if self.direction == 'fewer' else 'more'} often is supported. {about}"
            )
        if self.verdict == "indicated":
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
    """Compare how often two potentials are unphysical.

    Parameters
    ----------
    table
        Rows of one simulation: ``structure_id, seed, arm, physical``.
    reference, potential
        Values of ``arm``.

    References
    ----------
    Q. McNemar, Psychometrika 12, 153 (1947), in its exact (binomial) form.
    """
    failed = ~table.set_index(["arm", "structure_id", "seed"])["physical"].astype(bool)
    known = set(table["arm"])
    first = failed.loc[reference] if reference in known else failed.iloc[:0].droplevel("arm")
    second = failed.loc[potential] if potential in known else failed.iloc[:0].droplevel("arm")
    shared = first.index.intersection(second.index)
    first, second = first.loc[shared], second.loc[shared]
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    change = (second.astype(int) - first.astype(int)).groupby(level="structure_id").sum()
    better, worse = int((change < 0).sum()), int((change > 0).sum())
    return PotentialPair(
        reference=reference,
        potential=potential,
        n_pairs=len(shared),
        only_reference=only_first,
        only_potential=only_second,
        p_pairs=mcnemar_exact(only_first, only_second),
        n_structures=len(change),
        n_seeds=int(shared.get_level_values("seed").nunique()),
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
