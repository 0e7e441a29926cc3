"""Trajectories whose truth is known because of how they are made; for the tests and ``scripts/bench_judge.py``."""

# ruff: noqa: E501 - one case, one line
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from trajectory_makers import (
    approached,
    at,
    becomes,
    beside_hydrogen,
    changed,
    cluster,
    covered_slab,
    crystal,
    drifting,
    flying,
    gas,
    heated,
    labelled,
    layered_oxide,
    lithium_nitride,
    melting,
    packing,
    scaled,
    shuffled,
    slab,
    sublattice,
    turning,
    vibrating,
)

__all__ = ["CASES", "Case"]

SOUND, BROKEN, NOTHING = "physical", "unphysical", "not judged"


@dataclass(frozen=True)
class Case:
    """One trajectory: its name, its truth, how it is made, and how it is to be read."""

    name: str
    truth: str
    make: Callable[[np.random.Generator], list[Atoms]]
    options: dict[str, Any] = field(default_factory=dict)


CASES: list[Case] = []


def case(name: str, truth: str, make: Callable[[np.random.Generator], list[Atoms]], **options: Any) -> None:
    CASES.append(Case(name, truth, make, options))


# fmt: off
SOLIDS = [("MgO", "rocksalt", 4.2), ("NaCl", "rocksalt", 5.64), ("Si", "diamond", 5.43), ("Al", "fcc", 4.05),
          ("W", "bcc", 3.16), ("GaAs", "zincblende", 5.65), ("CaF2", "fluorite", 5.46), ("K", "bcc", 5.33),
          ("C", "diamond", 3.57), ("Ar", "fcc", 5.3)]  # fmt: skip
for _name, _kind, _a in SOLIDS:
    case(f"{_name} vibrates", SOUND, lambda rng, n=_name, k=_kind, a=_a: vibrating(crystal(n, k, a), rng))
for _name, _kind, _a in (("MgO", "rocksalt", 4.2), ("Al", "fcc", 4.05)):
    case(
        f"{_name} close to melting",
        SOUND,
        lambda rng, n=_name, k=_kind, a=_a: vibrating(crystal(n, k, a), rng, 120, 0.17),
    )
case("two-atom cell", SOUND, lambda rng: vibrating(bulk("MgO", "rocksalt", a=4.2), rng))
case(
    "one-atom cell that breathes",
    SOUND,
    lambda rng: scaled(vibrating(bulk("Al"), rng), 1 + 0.02 * np.sin(np.arange(80))),
)
case("drift, unwrapped", SOUND, lambda rng: drifting(vibrating(crystal(), rng), 0.5, False))
case("drift, wrapped", SOUND, lambda rng: drifting(vibrating(crystal(), rng), 0.5, True))
case("drift, wrapped, rare frames", SOUND, lambda rng: drifting(vibrating(crystal(), rng), 4.9, True))
case("start compressed to 0.85", SOUND, lambda rng: vibrating(crystal(a=4.2 * 0.85), rng, width=0.05))
case("cell grows by 8 %", SOUND, lambda rng: scaled(vibrating(crystal(), rng), np.linspace(1, 1.027, 80)))
case(
    "cell oscillates by 20 %",
    SOUND,
    lambda rng: scaled(vibrating(crystal(), rng), 1 + 0.03 * np.sin(np.arange(80) / 5)),
)
case("shear of 5 %", SOUND, lambda rng: scaled(vibrating(crystal(), rng), np.linspace(1, 1.05, 80), (0,)))
case("Li hops in an oxide", SOUND, layered_oxide)
case("Li hops fast", SOUND, lambda rng: layered_oxide(rng, rate=0.3))
case("Li hops, few", SOUND, lambda rng: layered_oxide(rng, hops=3))
case("Li hops, wrapped", SOUND, lambda rng: drifting(layered_oxide(rng), 0.0, True))
case("Li2O, Li hops", SOUND, lambda rng: sublattice("OLi2", "fluorite", 4.62, "Li", rng, 8))
case("CaF2, F hops", SOUND, lambda rng: sublattice("CaF2", "fluorite", 5.46, "F", rng, 8))
case("AgI, Ag hops", SOUND, lambda rng: sublattice("AgI", "zincblende", 6.5, "Ag", rng, 8))
case("MnO, O hops among vacancies", SOUND, lambda rng: sublattice("MnO", "rocksalt", 4.4, "O", rng, 6))
case("Li3N, Li hops", SOUND, lithium_nitride)
case(
    "frames out of order, steps known",
    SOUND,
    lambda rng: shuffled(drifting(vibrating(crystal(), rng), 0.9, True), rng, True),
)
case(
    "frames out of order, steps unknown",
    SOUND,
    lambda rng: shuffled(drifting(vibrating(crystal(), rng), 0.9, True), rng, False),
)
case("frames out of order, Li hops", SOUND, lambda rng: shuffled(layered_oxide(rng, rate=0.01), rng, True))
case("Ar gas", SOUND, lambda rng: gas(Atoms("Ar"), 12, 30.0, rng))
case("He gas", SOUND, lambda rng: gas(Atoms("He"), 20, 24.0, rng))
case("N2 gas", SOUND, lambda rng: gas(molecule("N2"), 10, 30.0, rng))
case("H2O gas", SOUND, lambda rng: gas(molecule("H2O"), 8, 32.0, rng))
case("H2 gas, wrapped", SOUND, lambda rng: drifting(gas(molecule("H2"), 15, 26.0, rng), 0.0, True))
for _name in ("H2O", "CO2", "N2", "CO", "HF", "C2H2", "CH4", "H2"):
    case(f"{_name} turns", SOUND, lambda rng, n=_name: turning(molecule(n), rng, 0.02))
