"""Labels under the names that other codes give them, moved to where ASE keeps them.

Datasets name the same three labels in many ways (``energy``, ``REF_energy``,
``dft_energy``; ``virial`` instead of ``stress``; in ``info``, in ``arrays`` or on
a calculator). :func:`normalise_labels` moves whatever is there onto a
``SinglePointCalculator`` under ASE's names. A label that moves is *removed*
from its old place: a stale copy left behind would be read again as a label
once the structure has been relabelled and written.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.structures.labels import LABEL_NAMES, stored_results
from mdl_physpretrain.structures.units import LabelUnits

__all__ = ["LABEL_ALIASES", "available_keys", "label_names", "normalise_labels", "stored_label"]

UNCHANGED = LabelUnits()
_PREFIXES = ("REF_", "ref_", "DFT_", "dft_")
_VIRIALS = tuple(prefix + name for prefix in ("", *_PREFIXES) for name in ("virial", "virials"))
#: Names tried for each label, in any case and in this order; the first one that is there is used.
LABEL_ALIASES: dict[str, tuple[str, ...]] = {
    "energy": ("energy", *(p + "energy" for p in _PREFIXES), "energy_dft", "total_energy"),
    "forces": ("forces", *(p + n for p in _PREFIXES for n in ("forces", "force")), "force", "forces_dft"),
    "stress": ("stress", *(p + "stress" for p in _PREFIXES), "stress_dft", *_VIRIALS),
}


def _places(atoms: Atoms) -> tuple[dict[str, Any], ...]:
    return stored_results(atoms), atoms.info, atoms.arrays


class _Stored(NamedTuple):
    """One value that may be a label: where it is, under which name."""

    place: dict[str, Any]
    key: str
    value: Any


def _stored(atoms: Atoms, aliases: Sequence[str], *, exact: bool) -> list[_Stored]:
    """Values under one of the names (in any case unless ``exact``), in the order of the names; null ones left out."""
    places = _places(atoms)
    if exact:
        return [_Stored(place, key, place[key]) for key in aliases for place in places if place.get(key) is not None]
    rank = {alias.lower(): k for k, alias in reversed(list(enumerate(aliases)))}
    values = [
        _Stored(place, key, value)
        for place in places
        for key, value in place.items()
        if isinstance(key, str) and key.lower() in rank and value is not None
    ]
    return sorted(values, key=lambda stored: (rank[stored.key.lower()], stored.key not in aliases))


def _is_null(value: Any) -> bool:
    return isinstance(value, str) and value.strip().lower() in {"", "none", "null", "nan", "n/a"}


def _is_truth(value: Any) -> bool:
    return isinstance(value, bool | np.bool_) or (isinstance(value, np.ndarray) and value.dtype.kind == "b")


def available_keys(atoms: Atoms) -> list[str]:
    """Names a label of this structure could be stored under, for error messages."""
    keys = {key for place in _places(atoms) for key in place}
    return sorted(str(key).removeprefix("other_") for key in keys - {"numbers", "positions", "structure_id"})


def _as_label(
    atoms: Atoms, name: str, key: str, value: Any, units: LabelUnits = UNCHANGED
) -> float | np.ndarray | None:
    """A stored value in ASE's form: float, (n, 3), Voigt (6,); None if it cannot be formed."""
    try:
        if isinstance(value, str) and "_" in value:  # Python's 1_000
            raise ValueError
        array = np.asarray(value, dtype=np.float64)
    except (OverflowError, TypeError, ValueError):
        raise StructureError(f"{str(value)[:40]!r} is not numeric", field=key) from None
    if name == "energy":
        if array.size != 1:
            raise StructureError(f"shape {array.shape} where one number was expected", field=key)
        return float(array.reshape(())) * units.energy * (len(atoms) if units.per_atom else 1)
    if name == "forces":
        if array.size != 3 * len(atoms):
            raise StructureError(f"shape {array.shape} instead of ({len(atoms)}, 3)", field=key)
        return array.reshape(len(atoms), 3) * units.forces
    if array.size == 9:
        array = full_3x3_to_voigt_6_stress(array.reshape(3, 3))
    elif array.size != 6:
        raise StructureError(f"shape {array.shape} instead of (6,) or (3, 3)", field=key)
    array = array.reshape(6)
    if "virial" in key.lower():
        volume = abs(float(np.linalg.det(atoms.cell.array)))
        # Virial W = -V * stress; without a volume there is no stress to speak of.
        return -array * units.virial / volume if volume > 1e-6 else None
    return array * units.stress


