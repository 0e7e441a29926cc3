"""Holes that a potential has and its teacher has not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.lj import LennardJones

from mdl_physpretrain.loop.curves import (
    compressed_children,
    covering,
    crystal_holes,
    in_hole,
    pair_bins,
    pair_holes,
    stretches,
)
from mdl_physpretrain.structures.labels import get_labels
from mdl_physpretrain.teacher.label import label

HOLE = 1.45  # Å


class Leaky(LennardJones):
    """A Lennard-Jones potential with a well of 30 eV at 1.45 Å between any two atoms."""

    def calculate(self, atoms: Any = None, *arguments: Any, **options: Any) -> None:
        super().calculate(atoms, *arguments, **options)
        distances = self.atoms.get_all_distances(mic=True)[np.triu_indices(len(self.atoms), 1)]
        self.results["energy"] -= 30.0 * float(np.exp(-(((distances - HOLE) / 0.08) ** 2)).sum())
        self.results["free_energy"] = self.results["energy"]


def teacher() -> LennardJones:
    return LennardJones(sigma=1.6, epsilon=0.5, rc=5.0)


def leaky() -> Leaky:
    return Leaky(sigma=1.6, epsilon=0.5, rc=5.0)


def test_a_hole_is_low_within_reach_and_far_from_the_teacher() -> None:
    network = np.array([0.0, 20.0, 2.0, 2.9, -5.0, 4.0, np.nan, 0.2])
    reference = np.array([0.5, 90.0, 3.5, 30.0, 4.0, 30.0, 1.0, np.nan])
    assert in_hole(network, reference).tolist() == [False, False, False, True, True, False, True, False]
    hot = in_hole(network, reference, temperature=2000.0)  # 30 kT are 5.2 eV
    assert hot.tolist() == [False, False, False, True, True, True, True, False]


def test_a_well_between_two_atoms_is_seen_where_it_is(rocksalt: list[Atoms]) -> None:
    bins = pair_bins(rocksalt)
    assert not pair_holes(teacher(), teacher(), bins).any()  # type: ignore[arg-type]
    flagged = pair_holes(leaky(), teacher(), bins)  # type: ignore[arg-type]
    assert set(bins.loc[flagged, "pair"]) == {"O-O", "O-Mg", "Mg-Mg"} - {
        pair for pair, rows in bins.groupby("pair") if rows["low"].min() > HOLE
    }
    inside = bins[flagged]
    assert ((inside["low"] - 0.15 < HOLE) & (inside["high"] + 0.15 > HOLE)).all()
    assert all(words.split()[0] in set(bins["pair"]) for words in stretches(bins, flagged))


def test_structures_in_a_hole_are_told_from_the_others(rocksalt: list[Atoms]) -> None:
    parents = label(rocksalt, teacher())
    bins = pair_bins(parents)
    close = (bins["low"] < HOLE) & (bins["high"] > HOLE)
    probes = covering(parents, bins[close], 3, 0, "probe")
    labelled = label(probes, teacher(), parents=parents)
    assert not crystal_holes(teacher(), labelled, parents).any()  # type: ignore[arg-type]
    inside = crystal_holes(leaky(), labelled, parents)  # type: ignore[arg-type]
    near = np.array([abs(float(a.info["aug_distance"]) - HOLE) < 0.03 for a in labelled])
    assert near.any()
    assert inside[near].all()
    assert len({a.info["structure_id"] for a in probes}) == len(probes)
    assert {str(a.info["aug_pair"]) for a in probes} == set(bins.loc[close, "pair"])


class Collapsing(LennardJones):
    """Its energy falls with the volume."""

    def calculate(self, atoms: Any = None, *arguments: Any, **options: Any) -> None:
        super().calculate(atoms, *arguments, **options)
        self.results["energy"] = self.results["free_energy"] = 0.05 * self.atoms.get_volume()


@pytest.mark.parametrize("which", ["collapses", "holds"])
def test_compressed_copies_of_what_collapses(rocksalt: list[Atoms], which: str) -> None:
    stiff = LennardJones(sigma=2.0, epsilon=0.5, rc=5.0)  # the bonds of the cells are its own
    network = Collapsing() if which == "collapses" else stiff
    names, children = compressed_children(network, stiff, rocksalt[:2], "loop1")  # type: ignore[arg-type]
    if which == "holds":
        assert (names, children) == ([], [])
        return
    assert names == ["mgo-0", "mgo-1"]
    volumes = [child.get_volume() / rocksalt[0].get_volume() for child in children[: len(children) // 2]]
    assert volumes == sorted(volumes, reverse=True)
    assert volumes[-1] == pytest.approx(0.7**3)
    labelled = label(children, stiff, parents=rocksalt)
    assert len(labelled) == len(children)
    assert all(get_labels(a).stress is not None for a in labelled)
