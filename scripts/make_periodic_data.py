"""Make a many-element set of small crystals, labelled with CHGNet 0.3.0: for trials of teachers, **not DFT**.

Every structure is ours and every label CHGNet's (its weights are in the ``chgnet`` wheel), as ``label_source`` says.
85 elements: all that CHGNet knows but He, Ne, Ar and Kr. Of every element there is a crystal (bcc, fcc, hcp or
diamond), and of random pairs and triples of elements B1, B2, zincblende, L1_2, fluorite and perovskite. The lattice
constant of each has the lowest energy of CHGNet; then come frames that are strained and rattled, and slabs of some
crystals. Energies are per structure (eV), forces in eV/Å, stress in eV/Å³ (ASE sign).

Usage (5 minutes on one core each; no file is overwritten)::

    python scripts/make_periodic_data.py ../periodic-data --pairs 150 --triples 25
    python scripts/make_periodic_data.py ../24-elements --pairs 120 --triples 20 --elements Li Na K Mg Ca Al Si Ti V \
        Cr Mn Fe Co Ni Cu Zn Zr Nb Mo Ag O F S Cl
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk, surface
from ase.data import atomic_numbers, chemical_symbols, covalent_radii
from ase.io import write
from ase.neighborlist import neighbor_list

LABEL_SOURCE = "CHGNet 0.3.0 (not DFT)"
LEFT_OUT = {"He", "Ne", "Ar", "Kr", "Po", "At", "Rn", "Fr", "Ra"}
ELEMENTS = [s for s in chemical_symbols[1:95] if s not in LEFT_OUT]
BINARIES = {  # positions of both elements in the cubic cell, in cell lengths
    "B1": ([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]],
           [[0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5], [0.5, 0.5, 0.5]]),
    "B2": ([[0, 0, 0]], [[0.5, 0.5, 0.5]]),
    "zincblende": ([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]],
                   [[0.25, 0.25, 0.25], [0.25, 0.75, 0.75], [0.75, 0.25, 0.75], [0.75, 0.75, 0.25]]),
    "L1_2": ([[0, 0, 0]], [[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]),
    "fluorite": ([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]],
                 list(itertools.product((0.25, 0.75), repeat=3))),
}  # fmt: skip
REACH = 5.8  # Å: CHGNet refuses atoms without a neighbour within 6
LENGTHS = np.linspace(0.88, 1.18, 6)  # of the first guess, for the lattice constant of lowest energy
SEED = 18


def radius(symbol: str) -> float:
    """Covalent radius, Å; that of H would make crystals of so many neighbours that CHGNet needs tens of GB."""
    return max(float(covalent_radii[atomic_numbers[symbol]]), 0.55)


def cubic(symbols: list[str], positions: list) -> Atoms:
    """A cubic cell whose closest pair stands at 1.1 of the sum of its covalent radii."""
    atoms = Atoms(symbols, scaled_positions=positions, cell=np.eye(3), pbc=True)
    reach = atoms.repeat(2)
    distances = reach.get_all_distances(mic=True) + 10 * np.eye(len(reach))
    radii = np.array([radius(s) for s in reach.symbols])
    atoms.set_cell(1.1 * np.eye(3) / (distances / (radii[:, None] + radii)).min(), scale_atoms=True)
    return atoms


def elemental(symbol: str) -> list[tuple[str, Atoms]]:
    """The simple crystals of an element."""
    d = 2.2 * radius(symbol)
    hcp = bulk(symbol, "hcp", a=d, c=1.633 * d)
    return [
        ("bcc", bulk(symbol, "bcc", a=d * 2 / 3**0.5, cubic=True)),
        ("fcc", bulk(symbol, "fcc", a=d * 2**0.5, cubic=True)),
        ("hcp", hcp),
        ("diamond", bulk(symbol, "diamond", a=d * 4 / 3**0.5, cubic=True)),
    ]


def materials(elements: list[str], pairs: int, triples: int, rng: np.random.Generator) -> list[tuple[str, Atoms]]:
    """Name and cell of every material, before its lattice constant is known."""
    result = []
    for symbol in elements:
        cells = elemental(symbol)
        for k in rng.permutation(len(cells))[:1]:
            result.append((f"{symbol}-{cells[k][0]}", cells[k][1]))
    all_pairs = list(itertools.permutations(elements, 2))
    for k in rng.permutation(len(all_pairs))[:pairs]:
        a, b = all_pairs[k]
        prototype = str(rng.choice(list(BINARIES)))
        first, second = BINARIES[prototype]
        result.append((f"{a}{b}-{prototype}", cubic([a] * len(first) + [b] * len(second), [*first, *second])))
    for _ in range(triples):
        a, b = rng.choice([s for s in elements if s not in ("H", "O", "F", "N", "Xe")], 2, replace=False)
        x = str(rng.choice([s for s in ("O", "F", "Cl", "H", "N") if s in elements]))
        sites = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
        result.append((f"{a}{b}{x}3-perovskite", cubic([a, b, x, x, x], sites)))
    return result


def nearest(atoms: Atoms) -> np.ndarray:
    """Distance of every atom to its nearest neighbour within 8 Å (Å; infinite without one)."""
    i, d = neighbor_list("id", atoms, 8.0)
    return np.array([min(d[i == k], default=np.inf) for k in range(len(atoms))])


class Reference:
    """CHGNet's labels of many structures."""

    def __init__(self) -> None:
        from chgnet.model import CHGNet
        from pymatgen.io.ase import AseAtomsAdaptor

        self.model = CHGNet.load(model_name="0.3.0", use_device="cpu", verbose=False)
        self.convert = AseAtomsAdaptor.get_structure

    def labels(self, structures: list[Atoms]) -> list[tuple[float, np.ndarray, np.ndarray]]:
        """Energies (eV), forces (eV/Å), stresses (eV/Å³)."""
        out = self.model.predict_structure([self.convert(a) for a in structures], task="efs", batch_size=16)
        return [
            (float(p["e"]) * len(a), np.asarray(p["f"], float), np.asarray(p["s"], float) / 160.21766208)
            for a, p in zip(structures, out, strict=True)
        ]