case("Cu cluster vibrates", SOUND, lambda rng: vibrating(cluster(rng), rng))
case("Cu cluster turns", SOUND, lambda rng: turning(cluster(rng), rng))
case("slab", SOUND, lambda rng: vibrating(slab(), rng))
case("water on a slab", SOUND, covered_slab)
case("energies and forces", SOUND, lambda rng: labelled(vibrating(crystal(), rng), rng))
case("velocities of 300 K", SOUND, lambda rng: heated(vibrating(crystal(), rng), rng, 300.0))

for _what, _value in (("energy", np.nan), ("energy", np.inf), ("forces", np.nan), ("forces", -np.inf)):
    case(
        f"{_what} {_value}",
        BROKEN,
        lambda rng, w=_what, v=_value: labelled(vibrating(crystal(), rng), rng, at(40, w, v)),
    )
case(
    "energy NaN in the last frame",
    BROKEN,
    lambda rng: labelled(vibrating(crystal(), rng), rng, at(79, "energy", np.nan)),
)
case("energy falls into a hole", BROKEN, lambda rng: labelled(vibrating(crystal(), rng), rng, at(40, "energy", -5e4)))
case("a force of 5,000 eV/Å", BROKEN, lambda rng: labelled(vibrating(crystal(), rng), rng, at(40, "forces", 5e3)))
case(
    "NaN position",
    BROKEN,
    lambda rng: changed(vibrating(crystal(), rng), 50, lambda a: a.positions.__setitem__((3, 1), np.nan)),
)
case(
    "NaN cell", BROKEN, lambda rng: changed(vibrating(crystal(), rng), 50, lambda a: a.set_cell(a.cell.array * np.nan))
)
case("NaN in the last frame", BROKEN,
     lambda rng: changed(vibrating(crystal(), rng), -1, lambda a: a.positions.__setitem__((3, 1), np.nan)), interval=7)  # fmt: skip
case("NaN in a frame that is left out", BROKEN,
     lambda rng: changed(vibrating(crystal(), rng), 51, lambda a: a.positions.__setitem__((3, 1), np.nan)), interval=10)  # fmt: skip
case("overlap in the last frame", BROKEN, lambda rng: approached(vibrating(crystal(), rng), 79, 0, 1, 0.6), interval=10)
case("overlap", BROKEN, lambda rng: approached(vibrating(crystal(), rng), 40, 0, 1, 0.7))
case("overlap across the boundary", BROKEN,
     lambda rng: changed(vibrating(crystal(), rng), 40, lambda a: a.positions.__setitem__(0, a.positions[7] + [-8.4, 0, 0.5])))  # fmt: skip
