"""Numbers, speed and memory on a GPU, beside the CPU and other programs; part of scripts/gpu_check.sh.

Every section is a few rows of ``results.json`` and ``table.md``, written as soon as they are there; a section that
fails, or for which no time is left, says so in its row and costs no other. Without a GPU sizes are small.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import bench_backbones
import bench_md
import numpy as np
import torch
from ase import Atoms
from ase.build import bulk

from mdl_physpretrain.graphs.batch import build_batch, collate
from mdl_physpretrain.potentials import ASECalculator, EnergyModel, predict
from mdl_physpretrain.potentials.compiled_graph import compiled
from mdl_physpretrain.teacher import label
from mdl_physpretrain.training.module import make_adamw

Row = dict[str, Any]
NETWORKS = ("cgcnn", "torchmd_et", *(["m3gnet"] if importlib.util.find_spec("mattersim") else []))


class Check:
    """What is measured, on which device, and until when."""

    def __init__(self, device: str, seconds: float) -> None:
        self.device, self.end = torch.device(device), time.monotonic() + seconds
        self.large = self.device.type != "cpu"
        self.turn = 2.0 if self.large else 0.2  # seconds of a measurement

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def rate(self, step: Callable[[], Any], warm_up: int = 2) -> float:
        """Calls per second."""
        for _ in range(warm_up):
            step()
        self.wait()
        begin, calls = time.perf_counter(), 0
        while calls < 1 or (time.perf_counter() - begin < self.turn and time.monotonic() < self.end):
            step()
            calls += 1
            if calls % 8 == 0:
                self.wait()
        self.wait()
        return calls / (time.perf_counter() - begin)

    def memory(self) -> Row:
        """Largest memory of the GPU since the last call, in GiB."""
        if self.device.type != "cuda":
            return {}
        peak = torch.cuda.max_memory_allocated() / 2**30
        torch.cuda.reset_peak_memory_stats()
        return {"GiB": round(peak, 2)}


def crystals(n: int, repeat: int = 1) -> list[Atoms]:
    """Rattled MgO of 8 atoms, or repetitions of it."""
    rng, found = np.random.default_rng(0), []
    for k in range(n):
        atoms = bulk("MgO", "rocksalt", a=4.2 * (1 + 0.02 * (k % 3 - 1)), cubic=True).repeat(repeat)
        atoms.positions += rng.normal(scale=0.05, size=atoms.positions.shape)
        atoms.info["structure_id"] = f"mgo-{k}"
        found.append(atoms)
    return found


def network(name: str, dtype: torch.dtype = torch.float32) -> EnergyModel:
    """With Appendix C's sizes and random weights."""
    if name == "m3gnet":
        from mdl_physpretrain.potentials.m3gnet.model import M3GNet

        torch.manual_seed(0)
        return M3GNet().to(dtype)
    return bench_md.make_model(name, ["Mg", "O"]).to(dtype)


def numbers(check: Check) -> Iterator[Row]:
    """Largest differences between the CPU's formulas and the device."""
    for name in ("eam", *NETWORKS):
        for dtype in (torch.float64, torch.float32):
            model = network(name, dtype)
            batch = collate([build_batch(a, model.cutoff, dtype) for a in crystals(4)])
            for part in model.modules():
                if isinstance(part, EnergyModel):
                    part.fast = False
            one, other = predict(model, batch), predict(model.to(check.device), batch.to(check.device))
            differences = {
                f"{kind} off by": f"{float((getattr(other, kind).cpu() - getattr(one, kind)).abs().max()):.1e}"
                for kind in ("energy", "forces", "stress")
            }
            yield {"what": name, "precision": str(dtype).removeprefix("torch."), **differences}


def labels(check: Check) -> Iterator[Row]:
    """Labels of an EAM per second: the CPU's machine code, and the device."""
    cells = crystals(2000 if check.large else 20)
    for place in ("cpu", check.device.type):
        model = network("eam", torch.float64).to(place)
        rate = check.rate(lambda model=model: label(cells, model, force=True), warm_up=1)
        yield {"what": f"EAM, {place}", "labels/s": round(rate * len(cells))}


