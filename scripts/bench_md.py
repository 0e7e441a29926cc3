"""MD throughput beside MatDeepLearn's calculator in an ASE loop and torch-sim.

Every contender simulates the same structures with the same weights (NVT,
Langevin). They take turns, a few steps each, so that what else the machine
does falls on all of them; ratios are formed within a turn. With one thread on
a CPU the clock is the processor time of the process, which other jobs disturb
less; otherwise it is the wall's. Run it as

    python scripts/bench_md.py structures.extxyz --model cgcnn

where ``matdeeplearn`` and ``torch_sim`` can be imported; peers that cannot are
left out by name.
"""

from __future__ import annotations

import argparse
import copy
import importlib.metadata
import logging
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from ase import Atoms, units

from mdl_physpretrain.dynamics.batched_engine import BatchedRun, split_batches
from mdl_physpretrain.dynamics.settings import MDSettings
from mdl_physpretrain.dynamics.state import maxwell_velocities
from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.potentials import CGCNN, EAM, EnergyModel
from mdl_physpretrain.potentials.registry import model_class
from mdl_physpretrain.structures import read_structures
from mdl_physpretrain.structures.randomness import trajectory_rng

TEMPERATURE, TIMESTEP, FRICTION = 300.0, 1.0, 0.01  # K, fs, 1/fs
OURS = "simulate, batched"
CLOCK = time.process_time
Contender = Callable[[int], int]  # makes so many steps; returns the structure-steps made


def make_model(name: str, elements: Sequence[str]) -> EnergyModel:
    """A network of the size of Appendix C as MatDeepLearn has it, or an EAM; random weights, float32."""
    torch.manual_seed(0)
    if name == "eam":
        eam = EAM(elements)
        with torch.no_grad():
            eam.D.mul_(0.1)
            eam.A.mul_(0.01)
        return eam.eval()
    if name == "cgcnn":
        return CGCNN(width=0.2, smooth_cutoff=False).eval()
    options: Any = {"num_layers": 8, "num_post_layers": 2, "post_hidden_channels": 128, "pool_order": "early"}
    return model_class("torchmd_et")(cutoff=8.0, pool="add", smooth_cutoff=False, own_images=False, **options).eval()  # type: ignore[call-arg]


class Timed(BatchedRun):
    """Counts the time of looking: metrics and traces."""

    looking = 0.0

    def look(self) -> None:
        start = CLOCK()
        super().look()
        self.looking += CLOCK() - start


def batched(
    model: EnergyModel,
    structures: Sequence[Atoms],
    batch_atoms: int,
    skin: float,
    *,
    watch: bool,
    shares: list[float] | None = None,
) -> Contender:
    """Our engine: what ``simulate`` runs, with or without the physicality metrics of every step.

    ``shares`` takes the part of each turn's time that metrics and traces cost.
    """
    settings = MDSettings(
        temperature=TEMPERATURE,
        timestep=TIMESTEP,
        friction=FRICTION,
        steps=10**6,
        stop_on=(),
        interval=1 if watch else 10**6,
        trace_interval=10 if watch else 10**6,
    )
    runs = []
    for batch in split_batches(structures, batch_atoms):
        atoms = [structures[k].copy() for k in batch]
        rngs = [trajectory_rng(0, a.info["structure_id"]) for a in atoms]
        for a, rng in zip(atoms, rngs, strict=True):
            a.set_velocities(maxwell_velocities(a.get_masses(), TEMPERATURE, rng))
        with torch.no_grad():
            runs.append(Timed(model, atoms, rngs, settings, skin=skin))

    def advance(steps: int) -> int:
        start, before = CLOCK(), sum(run.looking for run in runs)
        with torch.no_grad():
            for run in runs:
                for _ in range(steps):
                    run.step()
        if shares is not None:
            shares.append((sum(run.looking for run in runs) - before) / (CLOCK() - start))
        return steps * sum(len(run.state) for run in runs)

    return advance


