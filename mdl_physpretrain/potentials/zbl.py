"""Ziegler-Biersack-Littmark repulsion, switched off before bonding distances.

It is the core of the default teacher and, as a fixed term, of a student
(``E = E_MLIP + E_ZBL``).

References
----------
J. F. Ziegler, J. P. Biersack, U. Littmark, *The Stopping and Range of Ions in
Matter* (Pergamon, 1985).
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from ase.data import atomic_numbers, covalent_radii
from torch import Tensor

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.graphs.batch import AtomicBatch
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.registry import register_model
from mdl_physpretrain.potentials.switch import quintic_switch
from mdl_physpretrain.potentials.zbl_kernel import SCREENING, SCREENING_DECAYS, SMALLEST_CORE_R

__all__ = ["ZBL", "inverse_length", "zbl_pair"]

COULOMB = 14.399645478  # e^2 / (4 pi eps0) in eV Å
LARGEST_RADIUS = float(np.float32(covalent_radii[:119].max()))

Number = TypeVar("Number", float, Tensor)


def inverse_length(zi: Number, zj: Number) -> Number:
    """Inverse of the screening length of two nuclei in 1/Å, of charges or tensors of them."""
    return (zi**0.23 + zj**0.23) / 0.46850


def zbl_pair(r: Tensor, zi: Tensor, zj: Tensor, inner: Tensor, outer: Tensor) -> tuple[Tensor, Tensor]:
    """Energy (eV) and derivative (eV/Å) of pairs at ``r`` (Å), switched off from ``inner`` to ``outer``.

    All shape (E,).
    """
    r = r.clamp_min(SMALLEST_CORE_R)
    per_length = inverse_length(zi, zj)
    x = r * per_length
    screening = torch.zeros_like(r)
    slope = torch.zeros_like(r)
    for c, d in zip(SCREENING, SCREENING_DECAYS, strict=True):
        term = c * torch.exp(-d * x)
        screening = screening + term
        slope = slope - d * per_length * term
    coulomb = COULOMB * zi * zj / r
    switch, switch_slope = quintic_switch(r, inner, outer)
    energy = coulomb * screening
    derivative = coulomb * slope - energy / r
    return energy * switch, derivative * switch + energy * switch_slope


@register_model("zbl")
class ZBL(EnergyModel):
    """Fixed ZBL repulsion between all pairs; no trainable parameters.

    Parameters
    ----------
    inner, outer
        Full strength below, and nothing above, these multiples of the sum of
        the covalent radii.
    ends
        Where the repulsion of single pairs, such as ``"Li-O"``, ends instead,
        in Å; full strength is reached in the same proportion.
    """

    end: Tensor
    role = "core"
    fades_at_cutoff = True

    def __init__(self, *, inner: float = 0.5, outer: float = 0.95, ends: dict[str, float] | None = None) -> None:
        if not 0 <= inner < outer:
            raise ConfigError(f"ZBL needs 0 <= inner < outer, not inner={inner}, outer={outer}")
        radii = torch.as_tensor(covalent_radii[:119]).float()
        super().__init__(cutoff=2 * outer * LARGEST_RADIUS, hparams={"inner": inner, "outer": outer, "ends": ends})
        self.inner_share = inner / outer
        end = outer * (radii.unsqueeze(0) + radii.unsqueeze(1))
        for pair, distance in (ends or {}).items():
            a, b = (atomic_numbers[s] for s in pair.split("-"))
            end[a, b] = end[b, a] = distance
        self.register_buffer("end", end, persistent=False)

    def core_of(self, zi: int, zj: int) -> tuple[float, float, float, float]:
        """What :func:`~mdl_physpretrain.potentials.zbl_kernel.zbl` takes after the distance for two nuclei."""
        end = float(self.end[zi, zj])
        return COULOMB * zi * zj, inverse_length(float(zi), float(zj)), self.inner_share * end, end

    def pair_terms(self, numbers_i: Tensor, numbers_j: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """Energy (eV) and derivative (eV/Å) of pairs of atomic numbers at ``r``."""
        end = self.end[numbers_i, numbers_j].to(r.dtype)
        zi, zj = numbers_i.to(r.dtype), numbers_j.to(r.dtype)
        return zbl_pair(r, zi, zj, self.inner_share * end, end)

    def energies(self, batch: AtomicBatch, vectors: Tensor) -> Tensor:
        r = torch.linalg.vector_norm(vectors, dim=1)
        numbers_i, numbers_j = batch.numbers[batch.edge_index]
        structure = batch.edge_structure
        if r.device.type == "cpu":  # few edges are near: spare the others the exponentials; a GPU would have to wait
            near = torch.nonzero(r.detach() < self.end[numbers_i, numbers_j]).squeeze(1)
            numbers_i, numbers_j, r, structure = numbers_i[near], numbers_j[near], r[near], structure[near]
        energy, _ = self.pair_terms(numbers_i, numbers_j, r)
        return r.new_zeros(len(batch)).index_add(0, structure, 0.5 * energy)
