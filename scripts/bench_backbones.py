"""Our networks against MatDeepLearn's, with the same weights on the same structures, in one process.

Steps alternate, so that whatever else the machine does meets both alike, and
every ratio is of neighbours in time. ``training`` is forward, forces and
stress by autograd, loss on all three, backward, AdamW; ``MD`` is energy, forces and
stress with a neighbour list made anew (MatDeepLearn makes one in every call).
Before anything is timed, energies, forces, stress and the gradients of all
weights are compared.

Usage: python scripts/bench_backbones.py [--model cgcnn] [--device cpu] [--threads 1] [--repeats 7] data/*.extxyz
Without MatDeepLearn in the environment the columns of ratios stay empty.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.io import read
from torch import Tensor

from mdl_physpretrain.compiled import threads as parallel
from mdl_physpretrain.graphs.batch import build_batch, collate
from mdl_physpretrain.potentials import CGCNN, EnergyModel, TorchMDET, predict
from mdl_physpretrain.potentials.cgcnn import autograd as cgcnn_fast
from mdl_physpretrain.potentials.devices import resolve_device
from mdl_physpretrain.potentials.torchmd_et import autograd as torchmd_fast
from mdl_physpretrain.training.module import make_adamw

CUTOFF = 8.0
SIZES: dict[str, dict[str, Any]] = {  # Appendix C
    "cgcnn": {"dim1": 100, "dim2": 150, "pre_fc_count": 1, "gc_count": 4, "post_fc_count": 3, "act": "silu"},
    "torchmd_et": {
        "hidden_channels": 128, "num_layers": 8, "num_rbf": 50, "num_heads": 8,
        "num_post_layers": 2, "post_hidden_channels": 128,
    },
}  # fmt: skip
Step = Callable[[], tuple[Tensor, Tensor, Tensor]]


def networks(name: str) -> tuple[EnergyModel, Any]:
    """Our network and the peer's (``None`` where it is not installed), with the same weights."""
    torch.manual_seed(0)
    if name == "cgcnn":
        ours: EnergyModel = CGCNN(cutoff=CUTOFF, width=0.2, smooth_cutoff=False, fixed_norm=False, **SIZES[name])
    else:
        ours = TorchMDET(cutoff=CUTOFF, smooth_cutoff=False, own_images=False, **SIZES[name])
    if importlib.util.find_spec("matdeeplearn") is None:
        return ours, None
    import matdeeplearn.models  # noqa: F401 - registers them
    from matdeeplearn.common.registry import registry

    peer = registry.get_model_class({"cgcnn": "CGCNN"}.get(name, name))(
        node_dim=100, edge_dim=50, output_dim=1, pool="global_add_pool", pool_order="late", cutoff_radius=CUTOFF,
        n_neighbors=400, graph_method="ocp", num_offsets=3, otf_edge_index=True, otf_edge_attr=True,
        otf_node_attr=True, gradient=True, **SIZES[name],
    )  # fmt: skip
    with torch.no_grad():
        if name == "cgcnn":  # fresh weights give forces near zero, which would compare nothing
            peer.pre_lin_list[0].weight.mul_(10)
            for conv in peer.conv_list:
                conv.lin_f.weight.mul_(3)
                conv.lin_s.weight.mul_(3)
            peer.lin_out.weight.mul_(1000)
    ours.load_state_dict(peer.state_dict())
    return ours, peer


def peer_batch(structures: list[Atoms], device: torch.device | str) -> Any:
    from torch_geometric.data import Batch, Data

    def tensor(value: np.ndarray) -> Tensor:
        return torch.tensor(value, dtype=torch.float32)

    return Batch.from_data_list(
        [
            Data(pos=tensor(a.positions), cell=tensor(a.cell.array[None]), z=torch.tensor(a.numbers),
                 n_atoms=torch.tensor([len(a)]))
            for a in structures
        ]
    ).to(device)  # fmt: skip


def our_step(model: EnergyModel, structures: list[Atoms], training: bool, device: torch.device | str) -> Step:
    lists = collate([build_batch(a, CUTOFF) for a in structures]).to(device)

    def step() -> tuple[Tensor, Tensor, Tensor]:
        batch = lists if training else collate([build_batch(a, CUTOFF) for a in structures]).to(device)
        out = predict(model, batch, create_graph=training)
        return out.energy, out.forces, out.stress

    return trained(model, step, make_adamw) if training else step


def peer_step(model: Any, structures: list[Atoms], training: bool, device: torch.device | str) -> Step:
    batch = peer_batch(structures, device)

    def step() -> tuple[Tensor, Tensor, Tensor]:
        out = model(batch.clone())
        return out["output"].flatten(), out["pos_grad"], out["cell_grad"]

    return trained(model, step, torch.optim.AdamW) if training else step


