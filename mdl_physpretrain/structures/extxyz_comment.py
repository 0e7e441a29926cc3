"""The comment line of an extended XYZ frame: which entries it has.

ASE takes every bare word for an entry that is true, so that the text ``energy
-76.4`` becomes an energy of 1 eV and ``without pbc`` makes a molecule periodic.
Here an entry has an equals sign; a line without one is text.
"""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from ase.io.extxyz import key_val_str_to_dict

from mdl_physpretrain.errors import StructureError

__all__ = ["parse_comment"]

_QUOTED = r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\''
_KEY = rf"{_QUOTED}|[^\s=\"'{{\[]+"
_VALUE = rf"{_QUOTED}|\{{[^{{}}]*\}}|\[(?:[^\[\]]|\[[^\[\]]*\])*\]|\S*"
_SPACE = r"(?:\s+(?![^\s=]+\s*=))?"  # before a value; not where the next entry follows
_TOKEN = re.compile(rf"\s*(?:({_KEY})\s*={_SPACE}({_VALUE})|(\S+))")
_FLAG = re.compile(r"[A-Za-z]\w*")
#: Entries whose case differs between codes (GPUMD writes all of them in lower case).
_CANONICAL = {"lattice": "Lattice", "properties": "Properties", "pbc": "pbc", "structure_id": "structure_id"}
#: Words that are never true by themselves: parts of a label's or a reserved entry's name.
_NEVER_FLAGS = re.compile(r"energ|force|stress|virial|lattice|properties|pbc|structure_id", re.IGNORECASE)
_UNREAD_LABEL = re.compile(r"\b(?:energy|virial|stress)\b\W*\d", re.IGNORECASE)
_MATRICES = re.compile(r"stress|virial|^lattice$", re.IGNORECASE)


def parse_comment(line: str, file: str | Path = "structures") -> dict[str, Any]:
    """Entries of a comment line, by name.

    Parameters
    ----------
    line
        Values in ASE's notation: numbers, T and F, lists in quotes, braces or
        brackets, ``_JSON``.
    file
        Named in warnings.

    Returns
    -------
    dict
        Lattice, Properties, pbc and structure_id under these names, whatever
        their case. Stresses and virials of nine numbers are (3, 3), of six
        (Voigt: xx, yy, zz, yz, xz, xy) stay six. Bare words are flags that are
        true, unless they name a label or are no names at all: these, and the
        whole line when it has no ``key=``, are the text ``comment``.

    Raises
    ------
    StructureError
        If a lattice or a stress has another number of components.
    """
    entries: dict[str, Any] = {}
    spelled: dict[str, str] = {}
    words: list[str] = []
    tokens = [match.groups() for match in _TOKEN.finditer(line.strip())]
    if not any(key for key, _, _ in tokens):
        if _UNREAD_LABEL.search(line):
            warnings.warn(
                f"{file}: the comment {line.strip()[:60]!r} is text, no label is read from it (write key=value)",
                stacklevel=4,
            )
        return {"comment": line.strip()} if line.strip() else {}
    for quoted, raw, word in tokens:
        if quoted is None:
            words.append(word)
            continue
        written = _unquoted(quoted)
        key = _CANONICAL.get(written.lower(), written)
        value = _matrix(key, raw) if _MATRICES.search(key) else _plain(key, raw)
        if key not in entries:
            entries[key], spelled[key] = value, written
        elif not _same(entries[key], value):
            names = f"{spelled[key]!r} twice" if written == spelled[key] else f"{spelled[key]!r} and {written!r}"
            warnings.warn(f"{file}: a comment line has {names} with different values; the first is taken", stacklevel=4)
    flags = [w for w in words if _FLAG.fullmatch(w) and not _NEVER_FLAGS.search(w)]
    entries = dict.fromkeys(flags, True) | entries
    text = " ".join(w for w in words if w not in flags)
    if text:
        entries.setdefault("comment", text)
    return entries


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text[0] in "\"'" else text


def _plain(key: str, raw: str) -> Any:
    """A value as ASE reads it."""
    if raw.startswith("[["):
        try:
            return np.array(json.loads(re.sub(r"\bT\b", "true", re.sub(r"\bF\b", "false", raw))))
        except ValueError:
            return raw
    if not raw or raw in {'""', "''"}:
        return ""
    if re.fullmatch(r"[+-]?[\d.]+(_[\d.]+)+\w*", _unquoted(raw)):  # Python's 1_000
        return _unquoted(raw)
    name = "uid" if key.lower() == "uid" else "value"
    return key_val_str_to_dict(f"{name}={raw}").get(name, raw)


def _matrix(key: str, raw: str) -> Any:
    value = _plain(key, raw)
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.size == 9:
        return value.reshape((3, 3), order="F")  # columns first, as the format has it
    if isinstance(value, np.ndarray) and value.shape == (3, 3):
        return value.T
    if key != "Lattice" and (isinstance(value, str | bool) or (isinstance(value, np.ndarray) and value.shape == (6,))):
        return value  # a word is refused where it is read as a label
    if key != "Lattice" and np.ndim(value) == 0 and key.lower() not in {"stress", "virial"}:
        return value  # such as ``stress_weight``
    expected = "3x3 matrix (9 numbers)" + ("" if key == "Lattice" else " or 6 Voigt components")
    raise StructureError(f"{raw[:60]} is not a {expected}", field=key)


def _same(a: Any, b: Any) -> bool:
    try:
        return bool(np.array_equal(np.asarray(a), np.asarray(b)))
    except (OverflowError, TypeError, ValueError):
        return False
