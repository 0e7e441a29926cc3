"""The folder of a check: what is where, what is already known, and what else belongs into it."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from ase import Atoms

from mdl_physpretrain import __version__
from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.files import make_writable, write_atomic
from mdl_physpretrain.source_graph import dependencies, source_hash
from mdl_physpretrain.structures.fingerprint import structure_hash
from mdl_physpretrain.workflow.records import Records, fingerprint

__all__ = ["CheckFolder", "structures_mark"]

CODE = "mdl_physpretrain.probes.questions"
TEXT = ("structure_id", "arm", "pair", "reason", "formula", "closest_pair")


class CheckFolder:
    """A folder laid out as that of a run, with ``check.json`` in place of ``config.yaml``.

    Parameters
    ----------
    path
        Created when missing.

    Raises
    ------
    ConfigError
        If it cannot be written or belongs to a run.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if (self.path / "config.yaml").exists():
            raise ConfigError(f"{self.path} is the folder of a run: choose another output folder")
        try:
            make_writable(self.path)
        except OSError as error:
            raise ConfigError(f"cannot write to {self.path}: {error.strerror}") from error
        self.records = Records(self.path)

    def refuse_other(self, settings: Mapping[str, Any], names: Sequence[str]) -> None:
        """Make sure that the folder holds no MD under other conditions.

        Parameters
        ----------
        settings, names
            Those of ``check.json``.

        Raises
        ------
        ConfigError
            If it does; the message names what differs.
        """
        try:
            known = json.loads((self.path / "check.json").read_text())["settings"]
            changed = [key for key in names if known.get(key) != json.loads(json.dumps(settings[key]))]
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"{self.path / 'check.json'} is damaged ({error}): choose another folder") from error
        if changed:
            what = ", ".join(f"{key} {known.get(key)} instead of {settings[key]}" for key in changed)
            raise ConfigError(f"{self.path} holds a check with {what}: choose another output folder")

    def describe(self, check: Mapping[str, Any], structures: Sequence[Atoms]) -> None:
        """Write ``check.json``, ``environment.json`` and ``data/summary.json``."""
        sizes = [len(a) for a in structures]
        environment = {
            "mdl_physpretrain": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "platform": platform.platform(),
            "command": list(check["command"]),
        }
        summary = {
            "source": "structures of the check",
            "n_test": len(structures),
            "elements": sorted({s for a in structures for s in a.symbols}),
            "n_atoms": {"min": min(sizes), "max": max(sizes), "mean": float(np.mean(sizes))},
        }
        for name, content in (
            ("check.json", check), ("environment.json", environment), ("data/summary.json", summary)
        ):  # fmt: skip
            write_atomic(self.path / name, json.dumps(content, indent=1))

    def md_file(self, name: str, seed: int, label: str = "") -> Path:
        """Start of the names of a simulation's files."""
        return self.path / f"seed-{seed}/md/{name}{'@' * bool(label)}{label}"

    def mark(self, potential: str, options: Any, inputs: Sequence[tuple[str, str]]) -> str:
        """Fingerprint of a piece of work: potential, options, structures, and the code that asks."""
        return fingerprint([potential, options], inputs, source_hash(dependencies([CODE])))

    def tables(
        self, name: str, task: str, mark: str, make: Callable[[], dict[str, pd.DataFrame]], *, seed: int = 0
    ) -> dict[str, pd.DataFrame]:
        """Tables of one potential by kind, from an earlier call when they belong to the same work.

        Parameters
        ----------
        name, task
            Potential and piece of work.
        mark
            From :meth:`mark`.
        make
            Makes them; the columns ``arm`` and ``seed`` are added.
        seed
            Of the column.
        """
        start = f"seed-{seed}/evaluate/{name}."
        known = self.records.done(task)
        if known is None or known["fingerprint"] != mark:
            begin = time.perf_counter()
            made = make()
            for kind, table in made.items():
                table.insert(0, "arm", name)
                table.insert(1, "seed", seed)
                write_atomic(self.path / f"{start}{kind}.csv", table.to_csv(index=False))
            self.records.finish(task, mark, [f"{start}{kind}.csv" for kind in made], time.perf_counter() - begin)
            known = self.records.read(task)
        assert known is not None
        return {f.removeprefix(start).removesuffix(".csv"): self._read(f) for f in known["outputs"]}

    def write(self, kind: str, frames: Sequence[pd.DataFrame]) -> pd.DataFrame | None:
        """Join the potentials' tables of a kind in the folder; an older one without successor is removed."""
        file = self.path / f"{kind}.csv"
        frames = [f for f in frames if len(f)]
        if not frames:
            file.unlink(missing_ok=True)
            return None
        write_atomic(file, pd.concat([f.astype(object) for f in frames], ignore_index=True).to_csv(index=False))
        return self._read(file.name)

    def write_timings(self, tasks: Sequence[str]) -> None:
        """``timings.json``: seconds of every finished piece of work."""
        rows = [(task, self.records.read(task)) for task in tasks]
        found = [{"stage": t, "seconds": r["seconds"], "status": "done"} for t, r in rows if r is not None]
        write_atomic(self.path / "timings.json", json.dumps(found, indent=1))

    def _read(self, file: str) -> pd.DataFrame:
        types: Any = dict.fromkeys(TEXT, str)
        return pd.read_csv(
            self.path / file,
            dtype={**types, "first_unphysical_step": "Int64"},
            keep_default_na=False,
            na_values={c: [""] if c in TEXT else ["", "nan", "NaN"] for c in self._columns(file)},
        )

    def _columns(self, file: str) -> list[str]:
        return list(pd.read_csv(self.path / file, nrows=0).columns)


def structures_mark(structures: Sequence[Atoms], *, labels: bool = False) -> list[tuple[str, str]]:
    """Id and hash of every structure, with what it is labelled with when that matters."""
    return [(str(atoms.info["structure_id"]), structure_hash(atoms, labels=labels)) for atoms in structures]
