"""The EAM of many elements: fits by pair and by element, their errors, cost against the number of elements, curves.

    python scripts/bench_periodic.py limits silica.xyz alloys.xyz:W alloys.xyz    # few elements: is anything lost?
    python scripts/bench_periodic.py many mpf-TP.xyz mpf-alkali-TP.xyz random-TP.xyz --plot curves.png
    python scripts/bench_periodic.py many data/train.extxyz data/val.extxyz data/test.extxyz --given
    python scripts/bench_periodic.py cost 2 4 8 16 32 64 85                   # made-up alloys, labels of an EAM

``limits`` splits every file at random. ``many`` splits all files together by composition (``--given``: they are
training, validation and test); it also asks the teacher as a run would use it, damped to what it knows, labels
augmented structures, and draws the in-situ energies of twelve pairs that the training data never show together. Every
row of ``cost`` is a process of its own, so that its memory is its own.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols, covalent_radii

from mdl_physpretrain.augmentation import augment
from mdl_physpretrain.augmentation.coverage import coverage_table
from mdl_physpretrain.errors import PhysPretrainError
from mdl_physpretrain.graphs.bonds import nearest_distances
from mdl_physpretrain.potentials import EAM
from mdl_physpretrain.potentials.error_metrics import evaluate, trivial_errors
from mdl_physpretrain.structures import get_labels, read_structures, reference_energies, split_structures
from mdl_physpretrain.structures.elements import elements_of
from mdl_physpretrain.teacher import examine, fit_eam, label
from mdl_physpretrain.teacher.examine import _in_situ_curve, extrapolated_pairs
from mdl_physpretrain.teacher.trust import trusted_teacher

COLUMNS = ["data", "pairs", "parameters", "fit_s", "passed", "forces", "stress", "total", "trivial"]


def row(name: str, train: list[Atoms], val: list[Atoms], test: list[Atoms], **options: object) -> tuple[EAM, dict]:
    """One fit, and its errors on the test structures (eV/Å, eV/Å³)."""
    began = time.perf_counter()
    model = fit_eam(train, val=val, **options)
    seconds = time.perf_counter() - began
    errors, zero = evaluate(model, test), trivial_errors(test, reference_energies(train))
    fit, examination = model.metadata["fit"], model.metadata["examination"]
    return model, {
        "data": name,
        "pairs": fit["pairs"],
        "parameters": fit["parameters"],
        "fit_s": round(seconds, 1),
        "passed": examination["passed"],
        "forces": errors["forces_mae"],
        "stress": errors["stress_mae"],
        "total": errors["total"],
        "trivial": zero["forces_mae"],
    }


def limits(files: list[str], limit: int, epochs: int | None) -> None:
    """Few elements: by pair, by element, by element with corrections. ``FILE:A-B``: of these elements only."""
    rows = []
    for file in files:
        path, _, only = file.partition(":")
        data = read_structures(path, duplicates="rename")
        data = [a for a in data if not only or set(a.symbols) <= set(only.split("-"))]
        data = [data[k] for k in np.random.default_rng(0).permutation(len(data))[:limit]]
        train, val, test = split_structures(data, fractions=(0.6, 0.15, 0.25), seed=0)
        known = set(elements_of(train))
        val, test = ([a for a in part if set(a.symbols) <= known] for part in (val, test))
        name = f"{Path(path).stem} ({len(known)})"
        for pairs in ("pairwise", "factorised", "corrected"):
            rows.append(row(name, train, val, test, pairs=pairs, epochs=epochs)[1])
            print(pd.DataFrame(rows[-1:])[COLUMNS].to_string(index=False, header=len(rows) == 1), flush=True)


def parts_of(files: list[str], given: bool, max_force: float, max_stress: float) -> list[list[Atoms]]:
    """Training, validation, test structures, without elements that training has not, large forces and stresses."""
    read = [read_structures(file, require=("energy", "forces")) for file in files]
    read = [[a for a in part if np.linalg.norm(get_labels(a).forces, axis=1).max() <= max_force] for part in read]
    read = [[a for a in part if (x := get_labels(a).stress) is None or np.abs(x).max() <= max_stress] for part in read]
    if given:
        parts = read
    else:
        data = [a for part in read for a in part]
        parts = list(split_structures(data, fractions=(0.8, 0.08, 0.12), seed=0, group_by="composition"))
    known = set(elements_of(parts[0]))
    return [[a for a in part if set(a.symbols) <= known] for part in parts]


def many(parts: list[list[Atoms]], name: str, kinds: list[str], plot: str | None, epochs: int | None) -> None:
    """A set of many elements in three parts."""
    train, val, test = parts
    print(f"{len(train)}/{len(val)}/{len(test)} structures, {len(elements_of(train))} elements")
    rows, models = [], {}
    for pairs in kinds:
        try:
            models[pairs], result = row(name, train, val, test, pairs=pairs, epochs=epochs)
        except PhysPretrainError as error:
            print(f"{pairs}: {error}")
            continue
        rows.append(result)
        print(pd.DataFrame(rows[-1:])[COLUMNS].to_string(index=False), flush=True)
        examination = models[pairs].metadata["examination"]
        print(f"  extrapolated pairs: {len(examination['extrapolated'])}; failures: {examination['failures'][:4]}")
        print(f"  teaches: {examination['forces']['teaches']}")
        damped, skill = trusted_teacher(models[pairs], val)
        print(
            f"  trust {skill.trust:.2f}; as it is used, forces {evaluate(damped, test)['forces_mae']:.3f} eV/Å",
            flush=True,
        )
        children = augment(train[:: max(1, len(train) // 150)], n_aug=5, seed=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for part, structures in (("test", test), ("augmented", children)):
                labelled = label(structures, models[pairs], force=True)
                largest = [float(np.linalg.norm(a.get_forces(), axis=1).max()) for a in labelled]
                refused = len(structures) - len(labelled)
                most = max(largest, default=np.nan)
                print(f"  labels of {len(structures)} {part}: largest force {most:.4g} eV/Å, {refused} refused")
    if plot is not None:
        draw({k: m for k, m in models.items() if k != "corrected"}, train, Path(plot))


def draw(models: dict[str, EAM], train: list[Atoms], file: Path) -> None:
    """In-situ energies of twelve pairs that the data never show together."""
    import matplotlib.pyplot as plt

    distances = nearest_distances(train, 8.0)
    strangers = list(extrapolated_pairs(elements_of(train), distances).items())
    chosen = [strangers[k] for k in np.random.default_rng(0).permutation(len(strangers))[:12]]
    figure, axes = plt.subplots(3, 4, figsize=(14, 9))
    for ax, (pair, expected) in zip(axes.flat, chosen, strict=False):
        r = torch.linspace(0.3, 7.0, 500, dtype=torch.float64)
        for name, model in models.items():
            energy = _in_situ_curve(model, train)(*pair, expected.typical, r)["total"]
            ax.plot(r, energy, label=name)
        ax.axvline(expected.contact, color="grey", lw=0.5)
        ax.set(title="-".join(pair), ylim=(-3, 12), xlabel="Å", ylabel="eV")
    axes.flat[0].legend()
    figure.tight_layout()
    figure.savefig(file, dpi=80)


def alloys(n_elements: int, n_structures: int, seed: int = 0) -> list[Atoms]:
    """Rattled B2 cells of random pairs of the first elements (noble gases left out), labelled by an EAM."""
    rng = np.random.default_rng(seed)
    symbols = [s for s in chemical_symbols[3:95] if s not in ("Ne", "Ar", "Kr", "Rn", "Xe")][:n_elements]
    pairs = list(itertools.combinations(symbols, 2))
    cells = []
    for k in range(n_structures):
        a, b = (symbols[k], symbols[k - 1]) if k < n_elements else pairs[int(rng.integers(len(pairs)))]
        length = 1.1 * covalent_radii[[atomic_numbers[a], atomic_numbers[b]]].sum() * 2 / 3**0.5
        atoms = Atoms([a, b], scaled_positions=[[0, 0, 0], [0.5] * 3], cell=[length] * 3, pbc=True).repeat((2, 2, 1))
        atoms.positions += rng.normal(scale=0.1, size=atoms.positions.shape)
        atoms.info["structure_id"] = f"alloy-{k}"
        cells.append(atoms)
    return list(label(cells, EAM(symbols).double()))


def cost(counts: list[int], n_structures: int, epochs: int) -> None:
    """Times and memory against the number of elements, each in a process of its own."""
    for n in counts:
        for pairs in ("pairwise", "factorised"):
            command = [sys.executable, "-W", "ignore", __file__, "one", str(n), pairs, str(n_structures), str(epochs)]
            subprocess.run(command, check=True)


def one(n_elements: int, pairs: str, n_structures: int, epochs: int) -> None:
    """A row of ``cost``."""
    data = alloys(n_elements, n_structures)
    fit_eam(data[:8], epochs=1, pairs=pairs, elements=elements_of(data))  # machine code
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.process_time()
    model = fit_eam(data, val=data[: n_structures // 10], pairs=pairs, epochs=epochs)
    fitted = time.process_time()
    examine(model, data)
    examined = time.process_time()
    label(data, model, force=True)
    labelled = time.process_time()
    table = coverage_table(data)
    covered = time.process_time()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fit = model.metadata["fit"]
    print(
        f"{n_elements:3d} elements {pairs:10s} {fit['parameters']:6d} parameters: {fit['attempts']} fits of {epochs} "
        f"epochs and examinations {fitted - began:6.1f} s, examination {examined - fitted:5.1f} s, "
        f"labels {1e3 * (labelled - examined) / n_structures:5.2f} ms each, bins of coverage {len(table):5d} "
        f"({covered - labelled:.1f} s), memory +{(after - before) / 1024:.0f} MiB",
        flush=True,
    )


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["limits", "many", "cost", "one"])
    parser.add_argument("arguments", nargs="+")
    parser.add_argument("--limit", type=int, default=200, help="Structures per file of 'limits', or of 'cost'.")
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument("--plot", default=None)
    parser.add_argument("--given", action="store_true", help="Files of 'many' are training, validation, test.")
    parser.add_argument("--pairs", nargs="+", default=["pairwise", "factorised", "corrected"], help="Of 'many'.")
    parser.add_argument("--max-stress", type=float, default=np.inf, help="Of structures of 'many', eV/Å³.")
    parser.add_argument("--max-force", type=float, default=30.0, help="Of structures of 'many', eV/Å.")
    options = parser.parse_args()
    if options.what == "limits":
        limits(options.arguments, options.limit, options.epochs)
    elif options.what == "many":
        parts = parts_of(options.arguments, options.given, options.max_force, options.max_stress)
        many(parts, Path(options.arguments[0]).stem, options.pairs, options.plot, options.epochs)
    elif options.what == "cost":
        cost([int(n) for n in options.arguments], options.limit, options.epochs or 3)
    else:
        n, pairs, structures, epochs = options.arguments
        one(int(n), pairs, int(structures), int(epochs))


if __name__ == "__main__":
    main()
