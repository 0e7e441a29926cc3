"""How fast structures get energy, forces and stress from an EAM, next to MatDeepLearn and LAMMPS.

    python scripts/bench_labelling.py structures.extxyz --structures 100 --repeats 5 --host /path/to/MatDeepLearn

Every contestant starts from the same ASE structures and ends with numbers in NumPy arrays; neighbour lists are part of
the work. Repetitions are interleaved, so that what else the machine does hits all alike; ratios are taken within a
repetition. What is not installed is left out and said so.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.metadata
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch
from ase import Atoms
from ase.calculators.lammps import Prism
from ase.units import bar

from mdl_physpretrain import __version__
from mdl_physpretrain.potentials import EAM
from mdl_physpretrain.teacher import label
from mdl_physpretrain.teacher.lammps import lammps_commands, write_eam_fs

STEPS = 10
Numbers = list[tuple[float, np.ndarray, np.ndarray]]
Contestant = Callable[[list[Atoms]], Numbers]


class TorchEAM(EAM):
    """The readable formula: not what the kernel takes, so ``label`` evaluates it with torch, in batches."""


def teacher_of(structures: list[Atoms], cutoff: float, kind: type[EAM] = EAM) -> EAM:
    symbols = sorted({s for a in structures for s in a.symbols})
    model = kind(symbols, cutoff=cutoff).double().eval()
    with torch.no_grad():
        model.alpha.fill_(1.5)
        model.D.fill_(0.4)
        model.beta.copy_(torch.linspace(0.8, 5.0, model.beta.shape[1]).double().expand_as(model.beta))
        model.B.fill_(0.05)
    return model


def by_label(model: EAM) -> Contestant:
    def run(structures: list[Atoms]) -> Numbers:
        done = label(structures, model)
        return [(a.calc.results["energy"], a.calc.results["forces"], a.get_stress(voigt=False)) for a in done]

    return run


def by_host(model: EAM, root: str | None, images: int) -> tuple[Contestant | None, str]:
    """MatDeepLearn's graph and its way to forces and stress, one structure at a time, around the EAM's formula."""
    if root:
        sys.path.insert(0, root)
    try:
        from matdeeplearn.models.base_model import BaseModel
        from torch_geometric.data import Batch, Data
    except ImportError as error:
        return None, f"not installed ({error})"

    class HostEAM(BaseModel):
        """The shape of the host's own models: ``generate_graph``, energy, ``autograd.grad``."""

        target_attr = "y"

        def forward(self, data: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            (row, column), r, *_ = self.generate_graph(data, self.cutoff_radius, self.n_neighbors)
            element = model.element_of[data.z]
            pair = model.pair_of[element[row], element[column]]
            zero = torch.zeros(len(data.z), dtype=r.dtype)
            density = zero.index_add(0, row, model.density_function(r, pair)[0])
            pairs = model.pair_function(r, pair)[0].sum() / 2
            pairs = pairs + model.core.pair_terms(data.z[row], data.z[column], r)[0].sum() / 2  # type: ignore[union-attr]
            energy = pairs + (model.embedding(density, element)[0] + model.base_atomic_energy[element]).sum()
            by_position, by_strain = torch.autograd.grad(energy, [data.pos, data.displacement])
            return energy, -by_position, by_strain / torch.linalg.det(data.cell).abs().view(-1, 1, 1)

    host = HostEAM(
        otf_edge_index=True, graph_method="ocp", gradient=True, cutoff_radius=model.cutoff, n_neighbors=1000,
        num_offsets=images,
    )  # fmt: skip

    def run(structures: list[Atoms]) -> Numbers:
        numbers = []
        for atoms in structures:
            data = Data(
                pos=torch.tensor(atoms.positions).float(),  # the host's graph takes nothing else
                cell=torch.tensor(atoms.cell.array).float()[None],
                z=torch.tensor(atoms.numbers),
                n_atoms=torch.tensor([len(atoms)]),
            )
            energy, forces, stress = host(Batch.from_data_list([data]))
            numbers.append((float(energy.detach()), forces.detach().numpy(), stress[0].detach().numpy()))
        return numbers

    asked = ["git", "-C", root or ".", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() if root else ""
    return run, commit or "installed"


def by_lammps(model: EAM, folder: Path) -> tuple[Contestant | None, str]:
    """LAMMPS eam/fs on the exported table: one ``run 0`` for every structure."""
    for place in [p for p in sys.path if p.endswith("site-packages")]:
        for library in Path(place).parents[1].glob("libmpi.so.12"):  # of the package mpich, which LAMMPS' wheel needs
            ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    try:
        from lammps import lammps

        program = lammps(cmdargs=["-log", "none", "-screen", "none"])
    except (ImportError, OSError) as error:
        return None, f"not installed ({error})"
    table = write_eam_fs(model, folder / "teacher.eam.fs")
    potential = lammps_commands(model, table).split("\n", 1)[1]
    keys = ("pxx", "pyy", "pzz", "pyz", "pxz", "pxy")

    def run(structures: list[Atoms]) -> Numbers:
        numbers = []
        reading = steps = 0.0
        for atoms in structures:
            prism = Prism(atoms.cell.array)
            xhi, yhi, zhi, xy, xz, yz = prism.get_lammps_prism()
            program.commands_string(
                "clear\nunits metal\natom_style atomic\natom_modify map array sort 0 0\nbox tilt large\n"
                f"region b prism 0 {xhi} 0 {yhi} 0 {zhi} {xy} {xz} {yz} units box\n"
                f"create_box {len(model.elements)} b"
            )
            types = [model.elements.index(s) + 1 for s in atoms.symbols]
            positions = prism.vector_to_lammps(atoms.positions, wrap=True)
            program.create_atoms(len(atoms), list(range(1, len(atoms) + 1)), types, positions.ravel().tolist())
            started = time.perf_counter()
            program.commands_string(potential)
            reading += time.perf_counter() - started
            program.commands_string(
                "neighbor 0.0 bin\ncompute p all pressure NULL virial\n"
                "thermo_style custom pe pxx pyy pzz pyz pxz pxy\nrun 0 post no"
            )
            energy = program.get_thermo("pe")
            xx, yy, zz, yz, xz, xy = (-program.get_thermo(k) * bar for k in keys)
            order = np.argsort(program.numpy.extract_atom("id")[: len(atoms)])
            forces = prism.vector_to_ase(program.numpy.extract_atom("f")[: len(atoms)][order])
            stress = prism.tensor2_to_ase(np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]))
            numbers.append((energy, forces, stress))
            # what is left when nothing is set up: list, energy, forces and virial of atoms that stand still
            started = time.perf_counter()
            program.commands_string(f"neigh_modify every 1 delay 0 check no\nthermo 1\nrun {STEPS} pre no post no")
            steps += time.perf_counter() - started
        run.reading, run.steps = reading, steps  # type: ignore[attr-defined]
        return numbers

    return run, str(program.version())


