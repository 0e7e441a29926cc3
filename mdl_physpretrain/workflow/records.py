"""Store of a run's or check's tasks: when one may be skipped, resumed, or must start afresh.

A task's *fingerprint* is a hash of the configuration it depends on, of the
contents of its input files, and of the source of all modules that it reaches
(without comments and docstrings). When it is done, ``.stages/<task>.json`` is
written with the fingerprint and the hashes of its outputs; while it is at work,
``.stages/<task>.started`` holds the fingerprint, so that what an interrupted
task left behind is gone on with only if it belongs to the same work; else it
moves to ``.replaced``. Single finished trajectories inside a task are stored by
:mod:`mdl_physpretrain.dynamics.checkpoint`; nothing else is stored.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.files import file_hash, write_atomic
from mdl_physpretrain.ownership import LEFT, keep_edited

__all__ = ["Records", "fingerprint", "note_written", "refuse_shared_records", "remove_written"]

WRITTEN = ".stages/written"
PARTS = {"options": "other options", "code": "the code of the package changed"}  # of a fingerprint, and what is said


def fingerprint(section: Any, inputs: Iterable[tuple[str, str]], code: str) -> str:
    """Hash of a configuration section, of named input hashes and of the code."""
    text = json.dumps([section, sorted(inputs), code], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


class Records:
    """Records of the tasks of a run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.stages = folder, folder / ".stages"
        self._hashes: dict[tuple[str, int, int], str] = {}

    def done(self, task: str) -> dict[str, Any] | None:
        """The record of a finished task whose outputs are as it left them."""
        record = self.read(task)
        if record is None:
            return None
        return record if all(self._same(name, stored) for name, stored in record["outputs"].items()) else None

    def read(self, task: str) -> dict[str, Any] | None:
        """The record of a task that was finished once."""
        try:
            record = json.loads(self._path(task, "json").read_text())
            return record if {"fingerprint", "outputs", "seconds"} <= set(record) else None
        except (OSError, ValueError, TypeError):
            return None

    def hash(self, name: str) -> str:
        """Hash of a file of the run folder (or an absolute path), read once per state of the file."""
        path = self.folder / name
        state = path.stat()
        key = (str(path), state.st_size, state.st_mtime_ns)
        if key not in self._hashes:
            self._hashes[key] = file_hash(path)
        return self._hashes[key]

    def start(
        self,
        task: str,
        mark: str,
        scratch: Sequence[str],
        *,
        dear: Sequence[str] = (),
        afresh: bool = False,
        growing: bool = False,
        parts: Mapping[str, Any] | None = None,
    ) -> bool:
        """Note that a task begins, put away (with a warning) what belongs to other work, and say whether it resumes.

        It resumes from ``scratch`` files of the same fingerprint ``mark``; with ``growing`` also from those of a
        finished task, of which there is more to do; ``afresh`` never. ``dear`` files are kept when it does not, and in
        ``edited/`` those that the user changed since. ``parts`` of the fingerprint tell why it is done again.
        """
        started = self._path(task, "started")
        earlier = started.read_text() if started.is_file() else None
        finished = self.read(task)
        interrupted = finished is None and started.is_file() and not growing
        if earlier is None and growing:
            earlier = (self.read(task) or {}).get("basis")
        before = (self.read(task) or {"outputs": {}})["outputs"]
        edited = [
            name for name, stored in before.items() if (self.folder / name).is_file() and not self._same(name, stored)
        ]
        keep_edited(self.folder, edited)
        leftovers = [self.folder / name for name in scratch if (self.folder / name).exists()]
        resumes = earlier == mark and not afresh and bool(leftovers)
        note_written(self.folder, before)
        self._path(task, "json").unlink(missing_ok=True)
        if not resumes:
            kept = [self.folder / name for name in dear if (self.folder / name).is_file()]
            why = "asked for" if afresh else _difference((finished or {}).get("parts"), parts)
            self._put_away(task, leftovers, kept, finished=not interrupted, why=why)
        write_atomic(started, mark)
        return resumes

    def finish(
        self,
        task: str,
        mark: str,
        outputs: Iterable[str],
        seconds: float,
        *,
        basis: str | None = None,
        parts: Mapping[str, Any] | None = None,
    ) -> None:
        """Note that a task is done, so that it is skipped from now on; ``basis``: fingerprint without what may grow."""
        hashes = {}
        for name in outputs:
            state = (self.folder / name).stat()
            hashes[name] = {"sha256": self.hash(name), "size": state.st_size, "mtime_ns": state.st_mtime_ns}
        record = {"task": task, "fingerprint": mark, "seconds": round(seconds, 3), "outputs": hashes}
        if basis is not None:
            record["basis"] = basis
        if parts is not None:
            record["parts"] = dict(parts)
        write_atomic(self._path(task, "json"), json.dumps(record, indent=1))
        self._path(task, "started").unlink(missing_ok=True)

    def note_left(self, tasks: Iterable[str]) -> None:
        """Note the tasks of the present configuration that are not done, for the report."""
        text = json.dumps(list(tasks))
        file = self.folder / LEFT
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            write_atomic(file, text)

    def _same(self, name: str, stored: dict[str, Any]) -> bool:
        path = self.folder / name
        if not path.is_file():
            return False
        state = path.stat()
        if state.st_size != stored["size"]:
            return False
        return state.st_mtime_ns == stored["mtime_ns"] or self.hash(name) == stored["sha256"]

    def _put_away(
        self, task: str, leftovers: Sequence[Path], dear: Sequence[Path], *, finished: bool, why: str
    ) -> None:
        """Move results of other work to ``.replaced`` (copy what may be an input); none that was finished is lost."""
        if not leftovers and not dear:
            return
        name = _file_name(task)
        away = self.folder / ".replaced" / (name if finished else f"unfinished/{name}")
        if not finished and away.exists():
            shutil.rmtree(away)
        number = 1
        while away.exists():
            number += 1
            away = away.with_name(f"{name}-{number}")
        away.mkdir(parents=True)
        for path in leftovers:
            shutil.move(path, away / path.name)
        for path in dear:
            shutil.copy2(path, away / path.name)
        reason = f" ({why})" if why else ""
        warnings.warn(f"{task}: done again{reason}; what was there is kept in {away}", stacklevel=2)

    def _path(self, task: str, suffix: str) -> Path:
        return self.stages / f"{_file_name(task)}.{suffix}"


