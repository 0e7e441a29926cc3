"""Energy, force and stress errors, as the paper's Table 2 states them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from ase import Atoms
from ase.units import GPa
from torch import Tensor

from mdl_physpretrain.graphs.batch import AtomicBatch, build_batch, collate
from mdl_physpretrain.potentials.base import EnergyModel, Prediction, predict
from mdl_physpretrain.structures.reference_energies import references_if_labelled

__all__ = ["ErrorSums", "error_sums", "evaluate", "trivial_errors"]

WEIGHTS = (0.01, 50.0, 50.0)  # energy : forces : stress, Table 2


class ErrorSums:
    """Running sums of absolute errors over batches.

    Missing labels are left out by the masks. The sums can be added up over
    processes, which averages of averages cannot.
    """

    names = ("energy", "energy_per_atom", "forces", "stress")

    def __init__(self) -> None:
        self.sums = torch.zeros(2, 4, dtype=torch.float64)  # absolute errors, counts

    def add(self, out: Prediction, batch: AtomicBatch) -> None:
        """Add the errors of a batch."""
        on_atoms = batch.has_forces[batch.structure]
        error = (out.energy - batch.energy).abs()
        terms = [
            (error, batch.has_energy),
            (error / batch.n_atoms, batch.has_energy),
            ((out.forces - batch.forces).abs(), on_atoms),
            ((out.stress - batch.stress).abs(), batch.has_stress),
        ]
        sums, counts = [], []
        for value, mask in terms:  # on the device of the batch, without waiting for it
            chosen = mask.view(-1, *[1] * (value.dim() - 1)).expand_as(value)
            sums.append(torch.where(chosen, value.detach(), 0).double().sum())
            counts.append(chosen.sum().double())
        self.sums = self.sums.to(sums[0].device) + torch.stack([torch.stack(sums), torch.stack(counts)])

    @classmethod
    def joined(cls, parts: Iterable[ErrorSums]) -> ErrorSums:
        """The sums over all parts."""
        whole = cls()
        for part in parts:
            whole.sums += part.sums.cpu()
        return whole

    def means(self, weights: tuple[float, float, float] = WEIGHTS) -> dict[str, float]:
        """Mean absolute errors (NaN without labels), and their weighted ``total`` over the labels that exist.

        ``energy_mae`` (eV per structure), ``energy_per_atom_mae`` (eV/atom), ``forces_mae`` (eV/Å, per component),
        ``stress_mae`` (eV/Å³, per component), ``stress_mae_gpa`` and ``total``, the sum weighted by
        ``weights`` over the labels that exist: NaN when the error of one of them is, or when there are none.
        """
        total, count = self.sums.cpu()
        mean = torch.where(count > 0, total / count.clamp_min(1), torch.nan)
        errors = {f"{name}_mae": float(m) for name, m in zip(self.names, mean, strict=True)}
        errors["stress_mae_gpa"] = errors["stress_mae"] / GPa
        parts = [(w, mean[k]) for w, k in zip(weights, (0, 2, 3), strict=True) if count[k] > 0]
        errors["total"] = float(sum(w * e for w, e in parts)) if parts else float("nan")
        return errors


def batches_of(structures: Sequence[Atoms], cutoff: float, batch_size: int, dtype: torch.dtype) -> list[AtomicBatch]:
    """Structures as batches of at most ``batch_size``, in order."""
    single = [build_batch(atoms, cutoff, dtype) for atoms in structures]
    return [collate(single[k : k + batch_size]) for k in range(0, len(single), batch_size)]


def evaluate(
    model: EnergyModel,
    structures: Sequence[Atoms],
    *,
    batch_size: int = 16,
    watch: Callable[[Prediction, AtomicBatch, Sequence[Atoms]], None] | None = None,
) -> dict[str, float]:
    """Errors of a model on labelled structures.

    Parameters
    ----------
    model
        Any potential.
    structures
        Labelled; missing labels are left out.
    batch_size
        Structures per pass.
    watch
        Called with the prediction for every batch, the batch and its structures.

    Returns
    -------
    dict
        As :meth:`ErrorSums.means`, with ``n_structures``.
    """
    sums = error_sums(model, structures, batch_size=batch_size, watch=watch)
    return {**sums.means(), "n_structures": len(structures)}


def error_sums(
    model: EnergyModel,
    structures: Sequence[Atoms],
    *,
    batch_size: int = 16,
    watch: Callable[[Prediction, AtomicBatch, Sequence[Atoms]], None] | None = None,
) -> ErrorSums:
    """What :func:`evaluate` takes the means of."""
    was_training = model.training
    model.eval()
    sums = ErrorSums()
    for number, batch in enumerate(batches_of(structures, model.cutoff, batch_size, model.dtype)):
        on_device = batch.to(model.device)
        out = predict(model, on_device)
        sums.add(out, on_device)
        if watch is not None:
            watch(out, on_device, structures[number * batch_size : (number + 1) * batch_size])
    model.train(was_training)
    return sums


def trivial_errors(structures: Sequence[Atoms], references: dict[str, float] | None = None) -> dict[str, float]:
    """Errors of the trivial predictor: reference energies, zero forces and stress.

    Parameters
    ----------
    structures
        Labelled.
    references
        Energy per element in eV; elements without one count as zero. Default: those of ``structures``.
    """
    if references is None:
        references = references_if_labelled(structures)
    sums = ErrorSums()
    for atoms in structures:
        batch = build_batch(atoms, 1.0, torch.float64)  # the labels matter, not the list; tiny cutoffs are slow
        energy: Tensor = torch.tensor([sum(references.get(s, 0.0) for s in atoms.get_chemical_symbols())]).double()
        sums.add(Prediction(energy, torch.zeros_like(batch.forces), torch.zeros_like(batch.stress)), batch)
    return {**sums.means(), "n_structures": len(structures)}
