"""Records of finished trajectories, and the file that stores them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, overload

import numpy as np
from ase import Atoms

from mdl_physpretrain.errors import CheckpointError
from mdl_physpretrain.files import replacing
from mdl_physpretrain.stability.limits import Limits
from mdl_physpretrain.stability.verdict import Verdict

__all__ = ["RunRecord", "Runs"]

FORMAT = "mdl_physpretrain-runs"
VERSION = 1


@dataclass
class RunRecord:
    """One structure's trajectory: traces, end point, verdict.

    Attributes
    ----------
    structure_id, formula
        Of the structure.
    steps_done, steps
        MD steps made, and asked for.
    verdict
        Overlap, Lindemann, NaN, explosion.
    trace_step, trace_temperature, trace_energy, trace_volume
        Every ``trace_interval`` steps, shape (k,): MD step, instantaneous
        temperature (K), potential energy (eV), cell volume (Å³).
    numbers, positions, velocities, cell, pbc
        The last frame: unwrapped positions in Å, velocities in ASE units. Of a
        trajectory that ran into NaN or out of bounds, a frame before that.
    input_hash
        Hash of the structure the run started from.
    degrees_of_freedom
        That the temperature is of; 0 stands for three per atom.
    frame_step, frame_positions, frame_cells
        Earlier frames, evenly spaced, where they were asked for: steps (k,),
        unwrapped positions (k, n, 3) in 0.01 Å (integers), cells (k, 3, 3) in Å.
    """

    structure_id: str
    formula: str
    steps_done: int
    steps: int
    verdict: Verdict
    trace_step: np.ndarray = field(repr=False)
    trace_temperature: np.ndarray = field(repr=False)
    trace_energy: np.ndarray = field(repr=False)
    trace_volume: np.ndarray = field(repr=False)
    numbers: np.ndarray = field(repr=False)
    positions: np.ndarray = field(repr=False)
    velocities: np.ndarray = field(repr=False)
    cell: np.ndarray = field(repr=False)
    pbc: np.ndarray = field(repr=False)
    input_hash: str = ""
    degrees_of_freedom: int = 0
    frame_step: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64), repr=False)
    frame_positions: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 3), np.int32), repr=False)
    frame_cells: np.ndarray = field(default_factory=lambda: np.zeros((0, 3, 3), np.float32), repr=False)

    @classmethod
    def of_last_frame(
        cls,
        atoms: Atoms,
        *,
        structure_id: str,
        steps_done: int,
        steps: int,
        verdict: Verdict,
        traces: dict[str, Any],
        degrees_of_freedom: int = 0,
        frames: dict[str, Any] | None = None,
    ) -> RunRecord:
        """Put a finished structure's record together."""
        return cls(
            structure_id=structure_id,
            formula=atoms.get_chemical_formula(),
            steps_done=steps_done,
            steps=steps,
            verdict=verdict,
            numbers=atoms.numbers.copy(),
            positions=atoms.positions.copy(),
            velocities=atoms.get_velocities(),
            cell=atoms.cell.array.copy(),
            pbc=atoms.pbc.copy(),
            degrees_of_freedom=degrees_of_freedom,
            **traces,
            **(frames or {}),
        )

    @property
    def temperature_mean(self) -> float:
        """Mean temperature (K) over the second half of the trace; NaN without one."""
        second_half = self.trace_temperature[len(self.trace_temperature) // 2 :]
        return float(second_half.mean()) if len(second_half) else float("nan")

    def final_atoms(self) -> Atoms:
        """The last frame, with velocities."""
        atoms = Atoms(self.numbers, self.positions, cell=self.cell, pbc=self.pbc)
        atoms.set_velocities(self.velocities)
        atoms.info.update(structure_id=self.structure_id, step=self.steps_done)
        return atoms

    def row(self, limits: Limits) -> dict[str, Any]:
        """One row of the table of :func:`mdl_physpretrain.dynamics.assessment`."""
        row, looks, frames = self.verdict.row(limits, self.steps_done), self.verdict.frames, self.steps_done + 1
        if looks < 0.75 * frames:  # md.interval; what cannot be evaluated does not count as a frame
            row["detail"] = ", ".join(filter(None, (row["detail"], f"{looks} of {frames} frames looked at")))
        return {
            "structure_id": self.structure_id,
            "n_atoms": len(self.numbers),
            "formula": self.formula,
            "steps": self.steps,
            "steps_done": self.steps_done,
            **row,
            "temperature_mean": self.temperature_mean,
        }


class Runs(Sequence[RunRecord]):
    """The records of one simulation, in the order of its structures.

    Parameters
    ----------
    records
        One per structure.
    settings
        Options of the simulation, plain values.
    fingerprint
        Hash of the options and the potential.
    """

    def __init__(
        self, records: Iterable[RunRecord] = (), *, settings: dict[str, Any] | None = None, fingerprint: str = ""
    ) -> None:
        self.records = list(records)
        self.settings = dict(settings or {})
        self.fingerprint = fingerprint

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int) -> RunRecord: ...
    @overload
    def __getitem__(self, index: slice) -> Runs: ...
    def __getitem__(self, index: int | slice) -> RunRecord | Runs:
        if isinstance(index, slice):
            return Runs(self.records[index], settings=self.settings, fingerprint=self.fingerprint)
        return self.records[index]

    def __iter__(self) -> Iterator[RunRecord]:
        return iter(self.records)

    def __repr__(self) -> str:
        return f"Runs({len(self)} structures, {self.settings.get('ensemble', '?')})"

    def save(self, path: str | Path) -> Path:
        """Write all records to one ``.npz`` file, atomically and without pickles.

        Raises
        ------
        CheckpointError
            If the file cannot be written.
        """
        path = Path(path)
        arrays: dict[str, np.ndarray] = {}
        described = []
        for k, record in enumerate(self.records):
            plain, its_arrays = _pack(record)
            described.append(plain)
            arrays.update({f"{k}/{name}": value for name, value in its_arrays.items()})
        meta = {
            "format": FORMAT,
            "version": VERSION,
            "settings": self.settings,
            "fingerprint": self.fingerprint,
            "records": described,
        }
        try:
            with replacing(path) as part, part.open("wb") as stream:
                np.savez_compressed(stream, meta=np.array(json.dumps(meta)), **arrays)  # type: ignore[arg-type]
        except OSError as error:
            raise CheckpointError(f"cannot write {path}: {error}") from error
        return path

    @classmethod
    def load(cls, path: str | Path) -> Runs:
        """Read a file of :meth:`save`.

        Raises
        ------
        CheckpointError
            If it does not exist, is damaged or of another format.
        """
        path = Path(path)
        try:
            with np.load(path, allow_pickle=False) as content:
                meta = json.loads(str(content["meta"]))
                if meta.get("format") != FORMAT or meta.get("version") != VERSION:
                    raise CheckpointError(f"{path} is not a file of MD runs of version {VERSION}")
                records = [_unpack(plain, content, k) for k, plain in enumerate(meta["records"])]
                return cls(records, settings=meta["settings"], fingerprint=meta["fingerprint"])
        except CheckpointError:
            raise
        except FileNotFoundError as error:
            raise CheckpointError(f"{path} does not exist") from error
        except Exception as error:
            # zipfile, numpy and json each have their own way of saying "damaged"
            raise CheckpointError(f"cannot read MD runs from {path}: damaged or of another format ({error})") from error


