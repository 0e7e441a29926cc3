"""Sums of models: ``E = E_MLIP + E_EAM`` (Appendix B) or ``E_MLIP + E_ZBL``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.graphs.batch import AtomicBatch
from mdl_physpretrain.potentials.base import EnergyModel, within_cutoff
from mdl_physpretrain.potentials.registry import construct_model, register_model

__all__ = ["Sum"]


@register_model("sum")
class Sum(EnergyModel):
    """Energy of several models added up.

    Parameters
    ----------
    parts
        The models, or descriptions ``{"model": name, "hparams": {...}}``
        from a checkpoint.
    frozen
        Indices of parts whose parameters are not trained.
    factors
        What the energy of each part is multiplied by; 1 by default.
    """

    def __init__(
        self,
        parts: Sequence[EnergyModel | dict],
        *,
        frozen: Sequence[int] = (),
        factors: Sequence[float] | None = None,
    ) -> None:
        if not parts:
            raise ConfigError("a sum of models needs at least one part")
        models = [p if isinstance(p, EnergyModel) else construct_model(p["model"], p["hparams"]) for p in parts]
        # A short-ranged part must not lengthen the neighbour list: ZBL's range is
        # that of the largest element, far more than most pairs need.
        described = [{"model": m.registry_name, "hparams": m.hparams} for m in models]
        hparams: dict[str, Any] = {"parts": described, "frozen": list(frozen)}
        if factors is not None:
            if len(factors) != len(models):
                raise ConfigError(f"{len(factors)} factors for a sum of {len(models)} parts")
            hparams["factors"] = [float(factor) for factor in factors]
        super().__init__(cutoff=max(m.cutoff for m in models), hparams=hparams)
        self.factors = [1.0] * len(models) if factors is None else hparams["factors"]
        self.parts = torch.nn.ModuleList(models)
        self.fades_at_cutoff = all(m.fades_at_cutoff for m in models)
        for k in frozen:
            if not 0 <= k < len(models):
                raise ConfigError(f"frozen: a sum of {len(models)} parts has no part {k}")
            self.parts[k].requires_grad_(False)

    def known_elements(self) -> set[str] | None:
        limits = [elements for leaf in self.leaves() if (elements := leaf.known_elements()) is not None]
        return set.intersection(*limits) if limits else None

    def leaves(self) -> Iterator[EnergyModel]:
        part: Any
        for part in self.parts:
            yield from part.leaves()

    def energies(self, batch: AtomicBatch, vectors: Tensor) -> Tensor:
        total = vectors.new_zeros(len(batch))
        part: Any
        for part, factor in zip(self.parts, self.factors, strict=True):
            inner, inner_vectors, _ = within_cutoff(batch, vectors, part.cutoff)
            total = total + factor * part.energies(inner, inner_vectors)
        return total

    def energy_and_gradient(
        self, batch: AtomicBatch, vectors: Tensor, *, create_graph: bool = False
    ) -> tuple[Tensor, Tensor]:
        energy, gradient = vectors.new_zeros(len(batch)), torch.zeros_like(vectors)
        part: Any
        for part, factor in zip(self.parts, self.factors, strict=True):
            inner, inner_vectors, keep = within_cutoff(batch, vectors, part.cutoff)
            part_energy, part_gradient = part.energy_and_gradient(inner, inner_vectors, create_graph=create_graph)
            energy = energy + factor * part_energy
            if keep is not None:
                part_gradient = torch.zeros_like(vectors).index_put((keep,), part_gradient)
            gradient = gradient + factor * part_gradient
        return energy, gradient