def ase_loop(calculator: Any, structures: Sequence[Atoms]) -> Contender:
    """ASE's Langevin, one structure after the other."""
    from ase.md.langevin import Langevin

    dynamics = []
    for k, original in enumerate(structures):
        atoms = original.copy()
        rng = np.random.default_rng(k)
        atoms.set_velocities(maxwell_velocities(atoms.get_masses(), TEMPERATURE, rng))
        atoms.calc = copy.copy(calculator)  # with results of its own
        atoms.calc.reset()
        options = {"temperature_K": TEMPERATURE, "friction": FRICTION / units.fs, "fixcm": False, "rng": rng}
        dynamics.append(Langevin(atoms, TIMESTEP * units.fs, **options))  # type: ignore[arg-type]

    def advance(steps: int) -> int:
        for one in dynamics:
            for _ in range(steps):
                one.step()
        return steps * len(dynamics)

    return advance


def host_calculator(model: EnergyModel, structures: Sequence[Atoms], folder: str) -> Any:
    """MatDeepLearn's own calculator with the same weights, its graph no larger than it has to be."""
    from matdeeplearn.common.ase_utils import MDLCalculator

    from mdl_physpretrain.graphs.neighbour_lists import neighbour_list
    from mdl_physpretrain.hosts.matdeeplearn.checkpoint import write_matdeeplearn

    logging.disable(logging.INFO)
    _, path = write_matdeeplearn(model, Path(folder) / "net.pt")
    content = yaml.safe_load(path.read_text())
    longest = offsets = 1
    for atoms in structures:
        edges, shifts = neighbour_list(atoms.positions, atoms.cell.array, atoms.pbc, model.cutoff)
        longest = max(longest, int(np.bincount(edges[0]).max()))
        offsets = max(offsets, int(np.abs(shifts).max()))
    content["dataset"]["preprocess_params"].update(n_neighbors=longest + 10, num_offsets=offsets)
    path.write_text(yaml.safe_dump(content))
    calculator = MDLCalculator(str(path), "cuda:0")
    for host in calculator.models:
        host.eval()
    return calculator


def torch_sim_run(model: EnergyModel, structures: Sequence[Atoms], batch_atoms: int) -> Contender:
    """torch-sim's Langevin around our model, with its neighbour lists on a GPU; no metrics, no stress."""
    import torch_sim
    from torch_sim.neighbors import torchsim_nl

    from mdl_physpretrain.hosts.torch_sim import TorchSimModel

    lists = None if model.device.type == "cpu" else torchsim_nl
    wrapped = TorchSimModel(model, neighbor_list_fn=lists, compute_stress=False)  # float64, as ours
    constants = {"dt": TIMESTEP * units.fs, "kT": TEMPERATURE * units.kB, "gamma": FRICTION / units.fs}
    dt, kT, gamma = (torch.tensor(v, dtype=torch.float64, device=model.device) for v in constants.values())
    states = []
    for batch in split_batches(structures, batch_atoms):
        state = torch_sim.initialize_state([structures[k] for k in batch], model.device, torch.float64)
        state.rng = 0
        states.append(torch_sim.integrators.nvt_langevin_init(state, wrapped, kT=kT))

    def advance(steps: int) -> int:
        for k in range(len(states)):
            for _ in range(steps):
                states[k] = torch_sim.integrators.nvt_langevin_step(states[k], wrapped, dt=dt, kT=kT, gamma=gamma)
        return steps * sum(int(s.n_systems) for s in states)

    return advance


