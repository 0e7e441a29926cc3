"""The resume file of an interrupted labelling."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.structures.labels import Labels

__all__ = ["Journal", "Outcome"]

Outcome: TypeAlias = Labels | str  # a text is the reason of a failure


class Journal:
    """Finished outcomes in an append-only file that survives ``kill -9``.

    A line with format and fingerprint, then chunks: length (8 bytes, little
    endian), BLAKE2b digest (16 bytes), and an uncompressed ``.npz`` without
    pickles, of structures in any order. A chunk that is cut short or does not match its digest ends the
    file; it and what follows are dropped.
    """

    FORMAT = b"mdl_physpretrain labels 3 "
    HEAD = struct.Struct("<Q16s")

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        self.header = self.FORMAT + fingerprint.encode() + b"\n"

    def read(self) -> dict[int, Outcome]:
        """Outcomes of the whole chunks by position.

        Cuts a torn end off, creates the file, refuses one of other work.
        """
        try:
            content = self.path.read_bytes() if self.path.exists() else b""
        except OSError as error:
            raise ConfigError(f"cannot read the resume file {self.path}: {error}") from error
        outcomes: dict[int, Outcome] = {}
        if self.header.startswith(content):  # new, or killed while the header was written
            self._write("wb", self.header)
            return outcomes
        if not content.startswith(self.FORMAT):
            raise ConfigError(
                f"resume: {self.path} is another kind of file, or of another version; choose another name"
            )
        if not content.startswith(self.header):
            raise ConfigError(
                f"resume: {self.path} belongs to other structures, another teacher or other options; "
                "delete it or choose another name"
            )
        valid_size = len(self.header)
        while len(content) >= valid_size + self.HEAD.size:
            size, digest = self.HEAD.unpack_from(content, valid_size)
            payload = content[valid_size + self.HEAD.size : valid_size + self.HEAD.size + size]
            if len(payload) < size or blake2b(payload, digest_size=16).digest() != digest:
                break
            outcomes |= unpack(payload)
            valid_size += self.HEAD.size + size
        if valid_size < len(content):
            self._write("r+b", b"", size=valid_size)
        return outcomes

    def append(self, outcomes: Mapping[int, Outcome]) -> None:
        """Write one chunk of outcomes by position and wait until it is on the disk."""
        payload = pack(outcomes)
        self._write("ab", self.HEAD.pack(len(payload), blake2b(payload, digest_size=16).digest()) + payload)

    def _write(self, mode: str, content: bytes, *, size: int | None = None) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open(mode) as file:
                if size is not None:
                    file.truncate(size)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ConfigError(f"cannot write the resume file {self.path}: {error}") from error


def pack(outcomes: Mapping[int, Outcome]) -> bytes:
    """Outcomes by position as an uncompressed ``.npz`` without pickles."""
    labels = [o for o in outcomes.values() if not isinstance(o, str)]
    forces = [o.forces for o in labels if o.forces is not None]
    buffer = io.BytesIO()
    np.savez(
        buffer,
        position=np.array(list(outcomes), dtype=np.int64),
        failed=np.array([isinstance(o, str) for o in outcomes.values()]),
        reasons=np.array([o for o in outcomes.values() if isinstance(o, str)], dtype=np.str_),
        energy=np.array([o.energy for o in labels], dtype=np.float64),
        n_atoms=np.array([len(f) for f in forces], dtype=np.int64),
        forces=np.concatenate([np.empty((0, 3)), *forces]),
        has_stress=np.array([o.stress is not None for o in labels], dtype=bool),
        stress=np.array([o.stress for o in labels if o.stress is not None], dtype=np.float64).reshape(-1, 3, 3),
    )
    return buffer.getvalue()


def unpack(payload: bytes) -> dict[int, Outcome]:
    """The outcomes that :func:`pack` wrote."""
    with np.load(io.BytesIO(payload), allow_pickle=False) as file:
        data: dict[str, Any] = {name: file[name] for name in file.files}
    reasons, stresses = iter(data["reasons"].tolist()), iter(data["stress"])
    forces = np.split(data["forces"], np.cumsum(data["n_atoms"])[:-1])
    labels = (
        Labels(energy, part.copy(), next(stresses) if has else None)
        for energy, part, has in zip(data["energy"].tolist(), forces, data["has_stress"], strict=False)
    )
    kinds = zip(data["position"].tolist(), data["failed"], strict=True)
    return {position: next(reasons) if failed else next(labels) for position, failed in kinds}