def training(check: Check) -> Iterator[Row]:
    """Training steps per second: ours, compiled, and MatDeepLearn's."""
    structures = crystals(32 if check.large else 2)
    for name in NETWORKS:
        model = network(name).to(check.device).train()
        batch = collate([build_batch(a, model.cutoff) for a in structures]).to(check.device)
        optimizer = make_adamw([p for p in model.parameters() if p.requires_grad], lr=1e-9)

        def step(model: Any = model, batch: Any = batch, optimizer: Any = optimizer, run: Any = predict) -> None:
            optimizer.zero_grad()
            out = run(model, batch, create_graph=True)
            (out.energy.abs().mean() + out.forces.abs().mean() + out.stress.abs().mean()).backward()
            optimizer.step()

        check.memory()
        yield {"what": f"{name}, eager", "steps/s": round(check.rate(step), 2), **check.memory()}
        if not check.large:
            continue
        if name in bench_backbones.SIZES and importlib.util.find_spec("matdeeplearn"):
            peer = bench_backbones.networks(name)[1].to(check.device).train()
            theirs = bench_backbones.peer_step(peer, structures, True, check.device)
            yield {
                "what": f"{name}, MatDeepLearn",
                "steps/s": round(check.rate(theirs), 2),
                **check.memory(),
            }
        yield attempt(f"{name}, compiled", partial(compiled_row, check, name, model, step))


def compiled_row(check: Check, name: str, model: EnergyModel, step: Callable[..., None]) -> Row:
    """Energies and their gradient by torch.compile; a training differentiates twice, which it may refuse."""
    original = model.energies
    model.energies = torch.compile(original, dynamic=True)  # type: ignore[method-assign]
    try:
        return {"what": f"{name}, compiled", "steps/s": round(check.rate(step), 2), **check.memory()}
    finally:
        del model.energies


def dynamics(check: Check) -> Iterator[Row]:
    """Structure-steps per second of 100 structures, beside ASE's loop and torch-sim."""
    structures = crystals(100 if check.large else 3)
    for name in ("eam", "cgcnn", "torchmd_et"):
        model = network(name).to(check.device).eval()
        check.memory()
        ours = contender_rate(check, bench_md.batched(model, structures, 10**6, 1.0, watch=True), 20)
        yield {"what": f"{name}, batched", "structure-steps/s": round(ours, 1), **check.memory()}
        if check.large and name != "eam":
            yield attempt(f"{name}, compiled", partial(compiled_md, check, name, model, structures, ours))
        rivals: dict[str, Callable[[], Any]] = {
            "ASE loop, our calculator": lambda model=model: bench_md.ase_loop(ASECalculator(model), structures[:4])
        }
        if importlib.util.find_spec("matdeeplearn") and name != "eam":
            folder = tempfile.mkdtemp()
            rivals["ASE loop, MatDeepLearn's calculator"] = lambda model=model, folder=folder: bench_md.ase_loop(
                bench_md.host_calculator(model.cpu(), structures[:4], folder), structures[:4]
            )
        if importlib.util.find_spec("torch_sim"):
            rivals["torch-sim"] = lambda model=model: bench_md.torch_sim_run(model, structures, 10**6)
        for title, make in rivals.items():
            model.to(check.device)
            yield attempt(f"{name}, {title}", lambda make=make, ours=ours, title=title, name=name: {
                "what": f"{name}, {title}",
                "structure-steps/s": round(theirs := contender_rate(check, make(), 1), 2),
                "ours is faster by": round(ours / theirs, 1),
            })  # fmt: skip


