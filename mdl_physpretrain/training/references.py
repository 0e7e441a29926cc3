"""Reference energies of a network, and their shift to the labels of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from ase import Atoms
from ase.data import atomic_numbers

from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.error_metrics import batches_of, evaluate
from mdl_physpretrain.recipe import Teacher
from mdl_physpretrain.structures import get_labels, reference_energies, set_labels
from mdl_physpretrain.structures.labels import Labels

__all__ = ["is_another_energy_scale", "refit_reference_energies", "shift_reference_energies"]


def is_another_energy_scale(teacher: Any, *, anchor: bool) -> bool:
    """Whether labels are of another code than the data, whose energies per element are then not theirs.

    A model (or section ``teacher`` without a calculator) was fitted to data, an ASE calculator was not.
    """
    fitted = teacher.calculator is None if isinstance(teacher, Teacher) else isinstance(teacher, EnergyModel)
    return not fitted and not anchor


def shift_reference_energies(model: EnergyModel, structures: Sequence[Atoms]) -> None:
    """Fit a model's energies per element to labels, leaving its forces as they are.

    The teacher's energy scale need not be that of the reference (a foreign
    calculator may differ by eV per atom); what a network learned from it about
    forces stays true. Models without ``reference_energies`` are left alone.

    Parameters
    ----------
    model
        Changed in place.
    structures
        With reference energies.
    """
    table: Any = next((t for name, t in model.named_buffers() if name.endswith("reference_energies")), None)
    labelled = [a for a in structures if get_labels(a).energy is not None]
    if table is None or not labelled:
        return
    model.eval()
    with torch.no_grad():
        energies = torch.cat([model(b) for b in batches_of(labelled, model.cutoff, 16, model.dtype)]).double().tolist()
    residuals = []
    for atoms, energy in zip(labelled, energies, strict=True):
        reference = get_labels(atoms).energy
        assert reference is not None
        residuals.append(set_labels(atoms.copy(), Labels(reference - energy, None, None)))
    for symbol, shift in reference_energies(residuals).items():
        table[atomic_numbers[symbol]] += shift


def refit_reference_energies(model: EnergyModel, structures: Sequence[Atoms], val: Sequence[Atoms]) -> bool:
    """Fit a trained model's energies per element anew, if energies of validation structures gain by it.

    In a total error that weighs energies little, training can leave all of them off by a constant per element.

    Parameters
    ----------
    model
        Changed in place, or left as it is.
    structures
        Of the training.
    val
        Those whose mean absolute error of energies per atom must become smaller.

    Returns
    -------
    bool
        Whether it was changed.
    """
    refitted = deepcopy(model)
    shift_reference_energies(refitted, structures)
    before, after = (evaluate(each, val)["energy_per_atom_mae"] for each in (model, refitted))
    if not after < before:
        return False
    model.load_state_dict(refitted.state_dict())
    return True
