"""Predictions beside reference values: energies per atom, components of forces and stress."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from ase import Atoms
from torch import Tensor

from mdl_physpretrain.graphs.batch import AtomicBatch
from mdl_physpretrain.potentials.base import Prediction

__all__ = ["COLUMNS", "Predictions"]

MAX_ROWS = 10_000  # of each quantity; the errors are those of all
COLUMNS = ("quantity", "structure_id", "atom", "axis", "reference", "predicted", "of")
DECIMALS = {"energy_per_atom": 6, "forces": 6, "stress": 8}
AXES = ("x", "y", "z")
STRESSES = (("xx", 0, 0), ("yy", 1, 1), ("zz", 2, 2), ("yz", 1, 2), ("xz", 0, 2), ("xy", 0, 1))


class Predictions:
    """Collects what a potential predicts for labelled structures; missing labels are left out."""

    def __init__(self) -> None:
        self._parts: dict[str, list[pd.DataFrame]] = {quantity: [] for quantity in DECIMALS}
        self._ids: list[str] = []

    def add(self, out: Prediction, batch: AtomicBatch, structures: Sequence[Atoms]) -> None:
        """Add a batch of these structures."""
        number = np.arange(len(structures)) + len(self._ids)
        self._ids += [str(a.info.get("structure_id", a.get_chemical_formula())) for a in structures]
        n_atoms, owner = _host(batch.n_atoms), _host(batch.structure)
        atom = np.arange(len(owner)) - (np.cumsum(n_atoms) - n_atoms)[owner]
        has_energy, has_forces, has_stress = (_host(x) for x in (batch.has_energy, batch.has_forces, batch.has_stress))
        energies = ((_host(x) / n_atoms)[has_energy] for x in (batch.energy, out.energy))
        self._keep("energy_per_atom", number[has_energy], None, "", *energies)
        moved = has_forces[owner]
        forces = [_host(x)[moved] for x in (batch.forces, out.forces)]
        for k, axis in enumerate(AXES):
            self._keep("forces", number[owner][moved], atom[moved], axis, *(x[:, k] for x in forces))
        stresses = [_host(x)[has_stress] for x in (batch.stress, out.stress)]
        for axis, i, j in STRESSES:
            self._keep("stress", number[has_stress], None, axis, *(x[:, i, j] for x in stresses))

    def _keep(
        self, quantity: str, number: np.ndarray, atom: Any, axis: str, reference: np.ndarray, predicted: np.ndarray
    ) -> None:
        if len(number):
            part = {"number": number, "atom": atom, "axis": axis, "reference": reference, "predicted": predicted}
            self._parts[quantity].append(pd.DataFrame(part))

    def table(self) -> pd.DataFrame:
        """Rows of all quantities.

        Returns
        -------
        pandas.DataFrame
            ``quantity`` (``energy_per_atom`` in eV, ``forces`` in eV/Å, ``stress`` in eV/Å³), ``structure_id``,
            ``atom`` (its index), ``axis``, ``reference, predicted``, and ``of``: how many components there are. Of more
            than 10,000 a random choice, which is the same for every potential.
        """
        tables = []
        for quantity, parts in self._parts.items():
            if not parts:
                continue
            # not in the order of batches, which the choice must not depend on
            table = pd.concat(parts).sort_values(["number", "atom", "axis"], ignore_index=True)
            total = len(table)
            if total > MAX_ROWS:
                table = table.iloc[np.sort(np.random.default_rng(0).choice(total, MAX_ROWS, replace=False))]
            ids = np.array(self._ids, dtype=object)[table["number"]]
            table = table.assign(quantity=quantity, structure_id=ids, of=total, atom=table["atom"].astype("Int64"))
            values = ["reference", "predicted"]
            table[values] = table[values].round(DECIMALS[quantity])
            tables.append(table[list(COLUMNS)])
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(COLUMNS))


def _host(values: Tensor) -> np.ndarray:
    return values.detach().cpu().numpy()