def _pack(record: RunRecord) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    plain: dict[str, Any] = {"verdict": {}}
    arrays = {}
    for owner, store, prefix in ((record, plain, ""), (record.verdict, plain["verdict"], "verdict.")):
        for f in fields(owner):
            value = getattr(owner, f.name)
            if isinstance(value, np.ndarray):
                arrays[prefix + f.name] = value
            elif not isinstance(value, Verdict):
                store[f.name] = value
    return plain, arrays


def _unpack(plain: dict[str, Any], content: Any, k: int) -> RunRecord:
    def arrays(kind: type, prefix: str, scalars: dict[str, Any]) -> dict[str, Any]:
        names = [f.name for f in fields(kind) if f.name not in scalars and f.name != "verdict"]
        optional = {f.name for f in fields(kind) if f.default_factory is not MISSING or f.default is not MISSING}
        places = {name: f"{k}/{prefix}{name}" for name in names}
        return {name: content[at] for name, at in places.items() if at in content or name not in optional}

    verdict = Verdict.stored({**plain["verdict"], **arrays(Verdict, "verdict.", plain["verdict"])})
    scalars = {name: value for name, value in plain.items() if name != "verdict"}
    return RunRecord(**scalars, **arrays(RunRecord, "", scalars), verdict=verdict)