def stored_label(
    atoms: Atoms, name: str, *, key: str | None = None, units: LabelUnits = UNCHANGED
) -> float | np.ndarray | None:
    """A label where it is, under ``key`` or any usual name, in eV and Å; ``None`` without one of the right shape."""
    for _, alias, raw in _stored(atoms, (key,) if key else LABEL_ALIASES[name], exact=key is not None):
        if not (_is_truth(raw) or _is_null(raw)):
            try:
                return _as_label(atoms, name, alias, raw, units)
            except StructureError:
                if key is not None:
                    raise
    return None


def label_names(atoms: Atoms) -> dict[str, str]:
    """The usual name under which each label is there, by label; before :func:`normalise_labels` moves them."""
    stored = {label: _stored(atoms, aliases, exact=False) for label, aliases in LABEL_ALIASES.items()}
    return {label: values[0].key for label, values in stored.items() if values}


def _set_aside(atoms: Atoms, name: str, key: str, raw: Any) -> None:
    """Keep a label that is not used where nobody takes it for one."""
    if name == "forces":
        atoms.arrays[f"other_{key}"] = np.asarray(raw)
    else:
        atoms.info[f"other_{key}"] = raw


def normalise_labels(
    atoms: Atoms,
    *,
    energy_key: str | None = None,
    forces_key: str | None = None,
    stress_key: str | None = None,
    nan_labels: Literal["keep", "missing"] = "keep",
    units: LabelUnits = UNCHANGED,
    file: str | Path | None = None,
) -> Atoms:
    """Move a structure's labels (in place) to a ``SinglePointCalculator``.

    Parameters
    ----------
    atoms
        Labels may be on the calculator, in ``info`` or in ``arrays``.
    energy_key, forces_key, stress_key
        Use exactly this key, and no other, for the label (one under the usual
        name is set aside as ``other_<name>``); by default the
        names of :data:`LABEL_ALIASES` are tried. A key with "virial" in its
        name is a virial in eV and gives ``stress = -virial / volume``. Stresses
        are in eV/Å³ with ASE's sign, (3, 3), (9,) or Voigt (6,).
    nan_labels
        "keep" labels with NaN (checks refuse them later), or take them for "missing".
    units
        Of the stored labels.
    file
        Named in errors.

    Raises
    ------
    StructureError
        If a label is not numeric or of a wrong shape.

    Notes
    -----
    Names count in any case (``Energy``, ``Virial``). Several names or places of one
    label that disagree: the first in the order of :data:`LABEL_ALIASES`, on the
    calculator before ``info`` before ``arrays``, is used with a warning and the
    other is kept in ``info``/``arrays`` as ``other_<key>``. What is true or false
    is no label. Only when no energy is found,
    ``free_energy`` is used.
    """
    explicit = {"energy": energy_key, "forces": forces_key, "stress": stress_key}
    results = dict(stored_results(atoms))
    identifier = atoms.info.get("structure_id")
    labels: dict[str, Any] = {}
    try:
        for name in LABEL_NAMES:
            key = explicit[name]
            if key is not None and key != name:
                for unwanted in _stored(atoms, (name,), exact=True):
                    _set_aside(atoms, name, name, unwanted.place.pop(unwanted.key))
            used = None
            for place, alias, raw in _stored(atoms, (key,) if key else LABEL_ALIASES[name], exact=key is not None):
                if _is_truth(raw):
                    if key is not None:
                        raise StructureError(f"{raw} is not numeric", field=alias)
                    warnings.warn(f"{file or 'structures'}: {alias!r} is {raw}, which is no {name}", stacklevel=2)
                    continue
                del place[alias]
                value = None if _is_null(raw) else _as_label(atoms, name, alias, raw, units)
                if value is None:
                    if not _is_null(raw):
                        atoms.info[alias] = raw
                elif nan_labels == "missing" and np.isnan(value).any():
                    continue
                elif used is None:
                    used, labels[name] = alias, value
                elif not np.allclose(labels[name], value, rtol=1e-5, atol=1e-5, equal_nan=True):
                    _set_aside(atoms, name, alias, raw)
                    both = f"{used!r} and {alias!r} differ" if used != alias else f"two values of {alias!r} differ"
                    warnings.warn(
                        f"{file or 'structures'}: {both}; the first is taken as the {name} (choose with {name}_key)",
                        stacklevel=2,
                    )
    except StructureError as error:
        raise error.at(file=file, structure=identifier) from error
    if "energy" not in labels and energy_key is None and results.get("free_energy") is not None:
        labels["energy"] = _as_label(atoms, "energy", "free_energy", results["free_energy"], units)
    ours = {*LABEL_NAMES, *explicit.values()}
    foreign = {key: value for key, value in stored_results(atoms).items() if value is not None and key not in ours}
    atoms.calc = SinglePointCalculator(atoms, **foreign, **labels) if foreign or labels else None
    return atoms
