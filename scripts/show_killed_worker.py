"""Kill workers in the middle of labelling and of MD, and compare what comes out with one process.

    python scripts/show_killed_worker.py                     # a local Dask cluster of 3 worker processes
    python scripts/show_killed_worker.py --executor processes:3
    python scripts/show_killed_worker.py --executor slurm:standard   # jobs of one worker in this partition

Needs ``pip install 'mdl-physpretrain[cluster]'`` for the first, ``dask-jobqueue`` besides for the last, where a job
is killed with ``scancel``. Everything is made up here: an EAM for MgO and
rattled cells of it. Exit code 1 when a single bit differs.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk

from mdl_physpretrain.dynamics import simulate
from mdl_physpretrain.executors import Processes, open_executor
from mdl_physpretrain.potentials import EAM
from mdl_physpretrain.teacher import label

WORKERS = 3


def magnesia() -> EAM:
    """An EAM that holds MgO together."""
    model = EAM(["Mg", "O"], cutoff=5.0, n_basis=2, core=True).double()
    with torch.no_grad():
        model.D[:] = torch.tensor([0.7, 0.1, 0.1])
        model.alpha[:] = 1.6
        model.rm[:] = torch.tensor([2.1, 3.1, 3.1])
        model.A[:] = 0.05
        model.beta[:] = 1.2
        model.B[:] = 0.5
    return model


def cells(count: int, repeat: tuple[int, int, int]) -> list[Atoms]:
    """Rattled MgO, 8 atoms times the repeats."""
    made = []
    for k in range(count):
        atoms = bulk("MgO", "rocksalt", a=4.2, cubic=True) * repeat
        atoms.rattle(0.06, seed=k)
        atoms.info["structure_id"] = f"mgo-{k}"
        made.append(atoms)
    return made


def kill_process(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def kill_job(job: int) -> None:
    subprocess.run(["scancel", "--signal=KILL", "--full", str(job)], check=True)


class Cluster:
    """An executor whose busy workers can be found and killed."""

    def __init__(
        self, executor: Any, busy: Callable[[], list[int]], kill: Callable[[int], None] = kill_process
    ) -> None:
        self.executor, self.busy, self.kill = executor, busy, kill

    def kill_one(self, when: Callable[[], bool]) -> threading.Thread:
        """In a thread: wait until something is finished, then kill a worker that is at work."""

        def wait() -> None:
            began = time.perf_counter()
            while not when():
                time.sleep(0.005)
            while not (found := self.busy()):
                time.sleep(0.005)
            self.kill(found[0])
            print(f"  killed {found[0]}, a worker at work, after {time.perf_counter() - began:.2f} s", flush=True)

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        return thread


@contextmanager
def cluster(kind: str) -> Iterator[Cluster]:
    """Local processes, Dask's, or jobs of Slurm."""
    if kind.startswith("processes"):
        with open_executor(kind) as executor:
            assert isinstance(executor, Processes)
            yield Cluster(executor, executor.pids)
        return
    import logging

    from distributed import Client

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # it tells of dead workers at length
    name, _, partition = kind.partition(":")
    with (
        slurm_jobs(partition) if name == "slurm" else local_workers() as dask,
        Client(dask.scheduler_address, set_as_default=False) as watcher,
        open_executor(dask.scheduler_address.replace("tcp://", "dask://")) as executor,
    ):
        watcher.wait_for_workers(WORKERS, timeout=120)
        ids = watcher.run(slurm_job if name == "slurm" else os.getpid)  # by address

        def busy() -> list[int]:
            return [ids[address] for address, tasks in watcher.processing().items() if tasks and address in ids]

        yield Cluster(executor, busy, kill_job if name == "slurm" else kill_process)


def slurm_job() -> int:
    return int(os.environ["SLURM_JOB_ID"])


def local_workers() -> Any:
    from distributed import LocalCluster

    return LocalCluster(n_workers=WORKERS, threads_per_worker=1, processes=True, dashboard_address=None)


def slurm_jobs(partition: str) -> Any:
    from dask_jobqueue import SLURMCluster

    jobs = SLURMCluster(
        queue=partition or None, cores=1, processes=1, memory="2GB", walltime="00:20:00",
        job_script_prologue=["export OMP_NUM_THREADS=1"], scheduler_options={"dashboard_address": None},
    )  # fmt: skip
    jobs.adapt(minimum_jobs=WORKERS, maximum_jobs=WORKERS)  # jobs that end are replaced
    return jobs


def label_bytes(structures: list[Atoms]) -> list[tuple[str, bytes]]:
    """Everything about labels, to the last bit."""
    return [
        (a.info["structure_id"], b"".join(np.asarray(a.calc.results[k]).tobytes() for k in sorted(a.calc.results)))
        for a in structures
    ]


def run_bytes(runs: Any) -> list[tuple[Any, ...]]:
    """Everything about trajectories, to the last bit."""
    return [
        (r.structure_id, r.steps_done, r.positions.tobytes(), r.velocities.tobytes(), r.trace_energy.tobytes())
        for r in runs
    ]


def show(name: str, serial: list[Any], found: list[Any], seconds: float) -> bool:
    """Print the comparison."""
    same = serial == found
    print(f"  {name}: {len(found)} of {len(serial)} in {seconds:.2f} s,", "bit for bit equal" if same else "DIFFERENT")
    return same


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executor", default="dask", help="dask (a local cluster), processes:N, slurm:PARTITION")
    parser.add_argument("--structures", type=int, default=1500, help="to label, of 64 atoms")
    parser.add_argument("--trajectories", type=int, default=24, help="of 8 atoms each")
    parser.add_argument("--steps", type=int, default=150, help="of MD")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    model, to_label, starts = magnesia(), cells(given.structures, (2, 2, 2)), cells(given.trajectories, (1, 1, 1))
    options: dict[str, Any] = {"temperature": 600, "steps": given.steps, "max_batch_atoms": 16, "seed": 1}

    began = time.perf_counter()
    serial_labels = label_bytes(label(to_label, model))
    print(f"one process: {given.structures} labels in {time.perf_counter() - began:.2f} s")
    began = time.perf_counter()
    serial_runs = run_bytes(simulate(model, starts, **options))
    print(f"one process: {given.trajectories} trajectories in {time.perf_counter() - began:.2f} s", flush=True)

    with tempfile.TemporaryDirectory() as scratch, cluster(given.executor) as workers:
        journal, checkpoint = Path(scratch) / "labels.journal", Path(scratch) / "runs.npz"
        print(f"{given.executor}: labels", flush=True)
        killer = workers.kill_one(lambda: journal.exists() and journal.stat().st_size > 1000)
        began = time.perf_counter()
        labels = label_bytes(label(to_label, model, executor=workers.executor, resume=journal))
        fine = show("labels", serial_labels, labels, time.perf_counter() - began)
        killed = not killer.is_alive()

        print(f"{given.executor}: MD", flush=True)
        killer = workers.kill_one(checkpoint.exists)
        began = time.perf_counter()
        runs = run_bytes(simulate(model, starts, executor=workers.executor, checkpoint=checkpoint, **options))
        fine &= show("trajectories", serial_runs, runs, time.perf_counter() - began)
        killed &= not killer.is_alive()
    if not killed:
        print("a worker was not killed in time: give it more to do (--structures, --steps)")
    return 0 if fine and killed else 1


if __name__ == "__main__":
    sys.exit(main())
