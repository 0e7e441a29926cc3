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
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.structures.labels import LABEL_NAMES, stored_results

__all__ = ["LABEL_ALIASES", "available_keys", "normalise_labels"]

_PREFIXES = ("REF_", "ref_", "DFT_", "dft_")
_VIRIALS = tuple(prefix + name for prefix in ("", *_PREFIXES) for name in ("virial", "virials"))
#: Names tried for each label, in this order; the first one found is used.
LABEL_ALIASES: dict[str, tuple[str, ...]] = {
    "energy": ("energy", *(p + "energy" for p in _PREFIXES), "energy_dft", "total_energy"),
    "forces": ("forces", *(p + n for p in _PREFIXES for n in ("forces", "force")), "force", "forces_dft"),
    "stress": ("stress", *(p + "stress" for p in _PREFIXES), "stress_dft", *_VIRIALS),
}


def _places(atoms: Atoms) -> tuple[dict[str, Any], ...]:
    return stored_results(atoms), atoms.info, atoms.arrays


def _take(atoms: Atoms, key: str) -> Any:
    """Remove ``key`` wherever it is and return its value; None when absent or null."""
    value = None
    for place in _places(atoms):
        removed = place.pop(key, None)
        value = removed if value is None else value
    empty = isinstance(value, str) and value.strip().lower() in {"", "none", "null", "nan", "n/a"}
    return None if empty else value


def available_keys(atoms: Atoms) -> list[str]:
    """Names a label of this structure could be stored under, for error messages."""
    keys = {key for place in _places(atoms) for key in place}
    return sorted(str(key).removeprefix("other_") for key in keys - {"numbers", "positions", "structure_id"})


def _as_label(atoms: Atoms, name: str, key: str, value: Any) -> float | np.ndarray | None:
    """A stored value in ASE's form: float, (n, 3), Voigt (6,); None if it cannot be formed."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise StructureError(f"{str(value)[:40]!r} is not numeric", field=key) from None
    if name == "energy":
        if array.size != 1:
            raise StructureError(f"shape {array.shape} where one number was expected", field=key)
        return float(array.reshape(()))
    if name == "forces":
        if array.size != 3 * len(atoms):
            raise StructureError(f"shape {array.shape} instead of ({len(atoms)}, 3)", field=key)
        return array.reshape(len(atoms), 3)
    if array.size == 9:
        array = full_3x3_to_voigt_6_stress(array.reshape(3, 3))
    elif array.size != 6:
        raise StructureError(f"shape {array.shape} instead of (6,) or (3, 3)", field=key)
    array = array.reshape(6)
    if "virial" in key.lower():
        volume = abs(float(np.linalg.det(atoms.cell.array)))
        # Virial W = -V * stress; without a volume there is no stress to speak of.
        return -array / volume if volume > 1e-6 else None
    return array


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
    file
        Named in errors.

    Raises
    ------
    StructureError
        If a label is not numeric or of a wrong shape.

    Notes
    -----
    Several names for one label that disagree: the first in the order of
    :data:`LABEL_ALIASES` is used with a warning and the other is kept in
    ``info``/``arrays`` as ``other_<key>``. Only when no energy is found,
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
                unwanted = _take(atoms, name)
                if unwanted is not None:
                    _set_aside(atoms, name, name, unwanted)
            used = None
            for alias in (key,) if key is not None else LABEL_ALIASES[name]:
                raw = _take(atoms, alias)
                if raw is None:
                    continue
                value = _as_label(atoms, name, alias, raw)
                if value is None:
                    atoms.info[alias] = raw
                elif used is None:
                    used, labels[name] = alias, value
                elif not np.allclose(labels[name], value, rtol=1e-5, atol=1e-5, equal_nan=True):
                    _set_aside(atoms, name, alias, raw)
                    warnings.warn(
                        f"{file or 'structures'}: {used!r} and {alias!r} differ; {used!r} is taken as the {name} "
                        f"(choose with {name}_key)",
                        stacklevel=2,
                    )
    except StructureError as error:
        raise error.at(file=file, structure=identifier) from error
    if "energy" not in labels and energy_key is None and results.get("free_energy") is not None:
        labels["energy"] = float(results["free_energy"])
    ours = {*LABEL_NAMES, *explicit.values()}
    foreign = {key: value for key, value in results.items() if value is not None and key not in ours}
    atoms.calc = SinglePointCalculator(atoms, **foreign, **labels) if foreign or labels else None
    return atoms
