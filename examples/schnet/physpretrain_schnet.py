"""A network of continuous filters, after SchNet, for mdl-physpretrain.

K. T. Schütt et al., "SchNet -- A deep learning architecture for molecules and
materials", J. Chem. Phys. 148, 241722 (2018). An atom's features change by the
sum over its neighbours of their features times a filter, a network of the
distance alone. Filters end smoothly at the cutoff, so forces do, too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.graphs.batch import AtomicBatch
from mdl_physpretrain.potentials import EnergyModel

LARGEST_NUMBER = 118


class Interaction(nn.Module):
    """Features of the neighbours, filtered by distance, and what an atom makes of their sum.

    Parameters
    ----------
    features, n_gaussians
        Sizes.
    """

    def __init__(self, features: int, n_gaussians: int) -> None:
        super().__init__()
        self.filter = nn.Sequential(nn.Linear(n_gaussians, features), nn.SiLU(), nn.Linear(features, features))
        self.before = nn.Linear(features, features, bias=False)
        self.after = nn.Sequential(nn.Linear(features, features), nn.SiLU(), nn.Linear(features, features))

    def forward(self, x: Tensor, edge_index: Tensor, gaussians: Tensor, envelope: Tensor) -> Tensor:
        """New features (N, features) from old ones, Gaussians (E, n_gaussians) and cutoff function (E, 1)."""
        centre, neighbour = edge_index
        messages = self.before(x).index_select(0, neighbour) * self.filter(gaussians) * envelope
        return x + self.after(torch.zeros_like(x).index_add(0, centre, messages))


class SchNet(EnergyModel):
    """Energies of atoms from continuous-filter convolutions.

    Parameters
    ----------
    cutoff
        Interaction range in Å.
    features
        Size of an atom's features.
    interactions
        Number of convolutions.
    n_gaussians
        Number of Gaussians of the distance.
    """

    offset: Tensor

    def __init__(
        self, *, cutoff: float = 5.0, features: int = 64, interactions: int = 3, n_gaussians: int = 32
    ) -> None:
        hparams = {"cutoff": cutoff, "features": features, "interactions": interactions, "n_gaussians": n_gaussians}
        super().__init__(cutoff, hparams, reference_energies=True)
        if features < 1 or interactions < 1 or n_gaussians < 2:
            raise ConfigError("features and interactions must be at least 1, n_gaussians at least 2")
        self.register_buffer("offset", torch.linspace(0.0, cutoff, n_gaussians))
        self.embedding = nn.Embedding(LARGEST_NUMBER + 1, features)
        self.interactions = nn.ModuleList(Interaction(features, n_gaussians) for _ in range(interactions))
        self.read_out = nn.Sequential(nn.Linear(features, features), nn.SiLU(), nn.Linear(features, 1))

    def energies(self, batch: AtomicBatch, vectors: Tensor) -> Tensor:
        if bool((batch.numbers < 1).any()) or bool((batch.numbers > LARGEST_NUMBER).any()):
            raise StructureError(f"SchNet knows the elements 1 to {LARGEST_NUMBER}", field="numbers")
        r = torch.linalg.vector_norm(vectors, dim=1).unsqueeze(1)
        gaussians = torch.exp(-0.5 * ((r - self.offset) / (self.offset[1] - self.offset[0])).square())
        envelope = 0.5 * (torch.cos(torch.pi * r / self.cutoff) + 1)
        x = self.embedding(batch.numbers)
        for layer in self.interactions:
            x = F.layer_norm(layer(x, batch.edge_index, gaussians, envelope), x.shape[1:])
        atomic = self.read_out(x).squeeze(1)
        return self.total_energy(atomic, batch)