def _difference(before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> str:
    """Why a task is done again, in words; empty where it is not known."""
    if not before or not now:
        return ""
    words = [text for key, text in PARTS.items() if before.get(key) != now.get(key)]
    read_then, read_now = before.get("inputs", {}), now.get("inputs", {})
    other = sorted(name for name in {**read_then, **read_now} if read_then.get(name) != read_now.get(name))
    if other:
        words.append(f"other {', '.join(other[:3])}" + (f" and {len(other) - 3} files" if len(other) > 3 else ""))
    return ", ".join(words)


def note_written(folder: Path, names: Iterable[str]) -> None:
    """Note files of a run or check that a later call may remove."""
    before = _written(folder)
    if not before.issuperset(names):
        write_atomic(folder / WRITTEN, "\n".join(sorted({*before, *names})))


def remove_written(folder: Path, name: str) -> None:
    """Remove a file of an earlier call; one that no call has written is the user's, and stays."""
    if name in _written(folder):
        (folder / name).unlink(missing_ok=True)


def _written(folder: Path) -> set[str]:
    try:
        return set((folder / WRITTEN).read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError):
        return set()


def refuse_shared_records(names: Iterable[str]) -> None:
    """Raise where two tasks would have one record, as of the arms ``a b`` and ``a-b``.

    Raises
    ------
    ConfigError
        Naming both.
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(_file_name(name), name)
        if other != name:
            raise ConfigError(f"{name!r} and {other!r} would be the same task: give an arm or a potential another name")


def _file_name(task: str) -> str:
    return task.replace("/", "-").replace(" ", "-")
