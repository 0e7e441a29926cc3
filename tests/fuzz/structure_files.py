"""Damaged and odd structure files: each is read right or refused by name; no traceback, no wrong label.

All of it: python tests/fuzz/structure_files.py [how many per kind]
"""

# ruff: noqa: E501 - one kind of damage, one line
from __future__ import annotations

import collections
import json
import re
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from mdl_physpretrain import assess
from mdl_physpretrain.errors import PhysPretrainError
from mdl_physpretrain.structures import get_labels, read_structures, validate_structures, write_structures

WORDS = ["nan", "inf", "-inf", "1e400", "-", "T", "F", "0x10", "1_0", "1,5", "１", "Å", "None", "1e", "--3", "=", '"', "{",
         "[", "\\", "0", "-1", "99999999999999999999", "1.5", "X", "Mg", "energy", "pbc", "Lattice="]  # fmt: skip
NEUTRAL = "neutral"  # the file says the same as before
Change = Callable[[str, np.random.Generator], str]


def originals() -> list[Atoms]:
    """Four labelled cells whose energies are -10, -11, -12 and -13 eV."""
    rng = np.random.default_rng(5)
    structures = []
    for k in range(4):
        atoms = bulk("MgO", "rocksalt", a=4.2, cubic=True)
        atoms.rattle(0.05, seed=k)
        forces = rng.normal(size=(8, 3))
        stress = rng.normal(scale=0.01, size=6)
        atoms.calc = SinglePointCalculator(atoms, energy=-10.0 - k, forces=forces, stress=stress)
        atoms.info |= {"structure_id": f"cell-{k}", "config_type": "bulk"}
        structures.append(atoms)
    return structures


def _line(text: str, rng: np.random.Generator, change: Callable[[list[str], int], None]) -> str:
    lines = text.split("\n")
    change(lines, int(rng.integers(len(lines) - 1)))
    return "\n".join(lines)


def _word(text: str, rng: np.random.Generator) -> str:
    spans = [m.span() for m in re.finditer(r"[^\s=\"]+", text)]
    start, end = spans[int(rng.integers(len(spans)))]
    return text[:start] + WORDS[int(rng.integers(len(WORDS)))] + text[end:]


def _flip(text: str, rng: np.random.Generator) -> str:
    raw = bytearray(text.encode())
    for _ in range(int(rng.integers(1, 4))):
        raw[int(rng.integers(len(raw)))] ^= 1 << int(rng.integers(8))
    return raw.decode("latin-1")


def _in_comments(text: str, change: Callable[[str], str]) -> str:
    return "\n".join(change(line) if "Properties" in line else line for line in text.split("\n"))


def _other_case(text: str, rng: np.random.Generator) -> str:
    names = ["Lattice", "Properties", "energy", "stress", "pbc"]
    cases = [str.lower, str.upper, str.capitalize]

    def change(line: str) -> str:
        for name in names:
            line = re.sub(rf"\b{name}=", cases[int(rng.integers(3))](name) + "=", line)
        return line

    return _in_comments(text, change)


def _bare_words(text: str, rng: np.random.Generator) -> str:
    words = ["energy", "step 12", "without pbc", "relaxed", "-76.4", "virial", "forces", "REF_energy", "12"]
    return _in_comments(text, lambda line: f"{words[int(rng.integers(len(words)))]} {line}")


def _properties(text: str, rng: np.random.Generator) -> str:
    odd = ["species:S:1:pos:R:3", "species:I:1:pos:R:3", "pos:R:3:species:S:1", "species:S:1:pos:R:2", "species:S:1",
           "species:S:1:pos:R:3:pos:R:3", "Z:I:1:pos:R:3", "species:S:-1:pos:R:3", ":::", "species:S:1:pos:R:3:forces:I:3",
           "species:S:1:pos:R:3:forces:L:3", "species:S:1:pos:S:3:forces:R:3", "species:S:1:positions:R:3:numbers:R:3"]  # fmt: skip
    return re.sub(r"Properties=\S+", f"Properties={odd[int(rng.integers(len(odd)))]}", text)