case("start that overlaps", BROKEN, lambda rng: approached(vibrating(crystal(), rng), 0, 0, 1, 0.6))
case("start with two atoms at one place", BROKEN, lambda rng: approached(vibrating(crystal(), rng, 30), 0, 0, 1, 0.0))
case("Mn on Mn beside H2", BROKEN, lambda rng: beside_hydrogen("Mn", rng, 0.45))
case("O on O beside H2", BROKEN, lambda rng: beside_hydrogen("O", rng, 0.6))
case("Cs on Cs beside H2", BROKEN, lambda rng: beside_hydrogen("Cs", rng, 1.5))
case("cell grows ninefold", BROKEN, lambda rng: scaled(vibrating(crystal(), rng), np.linspace(1, 9 ** (1 / 3), 80)))
case(
    "cell grows threefold at the end",
    BROKEN,
    lambda rng: scaled(vibrating(crystal(), rng), np.r_[np.ones(78), 1.4, 1.45]),
)
case(
    "cell shrinks to a seventh",
    BROKEN,
    lambda rng: scaled(vibrating(crystal(), rng), np.linspace(1, 7 ** (-1 / 3), 80)),
)
case("slab's area grows fourfold", BROKEN, lambda rng: scaled(vibrating(slab(), rng), np.linspace(1, 2, 80), (0, 1)))
case("cell stretched threefold at constant volume", BROKEN, lambda rng: [
    scaled([scaled([a], np.array([f]), (0,))[0]], np.array([1 / f]), (1,))[0]
    for a, f in zip(vibrating(crystal(), rng), np.linspace(1, 3, 80), strict=True)])  # fmt: skip
case(
    "cell becomes flat",
    BROKEN,
    lambda rng: changed(vibrating(crystal(), rng), 60, lambda a: a.set_cell(a.cell.array * [1, 1, 0])),
)
case("cluster shrinks to half", BROKEN, lambda rng: scaled(vibrating(cluster(rng), rng), np.linspace(1, 0.5, 80)))
case(
    "cluster shrinks at the end",
    BROKEN,
    lambda rng: scaled(vibrating(cluster(rng), rng), np.r_[np.ones(76), 0.9, 0.8, 0.7, 0.6]),
)
case("cluster flies apart", BROKEN, lambda rng: scaled(vibrating(cluster(rng), rng), np.linspace(1, 6, 80)))
case("two Cu atoms meet in a cluster", BROKEN, lambda rng: approached(vibrating(cluster(rng), rng), 70, 0, 1, 1.0))
for _at in (2, 400, 990):
    case(f"MgO becomes a random packing at {_at} of 1,000", BROKEN,
         lambda rng, k=_at: becomes(crystal(), packing(crystal(), rng), rng, k, 1000))  # fmt: skip
for _at in (3, 500, 994):
    case(f"MgO is a random packing from {_at} of 1,000 on, no overlap between", BROKEN,
         lambda rng, k=_at: becomes(crystal(), packing(crystal(), rng), rng, k, 1000, within=1))  # fmt: skip
case("Al becomes a random packing", BROKEN,
     lambda rng: becomes(crystal("Al", "fcc", 4.05), packing(crystal("Al", "fcc", 4.05), rng), rng, 50, 300))  # fmt: skip
case("MgO melts", BROKEN, lambda rng: melting(crystal(), rng))
case("Al melts", BROKEN, lambda rng: melting(crystal("Al", "fcc", 4.05), rng))
case(
    "NaCl melts, wrapped",
    BROKEN,
    lambda rng: drifting(melting(crystal("NaCl", "rocksalt", 5.64), rng, step=0.16), 0.0, True),
)
case("oxide melts after Li hopped", BROKEN, lambda rng: (f := layered_oxide(rng, n=60)) + melting(f[-1], rng, 150))
case("an atom moves a lattice vector a frame", BROKEN, lambda rng: flying(vibrating(crystal(), rng)))
case("explosion to 50,000 K", BROKEN, lambda rng: heated(vibrating(crystal(), rng), rng, 5e4))
case("one atom flies off at 1e7 Å", BROKEN,
     lambda rng: changed(vibrating(cluster(rng), rng), 40, lambda a: a.positions.__setitem__((0, 0), 1e7)))  # fmt: skip
case(
    "periodicity changes",
    BROKEN,
    lambda rng: changed(vibrating(crystal(), rng), 30, lambda a: a.set_pbc((True, True, False))),
)
case(
    "the cell goes",
    BROKEN,
    lambda rng: changed(vibrating(crystal(), rng), 30, lambda a: (a.set_pbc(False), a.set_cell(None))),
)
case(
    "an atom becomes another",
    BROKEN,
    lambda rng: changed(vibrating(crystal(), rng), 30, lambda a: a.symbols.__setitem__(0, "Ca")),
)

case("one frame", NOTHING, lambda rng: vibrating(crystal(), rng, 1))
case("one frame of a molecule", NOTHING, lambda rng: vibrating(molecule("H2O"), rng, 1))
case("the same frame again and again", NOTHING, lambda rng: [crystal()] * 50)
