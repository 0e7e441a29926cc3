"""Reading structures from anything: files, patterns, datasets that have a name, and lists of these."""

from __future__ import annotations

import glob as globbing
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.files import nameable
from mdl_physpretrain.structures.datasets import SHIPPED, demo_structures, load_public
from mdl_physpretrain.structures.formats import read_file
from mdl_physpretrain.structures.identifiers import unique_ids
from mdl_physpretrain.structures.label_keys import available_keys, label_names, normalise_labels
from mdl_physpretrain.structures.labels import LABEL_NAMES, has_label, missing_labels, stored_results
from mdl_physpretrain.structures.selection import parse_index, selected_positions
from mdl_physpretrain.structures.units import LabelUnits
from mdl_physpretrain.structures.validation import refuse_damaged

__all__ = ["LABEL_OPTIONS", "Check", "LabelOptions", "Source", "read_structures"]


@dataclass(frozen=True)
class LabelOptions:
    """How labels are called and what units they have, for everything that is read meanwhile (a command's options).

    ``duplicates`` as of :func:`read_structures`.
    With ``count_missing`` what is read is told how many structures lack a label that others have.
    Structures that this package labelled (``info["label_source"]``) are read by the usual names.
    """

    energy_key: str | None = None
    forces_key: str | None = None
    stress_key: str | None = None
    nan_labels: Literal["keep", "missing"] | None = None
    units: Mapping[str, str] = field(default_factory=dict)
    count_missing: bool = False
    duplicates: Literal["error", "rename"] = "error"
    names: dict[str, Counter[str]] | None = None  # filled with the names under which each label is read

    def keys(self) -> dict[str, Any]:
        """Options of :func:`~mdl_physpretrain.structures.label_keys.normalise_labels` that are given."""
        names = ("energy_key", "forces_key", "stress_key", "nan_labels")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


LABEL_OPTIONS: ContextVar[LabelOptions] = ContextVar("LABEL_OPTIONS", default=LabelOptions())  # noqa: B039 - frozen

#: What is refused where structures are read: atoms and cells that no potential can be asked about, or labels, too.
Check: TypeAlias = Literal["nothing", "atoms", "labels"]

Source: TypeAlias = "str | Path | Atoms | Sequence[Source]"
_PUBLIC = "load-atoms:"


