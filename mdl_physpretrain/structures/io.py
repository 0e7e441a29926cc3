"""Reading structures from anything, and writing them without losing anything."""

from __future__ import annotations

import glob as globbing
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.formats import string2index

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.structures.datasets import demo_structures, load_public
from mdl_physpretrain.structures.extxyz import write_extxyz
from mdl_physpretrain.structures.files import open_text, read_file, write_ase
from mdl_physpretrain.structures.ids import unique_ids
from mdl_physpretrain.structures.keys import LABEL_NAMES, available_keys, has_label, normalise_labels
from mdl_physpretrain.structures.locate import located
from mdl_physpretrain.structures.mdl_json import write_mdl_json

__all__ = ["Source", "read_structures", "write_structures"]

Source = str | Path | Atoms | Sequence["Source"]


def read_structures(
    source: Source,
    *,
    index: str | int | slice = ":",
    energy_key: str | None = None,
    forces_key: str | None = None,
    stress_key: str | None = None,
    require: Sequence[str] = (),
    duplicates: Literal["error", "rename"] = "error",
    datasets_root: str | Path | None = None,
) -> list[Atoms]:
    """Structures with their labels on a calculator and a unique identifier.

    Parameters
    ----------
    source
        A file that ASE reads (extxyz, db, traj, vasp, ...), a MatDeepLearn
        JSON list, a glob pattern, ``"demo"`` (the shipped data),
        ``"load-atoms:<name>"`` (a public dataset, e.g. ``load-atoms:P-GAP-20``),
        structures, or a list of all these.
    index
        Which structures of each file, as in ``ase.io.read``.
    energy_key, forces_key, stress_key
        Names of the labels where they are unusual, see
        :func:`~mdl_physpretrain.structures.keys.normalise_labels`.
    require
        Labels ("energy", "forces", "stress") that every structure must have.
        Otherwise missing labels are simply missing (masked in batches).
    duplicates
        "error", or "rename" the later structure of the same identifier.
    datasets_root
        Folder of public datasets: a file ``<name>.extxyz`` (or .xyz, .json,
        .db, .traj) there is read instead of downloading, and load-atoms
        keeps its files there. Default: ``$PHYSPRETRAIN_DATASETS`` or load-atoms'
        own (``~/.load-atoms``).

    Returns
    -------
    list of ase.Atoms
        ``info["structure_id"]`` is a unique string; where a file has none it
        is ``<stem>-<position in the file>``.

    Raises
    ------
    StructureError
        When nothing matches, a file cannot be read or is damaged, a label is
        malformed or required and missing, or two structures share an
        identifier.
    """
    structures: list[Atoms] = []
    origins: list[tuple[str, int]] = []
    generated: list[str] = []
    stems: set[str] = set()
    wanted = _index(index)
    for item in _items(source):
        if isinstance(item, Atoms):
            name, stem, positions, frames = "<memory>", "structure", [len(structures)], [item.copy()]
            if item.calc is not None:  # its own copy: reading moves labels
                frames[0].calc = SinglePointCalculator(frames[0], **getattr(item.calc, "results", {}))
        elif isinstance(item, _Dataset):
            frames = load_public(item.name, root=datasets_root)
            name, stem = f"load-atoms:{item.name}", item.name
            positions, frames = _select(frames, wanted, name)
        elif item == "demo":
            name, stem = "demo", "demo"
            positions, frames = _select(demo_structures(), wanted, name)
        else:
            name, stem = str(item), _stem(Path(item), stems)
            positions, frames = read_file(Path(item), wanted)
        for position, atoms in zip(positions, frames, strict=True):
            try:
                normalise_labels(atoms, energy_key=energy_key, forces_key=forces_key, stress_key=stress_key, file=name)
            except StructureError as error:
                raise located(error, structure=position) from error
            structures.append(atoms)
            origins.append((name, position))
            generated.append(f"{stem}-{position}")
    if not structures:
        raise StructureError("there is no structure in it", file=_say(source))
    _check_keys(structures, _say(source), energy=energy_key, forces=forces_key, stress=stress_key)
    unique_ids(structures, origins=origins, generated=generated, duplicates=duplicates)
    _check_required(structures, origins, require)
    return structures


