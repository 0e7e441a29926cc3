"""Ways to make trajectories: what vibrates, melts, hops, flies, grows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator


def crystal(name: str = "MgO", kind: str = "rocksalt", a: float = 4.2, repeat: int = 2) -> Atoms:
    cubic = kind in {"rocksalt", "fcc", "bcc", "diamond", "zincblende", "fluorite"}
    return bulk(name, kind, a=a, cubic=cubic).repeat(repeat)


def vibrating(start: Atoms, rng: np.random.Generator, n: int = 80, width: float = 0.08) -> list[Atoms]:
    """Correlated vibrations of every atom around its site, Å per direction."""
    offset, frames = rng.normal(scale=width, size=start.positions.shape), []
    for _ in range(n):
        atoms = start.copy()
        atoms.positions += offset - offset.mean(axis=0)
        frames.append(atoms)
        offset = 0.8 * offset + 0.6 * rng.normal(scale=width, size=offset.shape)
    return frames


def melting(start: Atoms, rng: np.random.Generator, n: int = 150, step: float = 0.12) -> list[Atoms]:
    """All atoms walk at random and keep apart from each other."""
    frames = vibrating(start, rng, 10)
    near = 0.75 * start.get_all_distances(mic=True)[np.triu_indices(len(start), 1)].min()
    while len(frames) < n:
        atoms = frames[-1].copy()
        for k in rng.permutation(len(atoms)):
            moved = atoms.positions[k] + rng.normal(scale=step * 2, size=3)
            trial = atoms.copy()
            trial.positions[k] = moved
            others = np.delete(np.arange(len(atoms)), k)
            if trial.get_distances(int(k), others, mic=True).min() > near:
                atoms.positions[k] = moved
        frames.append(atoms)
    return frames


def packing(start: Atoms, rng: np.random.Generator) -> Atoms:
    """The same atoms at random places that keep apart."""
    near = 0.7 * start.get_all_distances(mic=True)[np.triu_indices(len(start), 1)].min()
    while True:
        atoms = start.copy()
        for k in range(len(atoms)):
            for _ in range(400):
                atoms.positions[k] = rng.random(3) @ start.cell.array
                if k == 0 or atoms.get_distances(k, list(range(k)), mic=True).min() > near:
                    break
            else:
                break
        else:
            return atoms


def becomes(start: Atoms, end: Atoms, rng: np.random.Generator, at: int, n: int, within: int = 5) -> list[Atoms]:
    frames = vibrating(start, rng, at, 0.05)
    for share in np.linspace(0, 1, within + 1)[1:]:
        atoms = start.copy()
        atoms.positions += share * (end.positions - start.positions)
        frames.append(atoms)
    return frames + vibrating(end, rng, n - len(frames), 0.05)


def hopping(
    framework: Atoms, sites: np.ndarray, symbol: str, n_ions: int, rng: np.random.Generator,
    *, n: int = 200, rate: float = 0.05, hops: int | None = None,
) -> list[Atoms]:  # fmt: skip
    """Ions hop to empty neighbouring sites of an intact framework, all vibrate; positions are unwrapped."""
    places = rng.permutation(len(sites))[:n_ions]
    ions = sites[places].copy()
    inverse = np.linalg.inv(framework.cell.array)
    base, frames = framework.positions.copy(), []
    noise = rng.normal(scale=0.06, size=(len(base) + n_ions, 3))
    hops_done = 0
    for _ in range(n):
        for k in rng.permutation(n_ions):
            if rng.random() > rate or (hops is not None and hops_done >= hops):
                continue
            empty = np.setdiff1d(np.arange(len(sites)), places)
            vectors = sites[empty] - sites[places[k]]
            vectors -= np.round(vectors @ inverse) @ framework.cell.array
            nearest = int(np.argmin(np.linalg.norm(vectors, axis=1)))
            if np.linalg.norm(vectors[nearest]) > 0.4 * framework.cell.lengths().min():
                continue
            ions[k] += vectors[nearest]
            places[k] = empty[nearest]
            hops_done += 1
        noise = 0.8 * noise + 0.6 * rng.normal(scale=0.06, size=noise.shape)
        both = framework + Atoms(f"{symbol}{n_ions}", np.zeros((n_ions, 3)))
        both.positions = np.concatenate([base, ions]) + noise
        frames.append(both)
    return frames


def layered_oxide(rng: np.random.Generator, share: float = 0.5, **options: Any) -> list[Atoms]:
    """A rocksalt oxide whose cation sites are Mn and, partly empty, Li."""
    oxide = crystal("MnO", a=4.3)
    cations = np.flatnonzero(oxide.symbols == "Mn")
    empty = cations[rng.permutation(len(cations))[: len(cations) // 2]]
    sites = oxide.positions[empty]
    del oxide[empty]
    return hopping(oxide, sites, "Li", int(share * len(sites)), rng, **options)


def sublattice(name: str, kind: str, a: float, mobile: str, rng: np.random.Generator, vacancies: int) -> list[Atoms]:
    """A binary compound of which one sublattice hops among its own sites."""
    whole = crystal(name, kind, a)
    moving = np.flatnonzero(whole.symbols == mobile)
    sites, framework = whole.positions[moving], whole.copy()
    del framework[moving]
    return hopping(framework, sites, mobile, len(sites) - vacancies, rng, rate=0.08)


def lithium_nitride(rng: np.random.Generator) -> list[Atoms]:
    """One atom in four is the framework."""
    cubic = Atoms("N", cell=[3.7] * 3, pbc=True).repeat(2)
    edges = np.concatenate([cubic.positions + 1.85 * np.eye(3)[k] for k in range(3)])
    corners = cubic.positions + 1.85
    return hopping(cubic, np.concatenate([edges, corners]), "Li", len(edges), rng, rate=0.08)


def gas(
    unit: Atoms, count: int, box: float, rng: np.random.Generator, *, n: int = 150, speed: float = 0.6
) -> list[Atoms]:
    """Molecules that fly, turn, and are reflected where they meet."""
    n_unit = len(unit)
    shape = unit.positions - unit.positions.mean(axis=0)
    grid = np.array(np.meshgrid(*[np.arange(4)] * 3)).reshape(3, -1).T
    centres = grid[rng.permutation(len(grid))[:count]] * box / 4 + rng.random((count, 3)) * box / 20
    velocities = rng.normal(scale=speed, size=(count, 3))
    axes = rng.normal(size=(count, 3))
    angles, spin = rng.random(count) * 7, rng.normal(scale=0.3, size=count)
    frames = []
    for _ in range(n):
        vectors = centres[:, None] - centres[None]
        vectors -= box * np.round(vectors / box)
        near = np.linalg.norm(vectors, axis=2) + 99 * np.eye(count) < 4.0
        for i, j in zip(*np.nonzero(np.triu(near)), strict=True):
            away = vectors[i, j] / np.linalg.norm(vectors[i, j])
            relative = (velocities[i] - velocities[j]) @ away
            if relative < 0:
                velocities[i] -= relative * away
                velocities[j] += relative * away
        centres, angles = centres + velocities, angles + spin
        atoms = Atoms(cell=[box] * 3, pbc=True)
        for centre, axis, angle in zip(centres, axes, angles, strict=True):
            one = unit.copy()
            one.positions = shape + rng.normal(scale=0.02, size=(n_unit, 3)) * (n_unit > 1)
            one.rotate(np.degrees(angle), axis)
            one.positions += centre
            atoms += one
        frames.append(atoms)
    return frames


def scaled(frames: list[Atoms], factors: np.ndarray, axes: tuple[int, ...] = (0, 1, 2)) -> list[Atoms]:
    """Cells (or, without one, positions) multiplied by linear factors."""
    for atoms, factor in zip(frames, factors, strict=True):
        if atoms.cell.rank:
            cell = atoms.cell.array.copy()
            cell[list(axes)] *= factor
            atoms.set_cell(cell, scale_atoms=True)
        else:
            atoms.positions *= factor
    return frames


def labelled(frames: list[Atoms], rng: np.random.Generator, change: Callable[[int, dict], None] | None = None) -> list:
    for k, atoms in enumerate(frames):
        n = len(atoms)
        results = {"energy": -5.0 * n + 0.05 * n * rng.random(), "forces": rng.normal(scale=1.5, size=(n, 3))}
        if change is not None:
            change(k, results)
        atoms.calc = SinglePointCalculator(atoms, **results)
    return frames


def at(frame: int, name: str, value: Any) -> Callable[[int, dict], None]:
    def change(k: int, results: dict) -> None:
        if k == frame and name == "energy":
            results["energy"] = value
        elif k == frame:
            results["forces"][3, 1] = value

    return change


def drifting(frames: list[Atoms], velocity: float, wrap: bool) -> list[Atoms]:
    for k, atoms in enumerate(frames):
        atoms.positions += k * velocity * np.array([1.0, -0.7, 0.4])
        if wrap:
            atoms.wrap()
    return frames


def shuffled(frames: list[Atoms], rng: np.random.Generator, steps: bool) -> list[Atoms]:
    for k, atoms in enumerate(frames):
        atoms.wrap()
        if steps:
            atoms.info["step"] = 10 * k
    return [frames[k] for k in rng.permutation(len(frames))]


def turning(start: Atoms, rng: np.random.Generator, width: float = 0.05) -> list[Atoms]:
    frames = vibrating(start, rng, width=width)
    for k, atoms in enumerate(frames):
        atoms.rotate(9.0 * k, (1, 2, 3), center="COM")
        atoms.positions += 0.4 * k
    return frames


def changed(frames: list[Atoms], k: int, change: Callable[[Atoms], Any]) -> list[Atoms]:
    change(frames[k])
    return frames


def approached(frames: list[Atoms], k: int, i: int, j: int, distance: float) -> list[Atoms]:
    """Atoms i and j of frame k at this distance, in Å."""
    for atoms in frames[k:] if k == 0 else [frames[k]]:
        vector = atoms.get_distance(i, j, mic=True, vector=True)
        atoms.positions[j] = atoms.positions[i] + vector / np.linalg.norm(vector) * distance
    return frames


def beside_hydrogen(symbol: str, rng: np.random.Generator, distance: float, n: int = 30) -> list[Atoms]:
    """Two heavy atoms that approach each other beside an H2 molecule, whose bond is shorter than their limit."""
    frames = []
    for k in range(n):
        apart = np.interp(k, [0, n - 1], [4.0, distance])
        atoms = Atoms(f"{symbol}2H2", [[0, 0, 0], [apart, 0, 0], [0, 6, 0], [0.74, 6, 0]], cell=[12] * 3, pbc=True)
        atoms.positions += rng.normal(scale=0.01, size=(4, 3))
        frames.append(atoms)
    return frames


def cluster(rng: np.random.Generator) -> Atoms:
    del rng
    atoms = crystal("Cu", "fcc", 3.6, 3)
    keep = np.linalg.norm(atoms.positions - atoms.positions.mean(axis=0), axis=1) < 4.5
    atoms = atoms[keep]
    atoms.set_pbc(False)
    atoms.set_cell(None)
    return atoms


def slab() -> Atoms:
    atoms = crystal()
    atoms.center(vacuum=8, axis=2)
    atoms.pbc = (True, True, False)
    return atoms


def covered_slab(rng: np.random.Generator) -> list[Atoms]:
    """A water molecule walks over a surface."""
    frames, water = vibrating(slab(), rng, width=0.05), molecule("H2O")
    place = np.array([2.0, 2.0, slab().positions[:, 2].max() + 2.9])
    for k, atoms in enumerate(frames):
        place[:2] += rng.normal(scale=0.5, size=2)
        one = water.copy()
        one.rotate(20 * k, "z")
        one.positions += place - one.positions.mean(axis=0)
        frames[k] = atoms + one
    return frames


def flying(frames: list[Atoms]) -> list[Atoms]:
    """One atom moves by a lattice vector from frame to frame; the file is not wrapped."""
    for k, atoms in enumerate(frames):
        atoms.positions[5] += k * atoms.cell.array[0]
    return frames


def heated(frames: list[Atoms], rng: np.random.Generator, kelvin: float) -> list[Atoms]:
    for k, atoms in enumerate(frames):
        hot = kelvin if k >= len(frames) // 2 else 300.0
        width = np.sqrt(8.617e-5 * hot * atoms.get_masses())[:, None]
        atoms.set_momenta(rng.normal(size=(len(atoms), 3)) * width)
    return frames
