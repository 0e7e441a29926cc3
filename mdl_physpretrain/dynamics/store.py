"""Finished structures on disk, so that an interrupted simulation goes on."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from ase import Atoms

from mdl_physpretrain.dynamics.records import RunRecord, Runs
from mdl_physpretrain.dynamics.settings import MDSettings
from mdl_physpretrain.errors import CheckpointError
from mdl_physpretrain.models.base import EnergyModel
from mdl_physpretrain.physicality.lindemann import ALL_PAIRS, PARTNERS

__all__ = ["RunStore", "is_calculator", "potential_fingerprint"]

SAVE_SECONDS = 30.0
SAVE_SHARE = 0.05  # of the time may go into writing


class RunStore:
    """Finished records, in memory and in the checkpoint file.

    Parameters
    ----------
    path
        Of the checkpoint, or ``None``.
    settings, potential, structures
        What the simulation is: options, fingerprint, structures with ids.

    Raises
    ------
    CheckpointError
        If the checkpoint is damaged or of another simulation.
    """

    def __init__(
        self, path: str | Path | None, settings: MDSettings, potential: str, structures: Sequence[Atoms]
    ) -> None:
        self.path = None if path is None else Path(path)
        self.order = [a.info["structure_id"] for a in structures]
        self.hashes = {a.info["structure_id"]: _structure_hash(a, settings) for a in structures}
        self.settings = asdict(settings)
        self.fingerprint = settings.fingerprint(potential)
        self.done: dict[str, RunRecord] = {}
        self.others: list[RunRecord] = []
        self.saved_at, self.save_took, self.dirty = time.monotonic(), 0.0, False
        if self.path is not None and self.path.exists():
            self._resume(self.path)

    def _resume(self, path: Path) -> None:
        runs = Runs.load(path)
        if runs.fingerprint != self.fingerprint:
            changed = sorted(k for k, v in json.loads(json.dumps(self.settings)).items() if runs.settings.get(k) != v)
            what = f"other options ({', '.join(changed)})" if changed else "another potential"
            raise CheckpointError(f"{path} was written with {what}; delete it or choose another checkpoint file")
        for record in runs:
            name = record.structure_id
            if name not in self.hashes:
                self.others.append(record)  # of a longer list of structures: kept in the file
            elif record.input_hash != self.hashes[name]:
                raise CheckpointError(
                    f"{path} holds another structure {name}; delete it or choose another checkpoint file"
                )
            else:
                self.done[name] = record

    def add(self, record: RunRecord) -> None:
        """Keep a finished record; writes the file when the last time was long ago."""
        record.input_hash = self.hashes[record.structure_id]
        self.done[record.structure_id] = record
        self.dirty = True
        if time.monotonic() - self.saved_at > SAVE_SECONDS:
            self.save()

    def save(self, *, often: bool = False) -> None:
        """Write the file if there is anything new.

        Parameters
        ----------
        often
            Called often: writes only when the last time is long enough ago
            for writing to cost a twentieth of the time.
        """
        began = time.monotonic()
        if self.path is None or not self.dirty or (often and self.save_took > SAVE_SHARE * (began - self.saved_at)):
            return
        records = [*self.runs(), *self.others]
        Runs(records, settings=self.settings, fingerprint=self.fingerprint).save(self.path)
        self.saved_at, self.dirty = time.monotonic(), False
        self.save_took = self.saved_at - began

    def runs(self) -> Runs:
        """The finished records in the order of the structures."""
        records = [self.done[name] for name in self.order if name in self.done]
        return Runs(records, settings=self.settings, fingerprint=self.fingerprint)


def is_calculator(potential: object) -> bool:
    """Whether this is an ASE calculator (not a class or a function that makes one)."""
    return not isinstance(potential, type) and hasattr(potential, "get_potential_energy")


def _structure_hash(atoms: Atoms, settings: MDSettings) -> str:
    digest = hashlib.sha256()
    arrays: list[np.ndarray] = [atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, atoms.get_masses()]
    if settings.initial_velocities == "keep":
        arrays.append(atoms.get_velocities())
    if len(atoms) > ALL_PAIRS:
        arrays.append(np.array([PARTNERS]))  # the indices are estimates
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def potential_fingerprint(potential: object) -> str:
    """Weights of a model; name, parameters and source file of a calculator or of the function that makes one."""
    digest = hashlib.sha256()
    if isinstance(potential, EnergyModel):
        digest.update(json.dumps([potential.registry_name, potential.hparams], sort_keys=True, default=str).encode())
        for name, tensor in potential.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    elif is_calculator(potential):
        parameters = getattr(potential, "parameters", {})
        text = json.dumps([type(potential).__qualname__, dict(parameters or {})], sort_keys=True, default=_describe)
        digest.update(text.encode())
        digest.update(_source(type(potential).__module__))
    else:
        name = str(getattr(potential, "__qualname__", type(potential).__qualname__))
        digest.update(name.encode())
        module, colon, _ = name.partition(":")  # "module:factory" of the command line
        digest.update(_source(module if colon else str(getattr(potential, "__module__", ""))))
    return digest.hexdigest()


def _source(module: str) -> bytes:
    """The file a module was loaded from."""
    path = getattr(sys.modules.get(module), "__file__", None)
    try:
        return Path(path).read_bytes() if path else b""
    except OSError:
        return b""


def _describe(value: object) -> str:
    return value.tobytes().hex() if isinstance(value, np.ndarray) else type(value).__qualname__
