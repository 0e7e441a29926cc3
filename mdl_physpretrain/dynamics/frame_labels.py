"""Energy, forces and stress that the frames of a trajectory carry."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.structures.label_keys import available_keys, stored_label
from mdl_physpretrain.structures.labels import LABEL_NAMES
from mdl_physpretrain.structures.reading import LABEL_OPTIONS
from mdl_physpretrain.structures.units import LabelUnits

__all__ = ["FrameLabels"]


class FrameLabels:
    """Labels of one frame after the other, under the names and in the units that a command was given.

    Attributes
    ----------
    energy
        Of the last frame in eV, shape (1,), or ``None``.
    forces
        In eV/Å, shape (n, 3), or ``None``.
    finite
        Whether its labels are.
    """

    def __init__(self, source: str) -> None:
        self.source, options = source, LABEL_OPTIONS.get()
        self.keys = {name: getattr(options, f"{name}_key") for name in LABEL_NAMES}
        self.units, self.ignores_nan = LabelUnits.named(options.units), options.nan_labels == "missing"
        self.restart()

    def restart(self) -> None:
        """Begin with a first frame."""
        self.energy: np.ndarray | None = None
        self.forces: np.ndarray | None = None
        self.finite = True
        self._absent = {name: key for name, key in self.keys.items() if key is not None}
        self._names: list[str] = []

    def read(self, atoms: Atoms) -> bool:
        """Take the labels of a frame; whether its stress is finite, if it has one."""
        labels = {name: stored_label(atoms, name, key=key, units=self.units) for name, key in self.keys.items()}
        for name in [name for name in self._absent if labels[name] is not None]:
            del self._absent[name]
        if self._absent and not self._names:
            self._names = available_keys(atoms)
        if self.ignores_nan:
            labels = {k: None if v is None or np.isnan(v).any() else v for k, v in labels.items()}
        energy, forces, stress = (labels[name] for name in ("energy", "forces", "stress"))
        self.energy = None if energy is None else np.array([energy], dtype=np.float64)
        self.forces = None if forces is None else np.array(forces, dtype=np.float64)
        self.finite = all(value is None or bool(np.isfinite(value).all()) for value in labels.values())
        return stress is None or bool(np.isfinite(stress).all())

    def refuse_absent(self) -> None:
        """Raise StructureError if no frame had a label under the name that was given for it."""
        for name, key in self._absent.items():
            names = ", ".join(self._names) or "nothing"
            raise StructureError(f"no frame has {key!r} (there is {names})", file=self.source, field=f"{name}_key")
