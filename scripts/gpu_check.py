"""Numbers, speed and memory on a GPU, beside the CPU and other programs; part of scripts/gpu_check.sh.

Every section is a few rows of ``results.json`` and ``table.md``. It is done in a process of its own, with a limit of
time: one that fails, that a GPU's error ends or that takes too long says so in a row and costs no other. Without a GPU
sizes are small.
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import platform
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
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


def with_machine_code(model: EnergyModel, use: bool) -> EnergyModel:
    """The model, with or without machine code, which CPUs have."""
    for part in model.leaves():
        part.fast = use
    return model


def numbers(check: Check) -> Iterator[Row]:
    """Largest differences between the CPU's formulas and the device (without a GPU: the CPU's machine code)."""
    for name in ("eam", *NETWORKS):
        for dtype in (torch.float64, torch.float32):
            model = network(name, dtype)
            batch = collate([build_batch(a, model.cutoff, dtype) for a in crystals(4)])
            one = predict(with_machine_code(model, False), batch)
            other = predict(with_machine_code(model, True).to(check.device), batch.to(check.device))
            differences = {}
            for kind in ("energy", "forces", "stress"):
                known = getattr(one, kind)
                worst = float((getattr(other, kind).cpu() - known).abs().max())
                differences[f"{kind} off by"] = f"{worst:.1e} of {float(known.abs().max()):.1e}"
            yield {"what": name, "precision": str(dtype).removeprefix("torch."), **differences}


def labels(check: Check) -> Iterator[Row]:
    """Labels of an EAM per second: the CPU's machine code, and the device."""
    cells = crystals(2000 if check.large else 20)
    for place in dict.fromkeys(("cpu", check.device.type)):
        model = network("eam", torch.float64).to(place)
        rate = check.rate(lambda model=model: label(cells, model, force=True), warm_up=1)
        yield {"what": f"EAM, {place}", "labels/s": round(rate * len(cells))}


def training(check: Check) -> Iterator[Row]:
    """Training steps per second: ours and MatDeepLearn's."""
    for name in NETWORKS:
        model, structures = network(name).to(check.device).train(), training_set(check)
        step = training_step(check, model, structures)
        check.memory()
        yield {"what": f"{name}, eager", "steps/s": round(check.rate(step), 2), **check.memory()}
        if check.large and name in bench_backbones.SIZES and importlib.util.find_spec("matdeeplearn"):
            yield attempt(f"{name}, MatDeepLearn", partial(peer_row, check, name, structures))


def training_set(check: Check) -> list[Atoms]:
    return crystals(32 if check.large else 2)


def training_step(check: Check, model: EnergyModel, structures: Sequence[Atoms]) -> Callable[[], None]:
    """Prediction with forces and stress, loss, backward pass, AdamW."""
    batch = collate([build_batch(a, model.cutoff) for a in structures]).to(check.device)
    optimizer = make_adamw([p for p in model.parameters() if p.requires_grad], lr=1e-9)

    def step() -> None:
        optimizer.zero_grad()
        out = predict(model, batch, create_graph=True)
        (out.energy.abs().mean() + out.forces.abs().mean() + out.stress.abs().mean()).backward()
        optimizer.step()

    return step


def peer_row(check: Check, name: str, structures: list[Atoms]) -> Row:
    peer = bench_backbones.networks(name)[1].to(check.device).train()
    theirs = bench_backbones.peer_step(peer, structures, True, check.device)
    return {"what": f"{name}, MatDeepLearn", "steps/s": round(check.rate(theirs), 2), **check.memory()}


def compiled_training(check: Check) -> Iterator[Row]:
    """Training steps per second with torch.compile, which may refuse what is differentiated twice."""
    for name in NETWORKS if check.large else ():
        model = network(name).to(check.device).train()
        model.energies = torch.compile(model.energies, dynamic=True)  # type: ignore[method-assign]
        step = training_step(check, model, training_set(check))
        yield attempt(f"{name}, compiled", lambda name=name, step=step: {
            "what": f"{name}, compiled", "steps/s": round(check.rate(step), 2), **check.memory(),
        })  # fmt: skip


