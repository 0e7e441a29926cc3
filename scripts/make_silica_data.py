"""Make the shipped silica set, ``mdl_physpretrain/data/silica.extxyz``: frames of MD of four-connected SiO2 nets.

Six nets of corner-sharing SiO4 tetrahedra (quartz, cristobalite, tridymite's 2H, the polytype 4H between these two,
the nets bct and sodalite) are relaxed with CHGNet 0.3.0, whose weights the ``chgnet`` wheel
carries, and simulated with it at 300, 600 and 1000 K in slightly strained cells. CHGNet labels the frames.
**Nothing here is DFT**, and every structure says so in ``info["label_source"]``.

Usage (about 15 minutes on one core)::

    pip install "chgnet==0.4.2"
    OMP_NUM_THREADS=1 python scripts/make_silica_data.py
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.filters import FrechetCellFilter
from ase.io import write
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.neighborlist import neighbor_list
from ase.optimize import FIRE
from ase.spacegroup import crystal

LABEL_SOURCE = "CHGNet 0.3.0 (not DFT)"
OUTPUT = Path(__file__).parents[1] / "mdl_physpretrain" / "data" / "silica.extxyz"
TEMPERATURES = (300.0, 600.0, 1000.0)  # K
FRAMES, APART = 6, 25  # of each temperature, steps between them
TIMESTEP = 2.0  # fs
SEED = 2026


def net(silicon: Atoms, bond: float = 3.05) -> Atoms:
    """SiO2 on a net of four-connected silicon atoms: an oxygen in the middle of every edge.

    The lattice is scaled so that neighbouring silicon atoms are ``bond`` Å apart.
    """
    distances = np.sort(neighbor_list("d", silicon, 4.0))
    scaled = silicon.copy()
    scaled.set_cell(silicon.cell * (bond / distances[: 4 * len(silicon)].mean()), scale_atoms=True)
    i, vectors = neighbor_list("iD", scaled, 1.2 * bond)
    assert (np.bincount(i) == 4).all(), "every silicon atom has four neighbours"
    whole = scaled.copy()
    oxygen = Atoms(f"O{len(i)}", positions=scaled.positions[i] + vectors / 2, cell=scaled.cell, pbc=True)
    kept: list[int] = []
    for k in range(len(oxygen)):
        if all(oxygen.get_distance(k, m, mic=True) > 0.1 for m in kept):
            kept.append(k)
    whole += oxygen[kept]
    assert len(kept) == 2 * len(silicon)
    return whole


def polytype(layers: str) -> Atoms:
    """Tetrahedral stacking ``"ab"``: 2H (the net of tridymite), ``"abcb"``: 4H."""
    places = {"a": (0.0, 0.0), "b": (1 / 3, 2 / 3), "c": (2 / 3, 1 / 3)}
    a, n = 1.0, len(layers)
    height = np.sqrt(2 / 3) * a  # of a double layer in the ideal net
    cell = np.array([[a, 0, 0], [-a / 2, np.sqrt(3) / 2 * a, 0], [0, 0, n * height]])
    scaled = []
    for k, layer in enumerate(layers):
        # two atoms on top of each other, three quarters of a double layer apart
        scaled += [(*places[layer], k / n), (*places[layer], (k + 0.75) / n)]
    return Atoms(f"Si{2 * n}", scaled_positions=scaled, cell=cell * 2.5, pbc=True)


def starts() -> dict[str, Atoms]:
    """The nets, by name, before relaxation."""
    quartz = crystal(
        ("Si", "O"),
        [(0.4697, 0.0, 1 / 3), (0.4135, 0.2669, 0.2144)],
        spacegroup=152,
        cellpar=[4.913, 4.913, 5.405, 90, 90, 120],
    )
    cristobalite = crystal(
        ("Si", "O"),
        [(0.3003, 0.3003, 0.0), (0.2393, 0.1044, 0.1787)],
        spacegroup=92,
        cellpar=[4.972, 4.972, 6.922, 90, 90, 90],
    )
    bct = crystal(("Si",), [(0.1804, 0.1804, 0.0)], spacegroup=139, cellpar=[8.6, 8.6, 4.9, 90, 90, 90])
    sodalite = crystal(
        ("Si",), [(0.25, 0.5, 0.0)], spacegroup=229, cellpar=[8.9, 8.9, 8.9, 90, 90, 90], primitive_cell=True
    )
    return {
        "quartz": quartz,
        "cristobalite": cristobalite,
        "tridymite-2H": net(polytype("ab")),
        "polytype-4H": net(polytype("abcb")),
        "bct": net(bct),
        "sodalite": net(sodalite),
    }


def frames(name: str, atoms: Atoms, calculator: Calculator, rng: np.random.Generator) -> Iterator[Atoms]:
    """The relaxed structure, and frames of MD of it."""
    atoms = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
    atoms.rattle(0.03, rng=rng)
    atoms.calc = calculator
    FIRE(FrechetCellFilter(atoms), logfile=None).run(fmax=0.03, steps=150)
    print(
        name,
        len(atoms),
        "relaxed:",
        atoms.get_potential_energy() / len(atoms),
        "eV/atom",
        atoms.get_volume() / len(atoms),
        flush=True,
    )
    yield labelled(atoms, f"{name}-relaxed", name, 0.0)
    for temperature in TEMPERATURES:
        moving = atoms.copy()
        strain = rng.uniform(-0.02, 0.02, (3, 3))
        moving.set_cell(moving.cell @ (np.eye(3) + 0.5 * (strain + strain.T)), scale_atoms=True)
        moving.calc = calculator
        MaxwellBoltzmannDistribution(moving, temperature_K=1.5 * temperature, rng=rng)
        motion = Langevin(moving, TIMESTEP * units.fs, temperature_K=temperature, friction=0.02 / units.fs, rng=rng)
        for k in range(FRAMES):
            motion.run(APART)
            yield labelled(moving, f"{name}-{temperature:.0f}K-{k}", name, temperature)


def labelled(atoms: Atoms, identifier: str, net_name: str, temperature: float) -> Atoms:
    """A frame with its labels, rounded to what they mean."""
    frame = Atoms(atoms.numbers, np.round(atoms.positions, 6), cell=np.round(atoms.cell.array, 6), pbc=True)
    frame.calc = atoms.calc
    energy, forces, stress = frame.get_potential_energy(), frame.get_forces(), frame.get_stress(voigt=False)
    frame.calc = None
    frame.info = {
        "structure_id": identifier,
        "topology": net_name,
        "temperature": temperature,
        "energy": round(float(energy), 6),
        "stress": np.round(stress, 8),
        "label_source": LABEL_SOURCE,
    }
    frame.arrays["forces"] = np.round(forces, 6)
    return frame


def main() -> None:
    """Write the file and its checksum."""
    from chgnet.model.dynamics import CHGNetCalculator

    calculator = CHGNetCalculator(use_device="cpu")
    made = []
    for number, (name, atoms) in enumerate(starts().items()):
        made += list(frames(name, atoms, calculator, np.random.default_rng([SEED, number])))
        write(OUTPUT, made, format="extxyz")
    digest = hashlib.sha256(OUTPUT.read_bytes()).hexdigest()
    OUTPUT.with_suffix(".sha256").write_text(f"{digest}  {OUTPUT.name}\n")
    print(f"{len(made)} structures in {OUTPUT}")


if __name__ == "__main__":
    main()
