"""Make the shipped demo data set, ``mdl_physpretrain/data/demo.extxyz``.

Fifteen textbook crystals of Li, Mn, P and O (space group, lattice constants and
sites are written below) are relaxed with CHGNet 0.3.0, whose weights the
``chgnet`` wheel carries, and turned into what a DFT relaxation data set looks
like: frames of the relaxation, strains and shears of up to 2 %, and displacements
of up to a few 0.01 Å. CHGNet labels them. **Nothing here is DFT**, and every
structure says so in ``info["label_source"]``.

All configurations stay near equilibrium on purpose: a network that has seen only
these has never met a close contact, which is how real relaxation data sets leave
potentials that collapse in molecular dynamics.

Usage (about 3 minutes on one core)::

    pip install "chgnet==0.4.2"
    OMP_NUM_THREADS=1 python scripts/make_demo_data.py

``--check-md 300`` instead runs every crystal for that many femtoseconds at 1000 K
(NVT) under CHGNet and prints the closest approach: what a good potential does.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator
from ase.spacegroup import crystal

from mdl_physpretrain.dynamics import assess, simulate

LABEL_SOURCE = "CHGNet 0.3.0 (not DFT)"
OUTPUT = Path(__file__).parents[1] / "mdl_physpretrain" / "data" / "demo.extxyz"
SEED = 20240


@dataclass(frozen=True)
class Crystal:
    """A crystal as a textbook gives it.

    Attributes
    ----------
    name
        Formula and structure type; becomes ``config_type``.
    spacegroup, setting
        International number and origin choice.
    cellpar
        a, b, c (Å), alpha, beta, gamma (degrees).
    sites
        (element, fractional coordinates) of each occupied orbit.
    primitive, repeat
        Whether to reduce a centred cell, and how often to repeat the result.
    """

    name: str
    spacegroup: int
    cellpar: tuple[float, ...]
    sites: tuple[tuple[str, tuple[float, float, float]], ...]
    setting: int = 1
    primitive: bool = False
    repeat: tuple[int, int, int] = (1, 1, 1)

    def build(self) -> Atoms:
        """The periodic cell, without labels."""
        elements, basis = zip(*self.sites, strict=True)
        built = crystal(
            elements,
            basis,
            spacegroup=self.spacegroup,
            setting=self.setting,
            cellpar=self.cellpar,
            primitive_cell=self.primitive,
        ).repeat(self.repeat)
        return Atoms(built.numbers, positions=built.positions, cell=built.cell, pbc=True)


def _cubic(a: float) -> tuple[float, ...]:
    return (a, a, a, 90.0, 90.0, 90.0)


def _hexagonal(a: float, c: float) -> tuple[float, ...]:
    return (a, a, c, 90.0, 90.0, 120.0)


def _orthogonal(a: float, b: float, c: float) -> tuple[float, ...]:
    return (a, b, c, 90.0, 90.0, 90.0)


_OLIVINE = (
    ("Mn", (0.2817, 0.25, 0.9719)),
    ("P", (0.0923, 0.25, 0.4081)),
    ("O", (0.0968, 0.25, 0.7339)),
    ("O", (0.4561, 0.25, 0.2101)),
    ("O", (0.1609, 0.05, 0.2780)),
)

CRYSTALS = (
    Crystal("Li2O antifluorite", 225, _cubic(4.62), (("Li", (0.25, 0.25, 0.25)), ("O", (0, 0, 0)))),
    Crystal("MnO rocksalt", 225, _cubic(4.445), (("Mn", (0, 0, 0)), ("O", (0.5, 0.5, 0.5)))),
    Crystal(
        "MnO2 rutile",
        136,
        _orthogonal(4.40, 4.40, 2.87),
        (("Mn", (0, 0, 0)), ("O", (0.305, 0.305, 0))),
        repeat=(1, 1, 2),
    ),
    Crystal(
        "MnO2 ramsdellite",
        62,
        _orthogonal(9.27, 2.866, 4.533),
        (("Mn", (0.136, 0.25, 0.022)), ("O", (0.77, 0.25, 0.17)), ("O", (0.967, 0.25, 0.79))),
    ),
    Crystal(
        "MnO2 spinel framework",
        227,
        _cubic(8.03),
        (("Mn", (0.5, 0.5, 0.5)), ("O", (0.2632, 0.2632, 0.2632))),
        setting=2,
        primitive=True,
    ),
    Crystal(
        "Mn2O3 corundum",
        167,
        _hexagonal(5.04, 14.1),
        (("Mn", (0, 0, 0.352)), ("O", (0.306, 0, 0.25))),
        primitive=True,
    ),
    Crystal(
        "Mn3O4 hausmannite",
        141,
        _orthogonal(5.765, 5.765, 9.442),
        (("Mn", (0, 0.75, 0.125)), ("Mn", (0, 0, 0.5)), ("O", (0, 0.472, 0.2595))),
        setting=2,
        primitive=True,
    ),
    Crystal(
        "LiMnO2 orthorhombic",
        59,
        _orthogonal(2.805, 4.572, 5.757),
        (
            ("Li", (0.25, 0.75, 0.126)),
            ("Mn", (0.25, 0.75, 0.635)),
            ("O", (0.25, 0.25, 0.144)),
            ("O", (0.25, 0.25, 0.602)),
        ),
        setting=2,
    ),
    Crystal(
        "LiMnO2 layered",
        166,
        _hexagonal(2.88, 14.3),
        (("Mn", (0, 0, 0)), ("Li", (0, 0, 0.5)), ("O", (0, 0, 0.2595))),
    ),
    Crystal(
        "Li2MnO3 layered",
        12,
        (4.937, 8.532, 5.030, 90.0, 109.46, 90.0),
        (
            ("Mn", (0, 0.16708, 0)),
            ("Li", (0, 0.5, 0)),
            ("Li", (0, 0, 0.5)),
            ("Li", (0, 0.6606, 0.5)),
            ("O", (0.2189, 0, 0.2273)),
            ("O", (0.2540, 0.3214, 0.2233)),
        ),
        primitive=True,
    ),
    Crystal(
        "LiMn2O4 spinel",
        227,
        _cubic(8.247),
        (("Li", (0.125, 0.125, 0.125)), ("Mn", (0.5, 0.5, 0.5)), ("O", (0.2632, 0.2632, 0.2632))),
        setting=2,
        primitive=True,
    ),
    Crystal(
        "Li3PO4 beta",
        31,
        _orthogonal(6.115, 5.239, 4.855),
        (
            ("Li", (0.248, 0.328, 0.986)),
            ("Li", (0, 0.157, 0.489)),
            ("P", (0, 0.824, 0)),
            ("O", (0.208, 0.686, 0.896)),
            ("O", (0, 0.105, 0.894)),
            ("O", (0, 0.817, 0.308)),
        ),
    ),
    Crystal(
        "Mn2P2O7 thortveitite",
        12,
        (6.633, 8.584, 4.546, 90.0, 102.67, 90.0),
        (
            ("Mn", (0, 0.312, 0.5)),
            ("P", (0.2176, 0, 0.9062)),
            ("O", (0, 0, 0)),
            ("O", (0.380, 0, 0.210)),
            ("O", (0.230, 0.154, 0.730)),
        ),
        primitive=True,
    ),
    Crystal("MnPO4 olivine framework", 62, _orthogonal(9.69, 5.93, 4.78), _OLIVINE),
    Crystal("LiMnPO4 olivine", 62, _orthogonal(10.45, 6.10, 4.745), (("Li", (0, 0, 0)), *_OLIVINE)),
)

ISOTROPIC_STRAINS = (-0.01, 0.01)
RATTLES = (0.01, 0.01, 0.02, 0.03)  # Å, standard deviation of each coordinate
N_SHEARS, MAX_SHEAR = 1, 0.02
STRAIN_RATTLE = 0.005  # Å; strained symmetric cells alone have no forces to learn from
N_PATH = 6  # frames of the relaxation


def chgnet_calculator() -> Calculator:
    """CHGNet 0.3.0 on one CPU thread; its stress is converted to eV/Å³ (ASE sign)."""
    import torch
    from chgnet.model.dynamics import CHGNetCalculator
    from chgnet.model.model import CHGNet

    torch.set_num_threads(1)
    model = CHGNet.load(model_name="0.3.0", use_device="cpu", verbose=False)
    return CHGNetCalculator(model, use_device="cpu", stress_weight=units.GPa)


def relax(atoms: Atoms, calc: Calculator, *, fmax: float = 0.05, steps: int = 150) -> list[Atoms]:
    """Relax positions and cell; returns every frame of the way, the last one relaxed."""
    from ase.filters import FrechetCellFilter
    from ase.optimize import FIRE

    frames: list[Atoms] = []
    atoms = atoms.copy()
    atoms.calc = calc
    optimizer = FIRE(FrechetCellFilter(atoms), logfile=None)
    optimizer.attach(lambda: frames.append(_bare(atoms)))
    optimizer.run(fmax=fmax, steps=steps)
    return frames


def strain(atoms: Atoms, tensor: np.ndarray) -> Atoms:
    """The structure with its cell and positions multiplied by ``1 + tensor`` (3, 3)."""
    strained = atoms.copy()
    strained.set_cell(atoms.cell.array @ (np.eye(3) + tensor), scale_atoms=True)
    return strained


def rattle(atoms: Atoms, sigma: float, rng: np.random.Generator) -> Atoms:
    """The structure with normal displacements of ``sigma`` Å on every coordinate."""
    moved = atoms.copy()
    moved.positions += rng.normal(scale=sigma, size=moved.positions.shape)
    return moved


def configurations(reference: Crystal, calc: Calculator, rng: np.random.Generator) -> Iterator[tuple[str, Atoms]]:
    """(kind, structure) of every configuration of one crystal."""
    path = relax(reference.build(), calc)
    relaxed = path[-1]
    yield "relaxed", relaxed
    for k in np.linspace(0, len(path) - 1, N_PATH, endpoint=False).astype(int):
        yield "relaxation", path[k]
    for size in ISOTROPIC_STRAINS:
        yield "strain", rattle(strain(relaxed, size * np.eye(3)), STRAIN_RATTLE, rng)
    for _ in range(N_SHEARS):
        tensor = rng.uniform(-MAX_SHEAR, MAX_SHEAR, size=(3, 3))
        yield "shear", rattle(strain(relaxed, 0.5 * (tensor + tensor.T)), STRAIN_RATTLE, rng)
    for sigma in RATTLES:
        yield "rattle", rattle(relaxed, sigma, rng)


def _bare(atoms: Atoms) -> Atoms:
    return Atoms(atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=True)


def rounded(atoms: Atoms, decimals: int = 5) -> Atoms:
    """The structure as the file will hold it, so that labels belong to exactly that."""
    result = _bare(atoms)
    result.set_cell(np.round(result.cell.array, decimals))
    result.positions = np.round(result.positions, decimals)
    return result


def _numbers(values: np.ndarray, decimals: int) -> str:
    # + 0.0 turns -0.0 into 0.0
    return " ".join(f"{value:.{decimals}f}" for value in np.round(np.ravel(values), decimals) + 0.0)


def extxyz(atoms: Atoms, info: dict[str, str], calc: Calculator) -> str:
    """One labelled frame as compact extended XYZ (ASE's writer spends three times the space)."""
    atoms = rounded(atoms)
    calc.calculate(atoms)
    stress = np.asarray(calc.results["stress"], dtype=float).reshape(3, 3)
    fields = {
        "Lattice": _numbers(atoms.cell.array, 5),
        "Properties": "species:S:1:pos:R:3:forces:R:3",
        "energy": f"{float(calc.results['energy']):.6f}",
        "stress": _numbers(0.5 * (stress + stress.T), 7),
        **info,
        "pbc": "T T T",
    }
    quoted = (f'{key}="{value}"' if " " in value else f"{key}={value}" for key, value in fields.items())
    lines = [str(len(atoms)), " ".join(quoted)]
    for symbol, position, force in zip(atoms.symbols, atoms.positions, calc.results["forces"], strict=True):
        lines.append(f"{symbol} {_numbers(position, 5)} {_numbers(force, 5)}")
    return "\n".join(lines) + "\n"


def make(output: Path) -> None:
    """Build, label and write all configurations, and the file's SHA-256 beside it."""
    calc = chgnet_calculator()
    frames = []
    for number, reference in enumerate(CRYSTALS):
        start = time.perf_counter()
        # One stream per crystal: editing one leaves the others' configurations as they were.
        rng = np.random.default_rng([SEED, number])
        slug = reference.name.replace(" ", "-")
        for index, (kind, atoms) in enumerate(configurations(reference, calc, rng)):
            info = {
                "structure_id": f"{slug}-{index:02d}",
                "config_type": reference.name,
                "configuration": kind,
                "label_source": LABEL_SOURCE,
            }
            frames.append(extxyz(atoms, info, calc))
        print(f"{reference.name}: {index + 1} structures in {time.perf_counter() - start:.0f} s", flush=True)
    text = "".join(frames).encode()
    output.write_bytes(text)
    digest = hashlib.sha256(text).hexdigest()
    output.with_suffix(".sha256").write_text(f"{digest}  {output.name}\n")
    print(f"{len(frames)} structures, {len(text) / 1e6:.2f} MB, sha256 {digest}: {output}")


def check_md(length: int) -> None:
    """Run every crystal at 1000 K under CHGNet for so many fs and print its closest approach."""
    calc = chgnet_calculator()
    crystals = []
    for reference in CRYSTALS:
        crystals.append(relax(reference.build(), calc)[-1])
        crystals[-1].info["structure_id"] = reference.name
    runs = simulate(calc, crystals, temperature=1000.0, steps=length, interval=5, stop_on=(), progress=True)
    for row in assess(runs).itertuples():
        limit = f"overlap threshold {row.overlap_threshold:.2f} Å"
        print(f"{row.structure_id}: closest {row.min_distance:.2f} Å, {limit}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the shipped demo data set with CHGNet.")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="file to write")
    parser.add_argument("--check-md", type=int, metavar="FS", help="only run 1000 K MD of every crystal")
    options = parser.parse_args()
    if options.check_md:
        check_md(options.check_md)
    else:
        make(options.output)


if __name__ == "__main__":
    main()