def frames(name: str, atoms: Atoms, count: int, rng: np.random.Generator) -> list[Atoms]:
    """The crystal itself and strained and rattled copies, of which the last half is a 2 x 1 x 1 cell."""
    result = [atoms.copy()]
    for k in range(count):
        child = atoms.repeat((2, 1, 1)) if k >= count // 2 and len(atoms) <= 8 else atoms.copy()
        strain = rng.normal(scale=0.025, size=(3, 3))
        child.set_cell(child.cell.array @ (np.eye(3) + 0.5 * (strain + strain.T)), scale_atoms=True)
        child.positions += rng.normal(scale=rng.uniform(0.02, 0.2), size=child.positions.shape)
        result.append(child)
    if len(set(atoms.numbers)) == 1 and name.endswith(("bcc", "fcc")):
        slab = surface(atoms, (1, 0, 0), 3, vacuum=6.0, periodic=True)
        slab.positions += rng.normal(scale=0.08, size=slab.positions.shape)
        result.append(slab)
    for k, frame in enumerate(result):
        frame.info = {"structure_id": f"{name}-{k}", "material": name, "label_source": LABEL_SOURCE}
    return result


def main() -> None:
    """Write train, val and test, split by material; elements themselves are training data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--pairs", type=int, default=150)
    parser.add_argument("--triples", type=int, default=25)
    parser.add_argument("--frames", type=int, default=3)
    parser.add_argument("--elements", nargs="+", default=ELEMENTS, choices=ELEMENTS, metavar="SYMBOL")
    options = parser.parse_args()
    if options.triples and not {"O", "F", "Cl", "H", "N"} & set(options.elements):
        parser.error("perovskites need one of O, F, Cl, H, N")
    files = {part: options.directory / f"{part}.extxyz" for part in ("train", "val", "test")}
    if any(file.exists() for file in files.values()):
        parser.error(f"{options.directory} holds such files already")
    options.directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    reference = Reference()
    everything = materials(options.elements, options.triples, rng)
    parts: dict[str, list[Atoms]] = {part: [] for part in files}
    for n, (name, guess) in enumerate(everything):
        scaled = []
        for length in LENGTHS:
            scaled.append(guess.copy())
            scaled[-1].set_cell(length * guess.cell.array, scale_atoms=True)
        scaled = [a for a in scaled if max(nearest(a)) < REACH]
        energies = [energy for energy, _, _ in reference.labels(scaled)]
        chosen = frames(name, scaled[int(np.argmin(energies))], options.frames, rng)
        chosen = [a for a in chosen if max(nearest(a)) < REACH]
        draw = rng.random()
        part = "train" if len(set(guess.numbers)) == 1 or draw < 0.7 else "val" if draw < 0.8 else "test"
        for atoms, (energy, forces, stress) in zip(chosen, reference.labels(chosen), strict=True):
            if np.linalg.norm(forces, axis=1).max() > 30:
                continue
            atoms.info |= {"REF_energy": energy, "REF_stress": stress}
            atoms.arrays["REF_forces"] = forces
            parts[part].append(atoms)
        if n % 10 == 0:
            print(f"{n} of {len(everything)} materials", flush=True)
    for part, file in files.items():
        write(file, parts[part], format="extxyz")
        elements = {s for a in parts[part] for s in a.symbols}
        print(f"{file}: {len(parts[part])} structures, {len(elements)} elements")


if __name__ == "__main__":
    main()