EXTXYZ: dict[str, tuple[Change, str]] = {
    "cut anywhere": (lambda text, rng: text[: int(rng.integers(1, len(text)))], ""),
    "bits flipped": (_flip, ""),
    "a line lost": (lambda text, rng: _line(text, rng, lambda lines, k: lines.pop(k)), ""),
    "a line twice": (lambda text, rng: _line(text, rng, lambda lines, k: lines.insert(k, lines[k])), ""),
    "a blank line anywhere": (lambda text, rng: _line(text, rng, lambda lines, k: lines.insert(k, "")), ""),
    "an odd word": (_word, ""),
    "odd columns": (_properties, ""),
    "other case": (_other_case, NEUTRAL),
    "bare words": (_bare_words, NEUTRAL),
    "blank lines between frames": (lambda text, rng: text.replace("\n8\n", "\n" * int(rng.integers(2, 6)) + "8\n"), NEUTRAL),
    "other line ends": (lambda text, rng: text.replace("\n", "\r\n"), NEUTRAL),
    "blanks and tabs": (lambda text, rng: re.sub(" (?=-?[0-9]+\\.)", lambda m: " \t"[int(rng.integers(2))] * 2, text), NEUTRAL),
    "blanks around =": (lambda text, rng: text.replace("energy=", "energy ="[: 6 + int(rng.integers(3))].rstrip("=") + "= "), NEUTRAL),
}  # fmt: skip


def _json_change(text: str, rng: np.random.Generator) -> str:
    entries = json.loads(text)
    entry = entries[int(rng.integers(len(entries)))]
    key = list(entry)[int(rng.integers(len(entry)))]
    odd = [None, "", "nan", True, [], {}, 0, -1, [[]], [[[1]]], 1e308, "T", [None], [[1, 2]], "x" * 300, {"a": 1}]
    if rng.random() < 0.2:
        del entry[key]
    else:
        entry[key] = odd[int(rng.integers(len(odd)))]
    return json.dumps(entries)


JSON: dict[str, tuple[Change, str]] = {
    "an odd value": (_json_change, ""),
    "cut anywhere": (lambda text, rng: text[: int(rng.integers(1, len(text)))], ""),
    "bits flipped": (_flip, ""),
}


def outcome(path: Path, kind: str, truth: list[Atoms]) -> str:
    """What becomes of a file: read, refused, or what must not be."""
    start = time.process_time()
    try:
        structures = read_structures(path, duplicates="rename")
        energies = [get_labels(atoms).energy for atoms in structures if not _has_nan(atoms)]
        if any(isinstance(energy, bool) for energy in energies):
            return "WRONG: an energy that is true or false"
        if kind == NEUTRAL:
            return "read" if _same(structures, truth) else "WRONG: another content"
        if len(structures) > 1 and path.suffix == ".xyz":
            assess([structures])
        validate_structures(structures, require=())
        result = "read"
    except PhysPretrainError as error:
        result = "refused" if kind != NEUTRAL else f"WRONG: refused ({error})"
        if not str(error).strip() or "\n" in str(error):
            result = "WRONG: no clear line"
    except Exception as error:
        return f"TRACEBACK: {type(error).__name__}: {error}"
    return result if time.process_time() - start < 20 else "HANG"


def _has_nan(atoms: Atoms) -> bool:
    results = atoms.calc.results if atoms.calc else {}
    return not all(np.isfinite(np.asarray(value, dtype=float)).all() for value in results.values())


def _same(structures: list[Atoms], truth: list[Atoms]) -> bool:
    if len(structures) != len(truth):
        return False
    for a, b in zip(structures, truth, strict=True):
        x, y = get_labels(a), get_labels(b)
        same = np.array_equal(a.numbers, b.numbers) and np.allclose(a.positions, b.positions) and x.energy == y.energy
        same = same and np.allclose(a.cell.array, b.cell.array) and np.array_equal(a.pbc, b.pbc)
        if not same or x.forces is None or x.stress is None or y.forces is None or y.stress is None:
            return False
        if not (np.allclose(x.forces, y.forces) and np.allclose(x.stress, y.stress)):
            return False
    return True


def run(per_kind: int, folder: Path, seed: int = 0) -> tuple[collections.Counter, list[str]]:
    """Try every kind so many times: counts of outcomes, and the files that must not be."""
    truth, counts, bad = originals(), collections.Counter(), []
    for suffix, kinds in (("xyz", EXTXYZ), ("json", JSON)):
        write_structures(folder / f"good.{suffix}", truth)
        text = (folder / f"good.{suffix}").read_text()
        for name, (change, kind) in kinds.items():
            for k in range(per_kind):
                path = folder / f"odd.{suffix}"
                path.write_text(change(text, np.random.default_rng([seed, k, len(name)])), encoding="utf-8", newline="")
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    result = outcome(path, kind, truth)
                counts[result.split(":")[0]] += 1
                if result not in {"read", "refused"}:
                    bad.append(f"{suffix}, {name}, {k}: {result}")
    return counts, bad


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        totals, wrong = run(int(sys.argv[1]) if len(sys.argv) > 1 else 200, Path(place))
    print("\n".join(wrong[:40]))
    print(f"{sum(totals.values())} files:", ", ".join(f"{n} {what}" for what, n in totals.most_common()))
    raise SystemExit(bool(wrong))