def rates(
    contenders: dict[str, tuple[Contender, int]], repetitions: int, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Structure-steps per second of every turn; the first turn, which warms up, is not counted.

    Every other turn goes the other way round: who comes after whom matters to the caches.
    """
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repetitions + 1):
        for name, (advance, steps) in list(contenders.items())[:: -1 if turn % 2 else 1]:
            start = clock()
            made = advance(steps)
            if turn:
                found[name].append(made / (clock() - start))
    return found


def table(found: dict[str, list[float]]) -> str:
    """Rates and the ratio to every contender within each turn: median (smallest to largest)."""
    lines = ["| | structure-steps/s | ours is faster by |", "|---|---|---|"]
    for name, values in found.items():
        ratio = [ours / other for ours, other in zip(found[OURS], values, strict=True)]
        spread = "" if name == OURS else f"{statistics.median(ratio):.3g} ({min(ratio):.3g} to {max(ratio):.3g})"
        lines.append(f"| {name} | {statistics.median(values):.3g} | {spread} |")
    return "\n".join(lines)


def version(package: str) -> str:
    """Version of an installed package, if it has one."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "source tree"


def memory(args: argparse.Namespace) -> str:
    """Peak memory of whole simulations of different lengths, each in a process of its own."""
    lines = ["| steps | peak memory, MB |", "|---|---|"]
    for steps in (1000, 10_000):
        command = [sys.executable, __file__, *args.structures, "--memory-of", str(steps), "--count", "2"]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        lines.append(f"| {steps:,} | {float(out.split()[-1]):.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("structures", nargs="+", help="structure files")
    parser.add_argument("--model", choices=("cgcnn", "torchmd", "eam"), default="cgcnn")
    parser.add_argument("--count", type=int, default=8, help="number of structures")
    parser.add_argument("--max-atoms", type=int, default=50, help="leave larger cells out")
    parser.add_argument("--steps", type=int, default=5, help="steps of a turn")
    parser.add_argument("--ase-steps", type=int, default=1, help="steps of a turn of the ASE loop")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--batch-atoms", type=int, default=512)
    parser.add_argument("--skin", type=float, default=1.0, help="Å")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--without", nargs="*", default=[], choices=("matdeeplearn", "torch-sim", "ase"))
    parser.add_argument("--memory", action="store_true", help="peak memory of 1,000 and 10,000 steps instead")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory:
        print(memory(args))
        return
    structures = [a for a in read_structures(args.structures) if len(a) <= args.max_atoms]
    structures = (sorted(structures, key=len) if args.memory_of else structures)[: args.count]
    for k, atoms in enumerate(structures):
        atoms.calc, atoms.info = None, {"structure_id": f"{k}"}
    if args.memory_of:
        from mdl_physpretrain.dynamics import simulate

        model = make_model("eam", sorted({s for a in structures for s in a.symbols}))
        simulate(model, structures, steps=args.memory_of, stop_on=())
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
        return
    model = make_model(args.model, sorted({s for a in structures for s in a.symbols})).to(args.device)
    alone = args.threads == 1 and args.device == "cpu"
    clock = time.process_time if alone else time.perf_counter
    sizes = [len(a) for a in structures]
    threads = "one thread, processor time" if alone else f"{args.threads} threads, wall time"
    print(f"{args.model}, {len(structures)} cells of {min(sizes)} to {max(sizes)} atoms, {args.device}, {threads}")
    print(f"torch {torch.__version__}, ase {version('ase')}, {args.repetitions} turns of {args.steps} steps\n")
    shares: list[float] = []
    contenders: dict[str, tuple[Contender, int]] = {
        OURS: (batched(model, structures, args.batch_atoms, args.skin, watch=True, shares=shares), args.steps),
        "the same without metrics": (batched(model, structures, args.batch_atoms, args.skin, watch=False), args.steps),
    }
    with tempfile.TemporaryDirectory() as folder:
        if "ase" not in args.without:
            from mdl_physpretrain.potentials import ASECalculator

            contenders["ASE loop, our calculator"] = (ase_loop(ASECalculator(model), structures), args.ase_steps)
        if args.model != "eam" and "matdeeplearn" not in args.without:
            try:
                calculator = host_calculator(model, structures, folder)
            except ImportError as error:
                print(f"MatDeepLearn left out: {error}")
            else:
                name = f"ASE loop, MatDeepLearn's calculator ({version('matdeeplearn')})"
                contenders[name] = (ase_loop(calculator, structures), args.ase_steps)
                _same_forces(model, calculator, structures[0])
        if "torch-sim" not in args.without:
            try:
                run = torch_sim_run(model, structures, args.batch_atoms)
            except (ImportError, ConfigError) as error:
                print(f"torch-sim left out: {error}")
            else:
                contenders[f"torch-sim {version('torch-sim-atomistic')}"] = (run, args.steps)
        print(table(rates(contenders, args.repetitions, clock)))
    percent = [100 * x for x in shares[1:]]
    print(f"\nmetrics and traces: {statistics.median(percent):.2g} % of the time ", end="")
    print(f"({min(percent):.2g} to {max(percent):.2g} %)")


def _same_forces(model: EnergyModel, calculator: Any, atoms: Atoms) -> None:
    from mdl_physpretrain.potentials import ASECalculator

    ours, theirs = (c.get_forces(atoms.copy()) for c in (ASECalculator(model), calculator))
    worst = float(np.abs(ours - theirs.reshape(ours.shape)).max())
    print(f"largest difference of forces between both calculators: {worst:.1e} of {np.abs(ours).max():.1e} eV/Å\n")


if __name__ == "__main__":
    main()