def trained(model: torch.nn.Module, step: Step, adamw: Callable[..., torch.optim.Optimizer]) -> Step:
    """With loss, backward pass and an update too small to change a weight, by the AdamW of each one's trainer."""
    optimizer = adamw([p for p in model.parameters() if p.requires_grad], lr=1e-30)

    def whole() -> tuple[Tensor, Tensor, Tensor]:
        optimizer.zero_grad()
        energy, forces, stress = step()
        (0.01 * energy.abs().mean() + 50 * forces.abs().mean() + 50 * stress.abs().mean()).backward()
        optimizer.step()
        return energy, forces, stress

    return whole


def disagreement(mine: tuple[Tensor, ...], theirs: tuple[Tensor, ...], models: tuple[Any, Any] | None) -> float:
    """Largest difference of energy, forces, stress and gradients relative to the largest of its kind."""
    pairs = list(zip(mine, theirs, strict=True))
    if models is not None:
        peers = dict(models[1].named_parameters())
        pairs += [(p.grad, peers[n].grad) for n, p in models[0].named_parameters() if p.grad is not None]
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-9)) for a, b in pairs)


def measure(steps: list[Step], repeats: int, clock: Callable[[], float]) -> np.ndarray:
    """Seconds of each step in alternation, shape (repeats, len(steps))."""
    seconds = np.empty((repeats, len(steps)))
    for row in seconds:
        for k, step in enumerate(steps):
            begin = clock()
            step()
            row[k] = clock() - begin
    return seconds


def after_device(clock: Callable[[], float]) -> float:
    """The time when all that was asked of the GPU is done."""
    torch.cuda.synchronize()
    return clock()


def kernel_share(step: Step, repeats: int) -> float:
    """Share of a step's time in the kernels of edges and pairs; the least busy of several steps."""
    inside, shares = [0.0], []
    launch = parallel.launch

    def timed(*arguments: Any) -> Any:
        begin = time.perf_counter()
        sums = launch(*arguments)
        inside[0] += time.perf_counter() - begin
        return sums

    modules = (cgcnn_fast, torchmd_fast)
    for module in modules:
        module.launch = timed
    for _ in range(repeats):
        inside[0], begin = 0.0, time.perf_counter()
        step()
        whole = time.perf_counter() - begin
        shares.append((whole, inside[0] / whole))
    for module in modules:
        module.launch = launch
    return min(shares)[1]


def cases(paths: list[Path]) -> dict[str, list[Atoms]]:
    """A small, a middling and a large structure of every file, and a batch of eight."""
    found = {}
    for path in paths:
        structures = sorted((a for a in read(path, ":300") if 8 <= len(a) <= 72), key=len)
        for k in sorted({0, len(structures) // 2, len(structures) - 1}):
            found[f"{path.stem}, {len(structures[k])} atoms"] = [structures[k]]
        batch = structures[:: max(1, len(structures) // 8)][:8]
        found[f"{path.stem}, batch of {len(batch)}, {sum(map(len, batch))} atoms"] = batch
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, help="structures, any file ASE reads")
    parser.add_argument("--model", choices=sorted(SIZES), nargs="*", default=sorted(SIZES))
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: on a busy machine, one thread")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    device = torch.device(resolve_device(options.device))
    clock: Callable[[], float] = time.process_time if options.clock == "cpu" else time.perf_counter
    clock = partial(after_device, clock) if device.type == "cuda" else clock
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{options.threads} thread(s)"
    print(f"torch {torch.__version__}, {where}, {options.clock} time, {options.repeats} pairs\n")
    print(
        "| network | structures | edges | step | MatDeepLearn (ms) | ours (ms) | of which kernels | ratio [min, max] "
        "| difference |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name in options.model:
        ours, peer = (x if x is None else x.to(device) for x in networks(name))
        weights = {k: v.clone() for k, v in ours.state_dict().items()}
        for label, structures in cases(options.paths).items():
            edges = sum(build_batch(a, CUTOFF).edge_index.shape[1] for a in structures)
            for training in (False, True):
                ours.load_state_dict(weights)  # running statistics of the normalisation too
                ours.train(training)
                steps = [our_step(ours, structures, training, device)]
                mine = steps[0]()
                difference = ""
                if peer is not None:
                    peer.load_state_dict({k: v for k, v in weights.items() if k != "reference_energies"})
                    peer.train(training)
                    steps.append(peer_step(peer, structures, training, device))
                    difference = f"{disagreement(mine, steps[1](), (ours, peer) if training else None):.0e}"
                seconds = measure(steps, options.repeats, clock) * 1e3
                own, theirs, ratio = f"{np.median(seconds[:, 0]):.1f}", "", ""
                if peer is not None:
                    ratios = seconds[:, 1] / seconds[:, 0]
                    theirs = f"{np.median(seconds[:, 1]):.0f}"
                    ratio = f"{np.median(ratios):.1f} [{ratios.min():.1f}, {ratios.max():.1f}]"
                step, share = "training" if training else "MD", kernel_share(steps[0], options.repeats)
                cells = (name, label, edges, step, theirs, own, f"{share:.0%}", ratio, difference)
                print("|", " | ".join(map(str, cells)), "|", flush=True)


if __name__ == "__main__":
    main()
