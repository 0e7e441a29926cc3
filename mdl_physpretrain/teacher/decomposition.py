"""Errors of an EAM's pair part and of its embedding, each alone (Fig. 2)."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pandas as pd
import torch
from ase import Atoms

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.potentials.eam.model import EAM
from mdl_physpretrain.potentials.error_metrics import batches_of, evaluate, trivial_errors
from mdl_physpretrain.structures.labels import Labels, get_labels, set_labels
from mdl_physpretrain.structures.reference_energies import reference_energies

__all__ = ["eam_decomposition"]

COLUMNS = ["part", "energy_mae", "forces_mae", "stress_mae", "total"]


def eam_decomposition(eam: EAM, structures: Sequence[Atoms]) -> pd.DataFrame:
    """Errors of an EAM's pair part (with its core) alone, of its embedding alone, and of both (Fig. 2, section 2.2.2).

    A part alone misses what the other adds to the energy of every atom. So that this constant does not decide, the
    atomic energies are fitted anew for each part, the whole included, by least squares to the structures' energies;
    nothing else is fitted. The trivial predictor is such atomic energies alone, with zero forces and stress. Columns:
    ``part`` (``"morse"``, ``"embedding"``, ``"full"``, ``"trivial"``), ``energy_mae`` (eV per structure),
    ``forces_mae`` (eV/Å), ``stress_mae`` (eV/Å³), ``total``. Raises ConfigError if the potential is no EAM,
    StructureError without energies.
    """
    if not isinstance(eam, EAM):
        raise ConfigError(f"only an EAM has a pair part and an embedding, not {type(eam).__name__}")
    parts = {"morse": _without(eam, "B"), "embedding": _without(eam, "D"), "full": _without(eam)}
    rows = []
    for part, model in parts.items():
        _refit(model, structures)
        rows.append({"part": part, **evaluate(model, structures)})
    rows.append({"part": "trivial", **trivial_errors(structures)})
    return pd.DataFrame(rows)[COLUMNS]


def _without(eam: EAM, parameter: str | None = None) -> EAM:
    """A copy in double precision in which one part is switched off by its prefactor."""
    model = copy.deepcopy(eam).double().cpu()
    with torch.no_grad():
        if parameter is not None:
            getattr(model, parameter).zero_()
    if parameter == "D":
        model.core = None
    return model


def _refit(model: EAM, structures: Sequence[Atoms]) -> None:
    """Set the atomic energies to their least-squares values."""
    labelled = [atoms for atoms in structures if get_labels(atoms).energy is not None]
    with torch.no_grad():
        model.base_atomic_energy.zero_()
        energies = [e for b in batches_of(labelled, model.cutoff, 16, model.dtype) for e in model(b).tolist()]
    residuals = []
    for atoms, energy in zip(labelled, energies, strict=True):
        residuals.append(set_labels(atoms.copy(), Labels((get_labels(atoms).energy or 0.0) - energy)))
    with torch.no_grad():
        for symbol, energy in reference_energies(residuals).items():
            model.base_atomic_energy[model.elements.index(symbol)] = energy
