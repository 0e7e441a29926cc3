"""What a step asks of a GPU: launches of kernels, and waits of the host, counted on a simulated one.

At some 5 µs a launch, and as much or more a wait, they bound a step from below however few atoms there are. Views are
no launches; matrix products, sorts and the like, which start several kernels, count once. The device is that of the
tests, on a CPU (tests/accelerator/simulated_accelerator.py): no time is measured here.

With ``--compiled`` also with the network as a compiled graph (scripts/fused_kernels.py), whose code takes a minute.

Usage: python scripts/bench_launches.py [--model cgcnn eam ...] [--structures 8] [--steps 20] [--names] [--compiled]
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk

sys.path.append(str(Path(__file__).parents[1] / "tests" / "accelerator"))
from fused_kernels import fused_kernels
from simulated_accelerator import DEVICE, Counts, counted, simulated

from mdl_physpretrain.dynamics.batched_engine import BatchedRun
from mdl_physpretrain.dynamics.settings import MDSettings
from mdl_physpretrain.dynamics.state import maxwell_velocities
from mdl_physpretrain.graphs.batch import AtomicBatch, build_batch, collate
from mdl_physpretrain.potentials import EnergyModel, predict
from mdl_physpretrain.potentials.registry import model_class, registered_models
from mdl_physpretrain.training.loss import EFSLoss
from mdl_physpretrain.training.module import make_adamw

#: As many layers as by default, of small sizes, on which the counts do not depend.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "eam": {"elements": ["Mg", "O"], "cutoff": 4.5},
    "classical": {"elements": ["Mg", "O"], "cutoff": 4.5},
    "cgcnn": {"cutoff": 4.5, "dim1": 8, "dim2": 8, "edge_dim": 8, "width": 0.1},
    "torchmd_et": {"cutoff": 4.5, "hidden_channels": 16, "num_heads": 2, "num_rbf": 8, "post_hidden_channels": 8},
    "m3gnet": {"cutoff": 4.5, "threebody_cutoff": 3.5, "units": 8},
}
SKIPPED = {"sum", "zbl"}
ENSEMBLES = ("nvt", "npt", "nve")


@dataclass
class Row:
    """Of one step."""

    network: str
    step: str
    launches: float
    without_network: float
    waits: float
    copies: float
    names: Counter[str]
    compiled: float = float("nan")  # launches with a compiled network


def crystals(n: int) -> list[Atoms]:
    """Rattled MgO cells of eight atoms."""
    rng, found = np.random.default_rng(0), []
    for k in range(n):
        atoms = bulk("MgO", "rocksalt", a=4.2, cubic=True)
        atoms.positions += rng.normal(scale=0.03, size=(8, 3))
        atoms.info["structure_id"] = f"mgo-{k}"
        atoms.set_velocities(maxwell_velocities(atoms.get_masses(), 300.0, rng))
        found.append(atoms)
    return found


class Counted:
    """A model whose own launches are told apart."""

    def __init__(self, model: EnergyModel) -> None:
        self.counts, self._original = Counts(), model.energy_and_gradient
        model.energy_and_gradient = self  # type: ignore[method-assign]

    def __call__(self, *args: Any, **options: Any) -> Any:
        with counted() as counts:
            out = self._original(*args, **options)
        self.counts.launches += counts.launches
        return out


def dynamics(name: str, model: EnergyModel, ensemble: str, n: int, steps: int) -> Row:
    """Averages over MD steps, after a block of ten; looks every step, traces every ten."""
    settings = MDSettings(ensemble=ensemble, steps=10**6, stop_on=())
    structures = crystals(n)
    rngs = [np.random.default_rng(k) for k in range(n)]
    with torch.no_grad(), simulated():
        run = BatchedRun(model, structures, rngs, settings)
        while run.done < 19:  # a check of the Lindemann indices ends a block there
            run.step()
        inside = Counted(model)
        with counted() as counts:
            while run.done < 19 + steps:
                run.step()
        del model.energy_and_gradient
    of_model = sum(inside.counts.launches.values())
    total = sum(counts.launches.values())
    waits = sum(counts.waits.values())
    names = counts.launches - inside.counts.launches
    per_step = (x / steps for x in (total, total - of_model, waits, counts.copies))
    return Row(name, f"MD, {ensemble}", *per_step, names)


def training(name: str, model: EnergyModel, batch: AtomicBatch) -> Row:
    """One step: prediction with forces and stress, loss, backward, AdamW; the batch is on the device."""
    optimizer = make_adamw([p for p in model.parameters() if p.requires_grad], lr=1e-9)
    loss = EFSLoss()
    with simulated():
        on_device = batch.to(DEVICE)

        def step() -> None:
            optimizer.zero_grad()
            loss(predict(model, on_device, create_graph=True), on_device).backward()
            optimizer.step()

        step()
        with counted() as counts:
            step()
    launches, waits = sum(counts.launches.values()), sum(counts.waits.values())
    return Row(name, "training", launches, float("nan"), waits, counts.copies, counts.launches)


def measure(
    name: str, n: int, steps: int, ensembles: tuple[str, ...] = ENSEMBLES, *, compiled: bool = False
) -> list[Row]:
    """All rows of a potential with random weights."""
    torch.manual_seed(0)
    model = model_class(name)(**ARGUMENTS.get(name, {}))
    if name == "eam":
        with torch.no_grad():  # all ones tear a crystal apart
            model.D.mul_(0.01)
            model.A.mul_(0.01)
    batch = collate([build_batch(atoms, model.cutoff, model.dtype) for atoms in crystals(n)])
    batch.has_energy[:], batch.has_forces[:], batch.has_stress[:] = True, True, True
    kernels = fused_kernels(model.eval(), batch) if compiled else 0
    with simulated():
        model.to(DEVICE)
    rows = [dynamics(name, model.eval(), ensemble, n, steps) for ensemble in ensembles]
    for row, ensemble in zip(rows, ensembles, strict=True):
        if kernels:
            row.compiled = row.without_network + kernels * (2 if ensemble == "npt" else 1)
    return [*rows, training(name, model.train(), batch)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="*", default=[n for n in registered_models() if n not in SKIPPED])
    parser.add_argument("--structures", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--names", action="store_true", help="also the most frequent operations of each row")
    parser.add_argument("--compiled", action="store_true", help="also with the network as a compiled graph")
    options = parser.parse_args()
    print("| potential | step | launches | of these engine and monitor | compiled | waits | copies to the device |")
    print("|---|---|---|---|---|---|---|")
    for name in options.model:
        for row in measure(name, options.structures, options.steps, compiled=options.compiled):
            engine, fused = ("" if np.isnan(x) else f"{x:.0f}" for x in (row.without_network, row.compiled))
            numbers = (f"{row.launches:.0f}", engine, fused, f"{row.waits:.1f}", f"{row.copies:.1f}")
            print("|", " | ".join((name, row.step, *numbers)), "|", flush=True)
            if options.names:
                print("  ", ", ".join(f"{k} {v}" for k, v in row.names.most_common(25)))


if __name__ == "__main__":
    main()