def dynamics(check: Check) -> Iterator[Row]:
    """Structure-steps per second of 100 structures, beside ASE's loop and torch-sim."""
    structures = crystals(100 if check.large else 3)
    for name in ("eam", "cgcnn", "torchmd_et"):
        model = network(name).to(check.device).eval()
        check.memory()
        ours = contender_rate(check, bench_md.batched(model, structures, 10**6, 1.0, watch=True), 20)
        yield {"what": f"{name}, batched", "structure-steps/s": round(ours, 1), **check.memory()}
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


def compiled_dynamics(check: Check) -> Iterator[Row]:
    """The same with networks as one graph of PyTorch's compiler, which takes its time before the first step."""
    structures = crystals(100 if check.large else 2)
    for name in ("cgcnn", "torchmd_et") if check.large else ("cgcnn",):
        ours = network(name)
        fading = type(ours)(**{**ours.hparams, "smooth_cutoff": True}).to(
            ours.dtype
        )  # as trained here: others are not compiled
        model = with_machine_code(fading, False).to(check.device).eval()  # it would go before
        yield attempt(f"{name}, batched, compiled", partial(compiled_md, check, name, model, structures))


def compiled_md(check: Check, name: str, model: EnergyModel, structures: list[Atoms]) -> Row:
    """With a network as one graph; a warning says where that fails."""
    eager = contender_rate(check, bench_md.batched(model, structures, 10**6, 1.0, watch=True), 20)
    with warnings.catch_warnings(), compiled(model, True):
        warnings.filterwarnings("error", message=".* is not compiled")
        begin = time.perf_counter()
        contender = bench_md.batched(model, structures, 10**6, 1.0, watch=True)
        contender(1)
        seconds = time.perf_counter() - begin
        rate = contender_rate(check, contender, 20)
    row = {"what": f"{name}, batched, compiled", "structure-steps/s": round(rate, 1), "first step, s": round(seconds)}
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
        size, fits, why = 1, 0, f"no larger one than {most} is tried"
        while size <= most and time.monotonic() < check.end:
            if (failure := fails(check, model, [single] * size)) is not None:
                why = failure
                break
            fits, size = size, 2 * size
        yield {
            "what": f"{name}, 64 atoms each", "largest batch tried that fits": fits, "the next": why, **check.memory(),
        }  # fmt: skip


def fails(check: Check, model: EnergyModel, batches: Sequence[Any]) -> str | None:
    """Why a training step of these fails, a full memory first of all."""
    try:
        out = predict(model, collate(batches).to(check.device), create_graph=True)
        (out.energy.sum() + out.forces.abs().sum()).backward()
        check.wait()
    except RuntimeError as error:  # also of sizes that a kernel does not know
        return first_words(error)
    finally:
        model.zero_grad(set_to_none=True)
        gc.collect()
        if check.large:
            torch.cuda.empty_cache()
    return None


def attempt(what: str, row: Callable[[], Row]) -> Row:
    """A row, or one that says why there is none."""
    try:
        return row()
    except Exception as error:  # other programs fail in any way
        return {"what": what, "failed": first_words(error)}


def first_words(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160] if str(error).strip() else ''}"


#: The most seconds of each; what takes long before it gives a row comes last.
SECTIONS: dict[Callable[[Check], Iterator[Row]], float] = {
    numbers: 60, labels: 45, training: 45, dynamics: 75, batch_size: 45, compiled_dynamics: 150, compiled_training: 90,
}  # fmt: skip


def title_of(section: Callable[[Check], Iterator[Row]]) -> str:
    return (section.__doc__ or "").rstrip(".")


