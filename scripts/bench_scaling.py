"""Time per atom and memory of one evaluation from tens of atoms to tens of thousands.

Supercells of one crystal, neighbour list and energy, forces and stress, one
process per size (so that its peak memory is that of the size), one at a time.
Writes a table and ``docs/performance/scaling.png``:

    python scripts/bench_scaling.py crystal.extxyz --png docs/performance/scaling.png

A size whose process does not get the memory it asks for (``--limit-gb``, an
address-space limit) is reported as such and ends the series of its model.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

TARGETS = (50, 200, 800, 3200, 12800, 50000)
WARM = 2000  # atoms at least in all repetitions: after two small cells caches are still cold


def supercells(unit: Atoms, targets: tuple[int, ...], least: int) -> list[tuple[int, int, int]]:
    """Repetitions of the unit cell, as cubic as can be, nearest to the wanted numbers of atoms."""
    found: list[tuple[int, int, int]] = []
    lengths = unit.cell.lengths()
    for target in targets:
        side = (unit.cell.volume * target / len(unit)) ** (1 / 3)
        rough = np.maximum(side / lengths, 1.0)
        options = [
            tuple(int(max(1, np.floor(r) + d)) for r, d in zip(rough, shift, strict=True))
            for shift in np.ndindex(2, 2, 2)
        ]
        best = min(options, key=lambda n: abs(np.log(np.prod(n) * len(unit) / target)))
        if len(unit) * np.prod(best) >= least and best not in found:
            found.append(best)
    return found


def measure(path: str, index: int, repeats: tuple[int, int, int], name: str, repetitions: int) -> dict[str, Any]:
    """Processor seconds of the list and of the evaluation (smallest of all repetitions), and peak memory."""
    import torch

    from mdl_physpretrain.graphs.batch import build_batch
    from mdl_physpretrain.potentials import CGCNN, EAM, predict
    from mdl_physpretrain.structures import read_structures

    unit = read_structures([path])[index]
    unit.calc = None
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model: Any = (EAM(sorted(set(unit.symbols))) if name == "eam" else CGCNN()).eval().requires_grad_(False)
    for _ in range(2):  # imports, caches and compiled parts are not the size's
        predict(model, build_batch(unit, model.cutoff))
    before = _peak()
    atoms = unit.repeat(repeats)
    atoms.rattle(0.02, seed=0)
    listing, evaluation, edges = [], [], 0
    for _ in range(max(repetitions, WARM // len(atoms))):
        start = time.process_time()
        batch = build_batch(atoms, model.cutoff)
        middle = time.process_time()
        predict(model, batch)
        listing.append(middle - start)
        evaluation.append(time.process_time() - middle)
        edges = batch.edge_index.shape[1]
    return {
        "atoms": len(atoms),
        "edges": edges,
        "list": min(listing),
        "evaluation": min(evaluation),
        "before": before,
        "peak": _peak(),
    }


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MB


def series(args: argparse.Namespace, name: str, sizes: list[tuple[int, int, int]]) -> list[dict[str, Any]]:
    """One process per size; the series ends where memory does."""
    rows: list[dict[str, Any]] = []
    limit = int(args.limit_gb * 2**30)
    for repeats in sizes:
        command = [sys.executable, __file__, args.structures, "--index", str(args.index), "--one", name]
        command += ["--repeats", *map(str, repeats), "--repetitions", str(args.repetitions)]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        )
        if done.returncode:
            reason = (done.stderr.strip() or "killed").splitlines()[-1][:120]
            print(f"{name} {repeats}: does not fit into {args.limit_gb:g} GB ({reason})", flush=True)
            break
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(_line(name, rows[-1]), flush=True)
    return rows


def _line(name: str, row: dict[str, Any]) -> str:
    per_atom = [1e6 * row[k] / row["atoms"] for k in ("list", "evaluation")]
    memory = row["peak"] - row["before"]
    per = 1024 * memory / row["atoms"]
    return (
        f"| {name} | {row['atoms']:,} | {row['edges'] / row['atoms']:.0f} | {per_atom[0]:.3g} | {per_atom[1]:.3g} | "
        f"{row['peak']:,.0f} | {per:.3g} |"
    )


def figure(rows: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Time per atom and memory against the number of atoms."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    drawing, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.4), layout="constrained")
    for k, (name, found) in enumerate(rows.items()):
        colour, label = f"C{k}", {"eam": "EAM", "cgcnn": "CGCNN"}[name]
        atoms = [r["atoms"] for r in found]
        times = [1e6 * (r["list"] + r["evaluation"]) / r["atoms"] for r in found]
        left.loglog(atoms, times, "o-", color=colour, label=label)
        if name == "eam":
            lists = [1e6 * r["list"] / r["atoms"] for r in found]
            left.loglog(atoms, lists, "s--", color="0.5", label="neighbour list alone")
        grown = [(r["atoms"], r["peak"] - r["before"]) for r in found if r["peak"] - r["before"] > 1]
        right.loglog(*zip(*grown, strict=True), "o-", color=colour, label=label)
    sizes = [r["atoms"] for found in rows.values() for r in found]
    ends = np.array([min(sizes), max(sizes)])
    last = rows[next(iter(rows))][-1]
    slope = (last["peak"] - last["before"]) / last["atoms"]
    right.loglog(ends, slope * ends, ":", color="0.5", label="linear")
    left.set(xlabel="atoms", ylabel="processor time per atom (µs)")
    right.set(xlabel="atoms", ylabel="memory above that of a unit cell (MB)")
    left.set_ylim(top=3 * left.get_ylim()[1])
    left.legend(frameon=False, ncols=2, loc="upper left")
    right.legend(frameon=False)
    drawing.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("structures", help="structure file")
    parser.add_argument("--index", type=int, default=0, help="which structure is the unit cell")
    parser.add_argument("--models", nargs="+", default=["eam", "cgcnn"], choices=("eam", "cgcnn"))
    parser.add_argument("--targets", nargs="+", type=int, default=list(TARGETS), help="numbers of atoms")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--limit-gb", type=float, default=8.0)
    parser.add_argument("--png", type=Path)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--repeats", nargs=3, type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.structures, args.index, tuple(args.repeats), args.one, args.repetitions)))
        return
    from mdl_physpretrain.structures import read_structures

    unit = read_structures([args.structures])[args.index]
    sizes = supercells(unit, tuple(args.targets), least=len(unit))
    print(f"{unit.get_chemical_formula()}, limit {args.limit_gb:g} GB, smallest of {args.repetitions} times\n")
    print("| model | atoms | neighbours | list, µs/atom | evaluation, µs/atom | peak, MB | above start, kB/atom |")
    print("|---|---|---|---|---|---|---|")
    rows = {name: series(args, name, sizes) for name in args.models}
    if args.png:
        figure({name: found for name, found in rows.items() if found}, args.png)


if __name__ == "__main__":
    main()