def deviation(found: Numbers, wanted: Numbers) -> str:
    """Largest differences of energy (eV/atom), forces (eV/Å) and stress (eV/Å³)."""
    energy = max(abs(a[0] - b[0]) / len(b[1]) for a, b in zip(found, wanted, strict=True))
    forces = max(np.abs(a[1] - b[1]).max() for a, b in zip(found, wanted, strict=True))
    stress = max(np.abs(a[2] - b[2]).max() for a, b in zip(found, wanted, strict=True))
    return f"{energy:.0e}, {forces:.0e}, {stress:.0e}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="periodic structures")
    parser.add_argument("--structures", type=int, default=100, help="how many, spread over the file")
    parser.add_argument("--cutoff", type=float, default=8.0, help="Å")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--host", help="folder of MatDeepLearn, if it is not installed")
    parser.add_argument("--images", type=int, default=2, help="MatDeepLearn's num_offsets: images in each direction")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    everything = ase.io.read(options.file, ":")
    chosen = np.linspace(0, len(everything) - 1, min(options.structures, len(everything))).astype(int)
    structures: list[Atoms] = [everything[k] for k in chosen]
    model = teacher_of(structures, options.cutoff)
    reference = teacher_of(structures, options.cutoff, TorchEAM)
    host, host_version = by_host(teacher_of(structures, options.cutoff, TorchEAM).float(), options.host, options.images)
    with tempfile.TemporaryDirectory() as folder:
        lammps, lammps_version = by_lammps(model, Path(folder))
        contestants: dict[str, tuple[Contestant | None, str]] = {
            "this package": (by_label(model), __version__),
            "this package, torch reference in batches": (by_label(reference), torch.__version__),
            "MatDeepLearn's graph and gradient": (host, host_version),
            "LAMMPS eam/fs": (lammps, lammps_version),
        }
        present = {name: run for name, (run, _) in contestants.items() if run is not None}
        numbers = {name: run(structures) for name, run in present.items()}  # warm, compiled, compared
        seconds: dict[str, list[float]] = {name: [] for name in present}
        for _ in range(options.repeats):
            for name, run in present.items():
                start = time.perf_counter()
                run(structures)
                seconds[name].append(time.perf_counter() - start)
                if name == "LAMMPS eam/fs":
                    reading, steps = run.reading, run.steps  # type: ignore[attr-defined]
                    seconds[name][-1] -= steps
                    seconds.setdefault("LAMMPS eam/fs without reading its table", []).append(
                        seconds[name][-1] - reading
                    )
                    seconds.setdefault("LAMMPS eam/fs without any setup (a step of atoms at rest)", []).append(
                        steps / STEPS
                    )
    atoms = np.mean([len(a) for a in structures])
    print(
        f"{len(structures)} structures of {atoms:.0f} atoms on average, cutoff {options.cutoff:g} Å, "
        f"{options.threads} threads, {options.repeats} repetitions, numpy {importlib.metadata.version('numpy')}\n"
    )
    print("| program | version | structures/s | time relative to this package (range) | largest difference (E, F, S) |")
    print("|---|---|---|---|---|")
    first = np.array(seconds["this package"])
    wanted = numbers["this package, torch reference in batches"]
    for name, version in [(n, v) for n, (_, v) in contestants.items()] + [(n, "") for n in seconds if "without" in n]:
        if name not in seconds:
            print(f"| {name} | {version} | - | - | - |")
            continue
        ratio = np.array(seconds[name]) / first
        spread = f"{np.median(ratio):.2f} ({ratio.min():.2f}-{ratio.max():.2f})"
        rate = len(structures) / np.median(seconds[name])
        same = deviation(numbers[name], wanted) if name in numbers else "same"
        print(f"| {name} | {version} | {rate:.0f} | {spread} | {same} |")


if __name__ == "__main__":
    main()