def compiled_md(check: Check, name: str, model: EnergyModel, structures: list[Atoms], eager: float) -> Row:
    """With the network as one graph of PyTorch's compiler, which says in a warning where that fails."""
    with warnings.catch_warnings(), compiled(model, True):
        warnings.simplefilter("error", UserWarning)
        rate = contender_rate(check, bench_md.batched(model, structures, 10**6, 1.0, watch=True), 20)
    row = {"what": f"{name}, batched, compiled", "structure-steps/s": round(rate, 1)}
    return {**row, "faster than eager by": round(rate / eager, 2), **check.memory()}


def contender_rate(check: Check, contender: bench_md.Contender, steps: int) -> float:
    """Structure-steps per second."""
    done = contender(steps)
    return check.rate(lambda: contender(steps), warm_up=0) * done


def batch_size(check: Check) -> Iterator[Row]:
    """Structures of 64 atoms that a training step holds: doubled until the memory is full, then halved."""
    most = 4096 if check.large else 2
    for name in ("cgcnn", "torchmd_et") if check.large else ("cgcnn",):
        model = network(name).to(check.device).train()
        single = build_batch(crystals(1, 2)[0], model.cutoff)
        size, fits = 1, 0
        while size <= most and time.monotonic() < check.end:
            if not holds(check, model, [single] * size):
                break
            fits, size = size, 2 * size
        yield {"what": f"{name}, 64 atoms each", "largest batch tried that fits": fits, **check.memory()}


def holds(check: Check, model: EnergyModel, batches: Sequence[Any]) -> bool:
    """Whether a training step of these fits into the memory."""
    try:
        out = predict(model, collate(batches).to(check.device), create_graph=True)
        (out.energy.sum() + out.forces.abs().sum()).backward()
        check.wait()
    except torch.cuda.OutOfMemoryError:
        return False
    finally:
        model.zero_grad(set_to_none=True)
        gc.collect()
        if check.large:
            torch.cuda.empty_cache()
    return True


def attempt(what: str, row: Callable[[], Row]) -> Row:
    """A row, or one that says why there is none."""
    try:
        return row()
    except Exception as error:  # other programs fail in any way
        return {
            "what": what,
            "failed": f"{type(error).__name__}: {str(error).splitlines()[0][:160] if str(error) else ''}",
        }


SECTIONS = (numbers, labels, training, dynamics, batch_size)


def table(results: dict[str, Any]) -> str:
    """Markdown."""
    lines = [f"# GPU check\n\n{results['device']}, torch {results['torch']}, {results['date']}\n"]
    for title, rows in results["sections"].items():
        columns = list(dict.fromkeys(key for row in rows for key in row))
        lines += [f"## {title}\n", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
        lines += [f"| {' | '.join(str(row.get(key, '')) for key in columns)} |" for row in rows]
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu-check"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=300.0, help="no section begins after so many")
    parser.add_argument("--only", nargs="*", choices=[s.__name__ for s in SECTIONS])
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    check = Check(options.device, options.seconds)
    name = torch.cuda.get_device_name() if check.device.type == "cuda" else f"{check.device.type}, no GPU: small sizes"
    results: dict[str, Any] = {"device": name, "torch": torch.__version__, "date": time.strftime("%Y-%m-%d")}
    results["sections"] = sections = {}
    for section in SECTIONS:
        if options.only is not None and section.__name__ not in options.only:
            continue
        title = (section.__doc__ or "").rstrip(".")
        rows: list[Row] = sections.setdefault(title, [])
        try:
            if time.monotonic() > check.end:
                rows.append({"what": section.__name__, "failed": "no time was left"})
            else:
                for row in section(check):
                    rows.append(row)
                    print(section.__name__, json.dumps(row), flush=True)
        except Exception as error:  # one section must not cost the others
            traceback.print_exc()
            rows.append({"what": section.__name__, "failed": f"{type(error).__name__}: {error}"[:300]})
        (options.out / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
        (options.out / "table.md").write_text(table(results), encoding="utf-8")
    print(options.out / "table.md")


if __name__ == "__main__":
    main()