def read_structures(
    source: Source,
    *,
    index: str | int | slice = ":",
    energy_key: str | None = None,
    forces_key: str | None = None,
    stress_key: str | None = None,
    require: Sequence[str] = (),
    duplicates: Literal["error", "rename"] | None = None,
    nan_labels: Literal["keep", "missing"] | None = None,
    units: Mapping[str, str] | None = None,
    datasets_root: str | Path | None = None,
    check: Check = "nothing",
    files: dict[str, str] | None = None,
) -> list[Atoms]:
    """Structures with their labels on a calculator and a unique identifier.

    Parameters
    ----------
    source
        A file that ASE reads (extxyz, db, traj, vasp, ...), a MatDeepLearn
        JSON list, a glob pattern, ``"demo"`` or ``"demo-silica"`` (the shipped data),
        ``"load-atoms:<name>"`` (a public dataset, e.g. ``load-atoms:P-GAP-20``),
        structures, or a list of all these.
    index
        Which structures of each file, as in ``ase.io.read``.
    energy_key, forces_key, stress_key
        Names of the labels where they are unusual, see
        :func:`~mdl_physpretrain.structures.label_keys.normalise_labels`.
    require
        Labels ("energy", "forces", "stress") that every structure must have, once all are seen to be sound.
        Otherwise missing labels are simply missing (masked in batches).
    duplicates
        "error" (default), or "rename" the later structure of the same identifier.
    nan_labels
        Take labels with NaN for "missing", or "keep" them (default), to be refused by ``check="labels"`` or the checks
        before training.
    units
        Of the labels in the files, see :meth:`~mdl_physpretrain.structures.units.LabelUnits.named`;
        structures in memory are in eV and Å.
    datasets_root
        Folder of public datasets: a file ``<name>.extxyz`` (or .xyz, .json,
        .db, .traj) there is read instead of downloading, and load-atoms
        keeps its files there. Default: ``$PHYSPRETRAIN_DATASETS`` or load-atoms'
        own (``~/.load-atoms``).
    check
        Refuse structures whose "atoms" or cell cannot be used, or whose "labels" cannot either, while it is known
        which file they are from. With ``require`` labels are checked.
    files
        Filled with the file of each identifier, for who checks some of the structures only
        (:func:`~mdl_physpretrain.structures.validation.refuse_damaged`).

    Returns
    -------
    list of ase.Atoms
        ``info["structure_id"]`` is a unique string; where a file has none it
        is ``<stem>-<position in the file>``.

    Raises
    ------
    StructureError
        When nothing matches, a file cannot be read or is damaged, a label is
        malformed or required and missing, two structures share an
        identifier, or one does not pass ``check`` (see
        :func:`~mdl_physpretrain.structures.validate_structures`); with file and structure.
    """
    structures: list[Atoms] = []
    origins: list[tuple[str, int]] = []
    generated: list[str] = []
    stems: set[str] = set()
    selection = parse_index(index)
    chosen = LABEL_OPTIONS.get()
    keywords = {"energy_key": energy_key, "forces_key": forces_key, "stress_key": stress_key, "nan_labels": nan_labels}
    explicit: dict[str, Any] = {k: v for k, v in keywords.items() if v is not None}
    of_files = LabelUnits.named(chosen.units if units is None else units)
    for item in _items(source):
        if isinstance(item, Atoms):
            name, stem, positions, frames = "<memory>", "structure", [len(structures)], [item.copy()]
            if item.calc is not None:  # its own copy: reading moves labels
                frames[0].calc = SinglePointCalculator(frames[0], **stored_results(item))
        elif isinstance(item, Path):
            name, stem = str(item), _stem(item, stems)
            positions, frames = read_file(item, selection)
        else:
            stem = item.removeprefix(_PUBLIC).strip()
            name = item if item in SHIPPED else f"{_PUBLIC}{stem}"
            dataset = demo_structures(item) if item in SHIPPED else load_public(stem, root=datasets_root)
            positions = selected_positions(len(dataset), selection, name)
            frames = [dataset[k] for k in positions]
        for position, atoms in zip(positions, frames, strict=True):
            if chosen.names is not None:
                for label, name_there in label_names(atoms).items():
                    chosen.names.setdefault(label, Counter())[name_there] += 1
            try:
                normalise_labels(
                    atoms,
                    **(explicit if "label_source" in atoms.info else chosen.keys() | explicit),
                    units=LabelUnits() if isinstance(item, Atoms) or "label_source" in atoms.info else of_files,
                    file=name,
                )
            except StructureError as error:
                raise error.at(structure=position) from error
            structures.append(atoms)
            origins.append((name, position))
            generated.append(f"{stem}-{position}")
    if not structures:
        raise StructureError("there is no structure in it", file=_described(source))
    foreign = [atoms for atoms in structures if "label_source" not in atoms.info]
    requested = chosen.keys() | explicit if foreign else explicit
    for name, key in ((label, requested.get(f"{label}_key")) for label in LABEL_NAMES):
        # a key the user asked for must exist somewhere, or it is a misspelling
        if key is not None and not any(has_label(atoms, name) for atoms in structures):
            keys = ", ".join(available_keys(structures[0]))
            message = f"no structure has it as {name}; the first one has: {keys}"
            raise StructureError(message, file=_described(source), field=key)
    unique_ids(structures, origins=origins, generated=generated, duplicates=duplicates or chosen.duplicates)
    pairs = zip(structures, origins, strict=True)
    named = {atoms.info["structure_id"]: file for atoms, (file, _) in pairs if file != "<memory>"}
    if files is not None:
        files |= named
    if check not in get_args(Check):
        raise ConfigError(f"check must be one of {', '.join(get_args(Check))}, not {check!r}")
    if require or check != "nothing":
        refuse_damaged(structures, labels=check == "labels" or bool(require), files=named)
    _check_required(structures, origins, require)
    if chosen.count_missing:
        for message in missing_labels(structures, partly=True):
            warnings.warn(f"{_described(source)}: {message}", stacklevel=2)
    return structures


def _items(source: Source) -> list[Atoms | Path | str]:
    """Every structure, file and name of a dataset that a source stands for; patterns expanded in sorted order."""
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
    if text in SHIPPED or text.startswith(_PUBLIC):
        return [text]
    try:
        path = nameable(text)
    except ConfigError as error:
        raise StructureError(str(error)) from None
    if any(c in text for c in "*?[") and not path.exists():
        matches = sorted(globbing.glob(str(path), recursive=True))  # noqa: PTH207 - absolute patterns, too
        files: list[Atoms | Path | str] = [Path(p) for p in matches if not p.endswith(".part") and Path(p).is_file()]
        if not files:
            raise StructureError("no file matches this pattern", file=text)
        return files
    return [path]


def _stem(path: Path, used: set[str]) -> str:
    """A file's name without suffixes, with its folder's name where that is taken."""
    base = path.name.split(".")[0] or path.name
    for candidate in (base, f"{path.resolve().parent.name}-{base}"):
        if candidate not in used:
            used.add(candidate)
            return candidate
    return f"{path.resolve().parent.name}-{base}"


def _described(source: Source) -> str:
    if isinstance(source, str | Path):
        return str(source)
    if isinstance(source, Atoms):
        return "<memory>"
    words = ["<memory>" if isinstance(s, Atoms) else str(s) for s in source]
    return ", ".join(words[:3]) + (f", ... ({len(words)} sources)" if len(words) > 3 else "")


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
