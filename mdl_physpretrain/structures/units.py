"""Units of labels in a file, and what makes eV, eV/Å and eV/Å³ of them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ase import units as ase_units

from mdl_physpretrain.errors import ConfigError

__all__ = ["ENERGIES", "FORCES", "PRESSURES", "LabelUnits"]

#: eV of one.
ENERGIES = {
    "eV": 1.0, "meV": 1e-3, "Hartree": ase_units.Hartree, "Rydberg": ase_units.Rydberg,
    "kcal/mol": ase_units.kcal / ase_units.mol, "kJ/mol": ase_units.kJ / ase_units.mol,
}  # fmt: skip
_LENGTHS = {"Å": 1.0, "Bohr": ase_units.Bohr, "nm": 10.0}
#: eV/Å of one.
FORCES = {f"{e}/{unit}": energy / length for e, energy in ENERGIES.items() for unit, length in _LENGTHS.items()}
#: eV/Å³ of one.
PRESSURES = {
    "Pa": ase_units.Pascal, "MPa": 1e6 * ase_units.Pascal, "GPa": ase_units.GPa, "bar": ase_units.bar,
    "kbar": 1e3 * ase_units.bar,
}  # fmt: skip
PRESSURES |= {
    f"{e}/{unit}^3": energy / length**3 for e, energy in ENERGIES.items() for unit, length in _LENGTHS.items()
}
_SPELLINGS = {
    "ha": "Hartree", "ry": "Rydberg", "a": "Å", "ang": "Å", "angstrom": "Å", "a0": "Bohr", "kb": "kbar",
}  # fmt: skip
_TABLES = {"energy": ENERGIES, "forces": FORCES, "stress": PRESSURES, "virial": ENERGIES}


@dataclass(frozen=True)
class LabelUnits:
    """Factors that turn the labels of a file into eV, eV/Å and eV/Å³ with ASE's sign.

    Attributes
    ----------
    energy, forces, stress, virial
        Factors, negative for the other sign.
    per_atom
        Whether energies are per atom.
    """

    energy: float = 1.0
    forces: float = 1.0
    stress: float = 1.0
    virial: float = 1.0
    per_atom: bool = False

    @classmethod
    def named(cls, names: Mapping[str, str] | None) -> LabelUnits:
        """From names of units.

        Parameters
        ----------
        names
            Of ``energy`` ("eV", "Hartree", "kcal/mol", ..., with "/atom" behind
            it: per atom), ``forces`` ("eV/Å", "Hartree/Bohr", ...), ``stress``
            ("GPa", "kbar", "eV/Å^3", ...) and ``virial`` (as energies). A minus
            in front: the other sign ("-kbar" is VASP's stress).

        Raises
        ------
        ConfigError
            If a label or a unit is unknown; it names the nearest one.
        """
        factors: dict[str, float] = {}
        per_atom = False
        for label, text in (names or {}).items():
            if label not in _TABLES:
                raise ConfigError(f"units: {label!r} is none of {', '.join(_TABLES)}")
            name = str(text).strip()
            sign = -1.0 if name.startswith("-") else 1.0
            name = name.lstrip("-+ ")
            if label == "energy" and re.search(r"/\s*at(om)?$", name, re.IGNORECASE):
                name, per_atom = re.sub(r"\s*/\s*at(om)?$", "", name, flags=re.IGNORECASE), True
            factors[label] = sign * _factor(label, name)
        return cls(**factors, per_atom=per_atom)


def _factor(label: str, name: str) -> float:
    table = _TABLES[label]
    plain = {_plain(unit): value for unit, value in table.items()}
    if (key := _plain(name)) not in plain:
        near = difflib.get_close_matches(name, table, n=1, cutoff=0.3)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"units: {name!r} is no unit of {label}{hint} (such as {', '.join(list(table)[:6])})")
    return plain[key]


def _plain(name: str) -> str:
    """A spelling of a unit that does not depend on case, blanks and the ways to write an exponent."""
    text = name.replace("³", "^3").replace("**", "^").replace(" ", "").replace("Å", "å").replace("Å", "å").lower()
    parts = [re.sub(r"\^?3$", "^3", p) if re.fullmatch(r"[^\d]+\^?3", p) else p for p in text.split("/")]
    whole = []
    for part in parts:
        base, power = (part[:-2], "^3") if part.endswith("^3") else (part, "")
        whole.append(_SPELLINGS.get(base, base).lower() + power)
    return "/".join(whole)