def do(section: Callable[[Check], Iterator[Row]], check: Check, path: Path) -> None:
    """Append the rows of a section to a file of JSON lines, one by one."""
    with path.open("a", encoding="utf-8") as file:

        def write(row: Row) -> None:
            file.write(json.dumps(row) + "\n")
            file.flush()

        try:
            for row in section(check):
                write(row)
        except Exception as error:  # one section must not cost the others
            traceback.print_exc()
            write({"what": section.__name__, "failed": first_words(error)})


def rows_of(name: str, command: Sequence[str], path: Path, log: Path, seconds: float) -> list[Row]:
    """What a process wrote to ``path`` in its time, and how it ended if not well."""
    path.unlink(missing_ok=True)
    failed = ""
    with log.open("a", encoding="utf-8") as file:
        print(f"\n=== {name}", file=file, flush=True)
        try:
            code = subprocess.run(command, stdout=file, stderr=file, timeout=seconds, check=False).returncode
            failed = f"its process ended with exit code {code}, see {log.name}" if code else ""
        except subprocess.TimeoutExpired:
            failed = f"it was ended after {seconds:.0f} s"
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []
    path.unlink(missing_ok=True)
    return [*rows, *([{"what": name, "failed": failed}] if failed else [])]


def surroundings(check: Check, tests: str) -> Row:
    """Where the numbers come from."""
    gpu = check.device.type == "cuda"
    found = {"device": torch.cuda.get_device_name(check.device) if gpu else f"{check.device.type}, no GPU: small sizes"}
    found |= {"torch": torch.__version__, "CUDA": str(torch.version.cuda), "python": platform.python_version()}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    found |= {"commit": commit.stdout.strip(), "date": time.strftime("%Y-%m-%d"), "tests": tests}
    return {key: value for key, value in found.items() if value not in ("", "None")}


def table(results: dict[str, Any]) -> str:
    """Markdown."""
    lines = ["# GPU check\n", ", ".join(f"{k} {v}" for k, v in results.items() if k != "sections") + "\n"]
    for title, rows in results["sections"].items():
        columns = list(dict.fromkeys(key for row in rows for key in row))
        if columns:
            lines += [f"## {title}\n", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
            lines += [f"| {' | '.join(str(row.get(key, '')) for key in columns)} |" for row in rows]
            lines.append("")
    return "\n".join(lines)


def write(results: Mapping[str, Any], out: Path) -> None:
    (out / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    (out / "table.md").write_text(table(dict(results)), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("gpu-check"))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, help="of all sections together: 320 on a GPU, 1500 on a CPU")
    parser.add_argument("--only", nargs="*", choices=[s.__name__ for s in SECTIONS])
    parser.add_argument("--tests", default="", help="what became of the tests, for the table")
    parser.add_argument("--section", help=argparse.SUPPRESS)  # do it here, in the process of its own
    options = parser.parse_args()
    is_cpu = torch.device(options.device).type == "cpu"
    check = Check(options.device, options.seconds or (1500.0 if is_cpu else 320.0))
    if options.section is not None:
        section = next(s for s in SECTIONS if s.__name__ == options.section)
        do(section, check, options.out / f"{options.section}.jsonl")
        return
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "log.txt").unlink(missing_ok=True)
    results: dict[str, Any] = {**surroundings(check, options.tests), "sections": {}}
    for section, most in SECTIONS.items():
        name, seconds = section.__name__, min(most * (10 if is_cpu else 1), check.end - time.monotonic())
        if options.only is not None and name not in options.only:
            continue
        rows: list[Row] = [{"what": name, "failed": "no time was left"}]
        if seconds > 0:
            given = ("--section", name, "--device", options.device, "--seconds", f"{seconds - 5}", "--out", options.out)
            command = [sys.executable, __file__, *map(str, given)]
            rows = rows_of(name, command, options.out / f"{name}.jsonl", options.out / "log.txt", seconds)
        for row in rows:
            print(name, json.dumps(row), flush=True)
        results["sections"][title_of(section)] = rows
        write(results, options.out)
    print(options.out / "table.md")


if __name__ == "__main__":
    main()
