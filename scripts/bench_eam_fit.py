"""How fast the EAM is fitted, next to the paper's protocol in plain autograd.

    python scripts/bench_eam_fit.py lmo_train.extxyz --reference-epochs 2 --repeats 3

The protocol is that of section 2.2.2 (AdamW, 200 epochs, batches of 8, loss 0.01 : 50 : 50) on neighbour lists that are
computed once. Three ways to the same updates: the loss through two derivatives of the energy, as a framework without
analytic forces takes it; through analytic forces and one derivative; and the kernel of this package.
Single epochs of all three are interleaved and their losses compared, then the kernel runs the whole protocol, and the
default preset shows when it has reached the same loss. ``--full`` lets the slow ways run to the end, too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import numpy as np
import torch
from ase import Atoms

from mdl_physpretrain import __version__
from mdl_physpretrain.graphs.batch import AtomicBatch, build_batch, collate
from mdl_physpretrain.potentials import EAM, predict
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.structures import read_structures
from mdl_physpretrain.teacher import fit_eam
from mdl_physpretrain.teacher.fit import PRESETS
from mdl_physpretrain.teacher.objective import EAMObjective
from mdl_physpretrain.training.loss import EFSLoss

WEIGHTS = (0.01, 50.0, 50.0)
PAPER = PRESETS["paper"]


class TwiceDifferentiated(EAM):
    """Forces by ``autograd.grad``, so that their loss needs a second derivative."""

    def energies(self, batch: AtomicBatch, vectors: torch.Tensor) -> torch.Tensor:
        i, j = batch.edge_index
        element = self.element_index(batch.numbers)
        r, pair = torch.linalg.vector_norm(vectors, dim=1), self.pair_of[element[i], element[j]]
        density = r.new_zeros(len(batch.numbers)).index_add(0, i, self.density_function(r, pair)[0])
        atomic = self.embedding(density, element)[0] + self.base_atomic_energy[element]
        energy = r.new_zeros(len(batch)).index_add(0, batch.structure, atomic)
        return energy.index_add(0, batch.edge_structure, 0.5 * self.pair_function(r, pair)[0])

    energy_and_gradient = EnergyModel.energy_and_gradient


def autograd_epochs(kind: type[EAM], structures: list[Atoms], symbols: list[str], cutoff: float) -> Iterator[float]:
    """Mean loss of one epoch after the other."""
    model = kind(symbols, cutoff=cutoff, core=False)
    data = [build_batch(a, cutoff) for a in structures]
    generator, loss = torch.Generator().manual_seed(0), EFSLoss(*WEIGHTS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PAPER["learning_rate"], weight_decay=0.0)
    while True:
        order, losses = torch.randperm(len(data), generator=generator).tolist(), []
        for start in range(0, len(order), PAPER["batch_size"]):
            batch = collate([data[k] for k in order[start : start + PAPER["batch_size"]]])
            value = loss(predict(model, batch, create_graph=True), batch)
            optimizer.zero_grad()
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            losses.append(float(value.detach()))
        yield float(np.mean(losses))


def kernel_epochs(structures: list[Atoms], symbols: list[str], cutoff: float) -> Iterator[float]:
    """The same with the kernel."""
    model = EAM(symbols, cutoff=cutoff, core=False).double()
    objective, leaves = EAMObjective(model, structures, WEIGHTS), dict(model.named_parameters())
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PAPER["learning_rate"], weight_decay=0.0)
    while True:
        order, losses = torch.randperm(len(structures), generator=generator).tolist(), []
        for start in range(0, len(order), PAPER["batch_size"]):
            value, gradient = objective.loss(leaves, order[start : start + PAPER["batch_size"]])
            for name, leaf in leaves.items():
                leaf.grad = gradient[name]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
            optimizer.step()
            losses.append(value)
        yield float(np.mean(losses))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="labelled structures")
    parser.add_argument("--structures", type=int, help="only so many")
    parser.add_argument("--cutoff", type=float, default=8.0, help="Å")
    parser.add_argument("--epochs", type=int, default=PAPER["epochs"], help="of the protocol")
    parser.add_argument("--reference-epochs", type=int, default=2, help="of the slow ways, timed, in every repetition")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--full", action="store_true", help="run the slow ways to the end")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    structures = read_structures(options.file)[: options.structures]
    symbols = sorted({s for a in structures for s in a.symbols})
    arguments = (structures, symbols, options.cutoff)
    ways = {
        "autograd, forces differentiated": autograd_epochs(TwiceDifferentiated, *arguments),
        "autograd, analytic forces": autograd_epochs(EAM, *arguments),
        "kernel": kernel_epochs(*arguments),
    }
    losses: dict[str, list[float]] = {name: [next(way)] for name, way in ways.items()}  # neighbour lists, compilation
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            losses[name] += [next(way) for _ in range(options.reference_epochs)]
            seconds[name].append((time.perf_counter() - start) / options.reference_epochs)
    whole = f"{options.epochs} epochs (s)"
    print(
        f"{len(structures)} structures, {sum(map(len, structures))} atoms, cutoff {options.cutoff:g} Å, "
        f"{options.threads} threads, mdl_physpretrain {__version__}, torch {torch.__version__}\n"
    )
    print(
        f"| way | epoch (s) | {whole} | time relative to the kernel (range) | loss of epoch {len(losses['kernel'])} |"
    )
    print("|---|---|---|---|---|")
    for name in ways:
        ratio = np.array(seconds[name]) / np.array(seconds["kernel"])
        epoch = float(np.median(seconds[name]))
        print(
            f"| {name} | {epoch:.3f} | {epoch * options.epochs:.0f} (epochs times median) | "
            f"{np.median(ratio):.1f} ({ratio.min():.1f}-{ratio.max():.1f}) | {losses[name][-1]:.4f} |"
        )
    totals = {}
    for name, way in ways.items():
        if options.full or name == "kernel":
            start = time.perf_counter()
            rest = [next(way) for _ in range(options.epochs - len(losses[name]))]
            losses[name] += rest
            totals[name] = (time.perf_counter() - start) * options.epochs / max(1, len(rest))
            print(f"\n{name}: {totals[name]:.1f} s for {options.epochs} epochs, loss {losses[name][-1]:.4f}")
    for preset in ("paper", "default"):
        start = time.perf_counter()
        fit = fit_eam(
            structures,
            cutoff=options.cutoff,
            preset=preset,
            **({"epochs": options.epochs} if preset == "paper" else {}),
        )
        found = fit.metadata["fit"]
        first = next((h["step"] + 1 for h in found["history"] if h["loss"] <= losses["kernel"][-1]), None)
        seconds_of_fit = time.perf_counter() - start
        print(
            f"\nfit_eam(preset={preset!r}), everything from neighbour lists to examination: "
            f"{seconds_of_fit:.1f} s, {len(found['history'])} epochs, loss {found['history'][-1]['loss']:.4f}; "
            f"at or below the protocol's last loss from epoch {first or '-'} on; "
            f"examination {'passed' if fit.metadata['examination']['passed'] else 'failed'}"
        )


if __name__ == "__main__":
    main()
