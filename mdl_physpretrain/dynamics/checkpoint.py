"""The checkpoint of a simulation: finished structures on disk, so that it can be interrupted."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from ase import Atoms

from mdl_physpretrain.dynamics.records import RunRecord, Runs
from mdl_physpretrain.dynamics.remembered import memory_file
from mdl_physpretrain.dynamics.settings import MDSettings
from mdl_physpretrain.errors import CheckpointError
from mdl_physpretrain.stability.lindemann import ALL_PAIRS, PARTNERS
from mdl_physpretrain.structures.fingerprint import structure_hash

__all__ = ["MDCheckpoint", "OlderRecords"]

SAVE_SECONDS = 30.0
SAVE_SHARE = 0.05  # of the time may go into writing


class OlderRecords(CheckpointError):
    """Records of the same potential under the same conditions, by a version that told structures apart otherwise."""


class MDCheckpoint:
    """Finished records, in memory and in the checkpoint file (``path``; ``None``: no file).

    Raises CheckpointError if the file is damaged or of another simulation (:class:`OlderRecords`: or perhaps not).
    """

    def __init__(
        self, path: str | Path | None, settings: MDSettings, potential: str, structures: Sequence[Atoms]
    ) -> None:
        self.path = None if path is None else Path(path)
        self.order = [a.info["structure_id"] for a in structures]
        self.hashes = {a.info["structure_id"]: _start_hash(a, settings) for a in structures}
        self.settings = asdict(settings)
        self.fingerprint = settings.fingerprint(potential)
        self.done: dict[str, RunRecord] = {}
        self.others: list[RunRecord] = []
        self.saved_at, self.save_seconds, self.dirty = time.monotonic(), 0.0, False
        if self.path is not None and self.path.exists():
            self._resume(self.path)

    def _resume(self, path: Path) -> None:
        runs = Runs.load(path)
        if runs.fingerprint != self.fingerprint:
            before = json.loads(json.dumps(asdict(MDSettings()))) | runs.settings  # older versions had fewer options
            changed = sorted(k for k, v in json.loads(json.dumps(self.settings)).items() if before[k] != v)
            difference = f"other options ({', '.join(changed)})" if changed else "another potential"
            raise CheckpointError(f"{path} was written with {difference}; delete it or choose another checkpoint file")
        for record in runs:
            name = record.structure_id
            if name not in self.hashes:
                self.others.append(record)  # of a longer list of structures: kept in the file
            elif record.input_hash != self.hashes[name]:
                if _digits(record.input_hash) != _digits(self.hashes[name]):
                    raise OlderRecords(
                        f"{path} was written by an older version of this package, whose structures cannot be "
                        "recognised; delete it or choose another checkpoint file"
                    )
                raise CheckpointError(
                    f"{path} holds another structure {name}, or is of another version of this package; "
                    "delete it or choose another checkpoint file"
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
        """Write the file if there is anything new; if ``often``, so rarely that it costs a twentieth of the time."""
        began = time.monotonic()
        if self.path is None or not self.dirty or (often and self.save_seconds > SAVE_SHARE * (began - self.saved_at)):
            return
        records = [*self.runs(), *self.others]
        Runs(records, settings=self.settings, fingerprint=self.fingerprint).save(self.path)
        self.saved_at, self.dirty = time.monotonic(), False
        self.save_seconds = self.saved_at - began

    def memory(self, atoms: Atoms) -> Path | None:
        """File of what a calculator gave in the trajectory of a structure, while it is not finished."""
        mark = self.fingerprint + self.hashes[atoms.info["structure_id"]]
        return memory_file(self.path, atoms, self.settings["steps"], mark)

    def forget(self, structures: Iterable[Atoms]) -> None:
        """Remove those files of finished trajectories, once their records are stored."""
        for atoms in structures:
            file = self.memory(atoms)
            if file is not None and file.is_file() and atoms.info["structure_id"] in self.done:
                self.save()
                file.unlink()
                with suppress(OSError):  # those of others are there
                    file.parent.rmdir()

    def runs(self) -> Runs:
        """The finished records in the order of the structures."""
        records = [self.done[name] for name in self.order if name in self.done]
        return Runs(records, settings=self.settings, fingerprint=self.fingerprint)


def _start_hash(atoms: Atoms, settings: MDSettings) -> str:
    """Hash of what a trajectory starts from."""
    content = structure_hash(atoms, masses=True, velocities=settings.initial_velocities == "keep")
    return content if len(atoms) <= ALL_PAIRS else f"{content}-{PARTNERS}"  # its Lindemann indices are estimates


def _digits(start_hash: str) -> int:
    """Length of the structure's part of a start's hash, in which the ways of hashing differ."""
    return len(start_hash.partition("-")[0])