def write_structures(path: str | Path, structures: Atoms | Iterable[Atoms]) -> None:
    """Write structures with labels, identifiers and provenance.

    The suffix decides: ``.extxyz``/``.xyz`` (exact), ``.json`` (MatDeepLearn's list),
    ``.db`` and ``.traj`` keep everything; other formats of ASE hold the geometry
    and warn of what they lose. The first two take one structure after the other
    from an iterator. The file is complete or not there: it is
    written beside its place as ``.part`` and then moved.

    Raises
    ------
    StructureError
        If the folder cannot be written or the format is unknown.
    """
    path = Path(path)
    structures = [structures] if isinstance(structures, Atoms) else structures
    part = path.with_name(f"{path.name}.part")
    kind = _kind(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.unlink(missing_ok=True)
        if kind == "extxyz":
            with open_text(part, "w", compression=path.suffix) as stream:
                write_extxyz(stream, structures)
        elif kind == "json":
            with open_text(part, "w", compression=path.suffix) as stream:
                write_mdl_json(stream, structures)
        else:
            write_ase(part, path, list(structures))
        os.replace(part, path)
    except OSError as error:
        raise StructureError(f"cannot be written: {error.strerror or error}", file=path) from error
    finally:
        if part.is_file():  # only after a failure
            part.unlink(missing_ok=True)


class _Dataset:
    """A public dataset by name."""

    def __init__(self, name: str) -> None:
        self.name = name


def _kind(path: Path) -> str:
    suffixes = [s.lower() for s in path.suffixes if s.lower() not in {".gz", ".bz2", ".xz"}]
    return {".xyz": "extxyz", ".extxyz": "extxyz", ".json": "json"}.get(suffixes[-1] if suffixes else "", "ase")


def _index(index: str | int | slice) -> int | slice:
    if not isinstance(index, str):
        return index

    try:
        wanted = string2index(index)
    except ValueError:
        wanted = index
    if isinstance(wanted, str):
        raise StructureError(f"{index!r} is not an index or a slice such as ':', '-1' or '0:100:2'", field="index")
    return wanted


def _select(structures: list[Atoms], index: int | slice, name: str) -> tuple[list[int], list[Atoms]]:
    try:
        chosen = range(len(structures))[index]
    except IndexError:
        raise StructureError(f"index {index} is out of range: it has {len(structures)} structures", file=name) from None
    positions = [chosen] if isinstance(chosen, int) else list(chosen)
    return positions, [structures[k] for k in positions]


def _items(source: Source) -> list[Atoms | Path | str | _Dataset]:
    """Every file, dataset and structure a source stands for; globs expanded in sorted order."""
    if isinstance(source, Atoms):
        return [source]
    if not isinstance(source, str | Path):
        try:
            parts = list(source)
        except TypeError:
            raise StructureError(f"cannot read structures from a {type(source).__name__}") from None
        if not parts:
            raise StructureError("an empty list of sources")
        return [item for part in parts for item in _items(part)]
    text = str(source)
    if text == "demo":
        return ["demo"]
    if text.startswith("load-atoms:"):
        return [_Dataset(text.removeprefix("load-atoms:").strip())]
    path = Path(text).expanduser()
    if any(c in text for c in "*?[") and not path.exists():
        found = [Path(p) for p in sorted(globbing.glob(str(path), recursive=True)) if not p.endswith(".part")]  # noqa: PTH207 - absolute patterns, too
        files = [p for p in found if p.is_file()]
        if not files:
            raise StructureError("no file matches this pattern", file=text)
        return list(files)
    return [path]


def _stem(path: Path, used: set[str]) -> str:
    """A file's name without suffixes, with its folder's name where that is taken."""
    base = path.name.split(".")[0] or path.name
    for candidate in (base, f"{path.resolve().parent.name}-{base}"):
        if candidate not in used:
            used.add(candidate)
            return candidate
    return f"{path.resolve().parent.name}-{base}"


def _say(source: Source) -> str:
    if isinstance(source, str | Path):
        return str(source)
    if isinstance(source, Atoms):
        return "<memory>"
    words = ["<memory>" if isinstance(s, Atoms) else str(s) for s in source]
    return ", ".join(words[:3]) + (f", ... ({len(words)} sources)" if len(words) > 3 else "")


def _check_keys(structures: list[Atoms], file: str, **keys: str | None) -> None:
    """A key the user asked for must exist somewhere, or it is a misspelling."""
    for name, key in keys.items():
        if key is not None and not any(has_label(atoms, name) for atoms in structures):
            there = ", ".join(available_keys(structures[0]))
            raise StructureError(f"no structure has it as {name}; the first one has: {there}", file=file, field=key)


def _check_required(structures: list[Atoms], origins: list[tuple[str, int]], require: Sequence[str]) -> None:
    for name in require:
        if name not in LABEL_NAMES:
            raise StructureError(f"{name!r} is not a label ({', '.join(LABEL_NAMES)})", field="require")
        missing = [k for k, atoms in enumerate(structures) if not has_label(atoms, name)]
        if missing:
            first = missing[0]
            raise StructureError(
                f"required, but {len(missing)} of {len(structures)} structures have none "
                f"(first: position {origins[first][1]}; keys there: {', '.join(available_keys(structures[first]))})",
                file=origins[first][0],
                structure=structures[first].info["structure_id"],
                field=name,
            )
