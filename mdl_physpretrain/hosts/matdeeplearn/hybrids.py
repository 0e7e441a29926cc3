"""``E = E_MLIP + E_EAM`` (Appendix B) with MatDeepLearn's own networks, in the layout of the paper's authors.

The EAM is ``model.eam_potential``; the options are theirs (``eam_args``,
``load_trained_eam``, ``freeze_eam``). The paper fits the EAM first:
``load_trained_eam`` names its checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch_geometric.nn
from matdeeplearn.common.registry import registry
from matdeeplearn.models.cgcnn import CGCNN
from matdeeplearn.models.torchmd_etEarly import TorchMD_ET_Early
from torch import Tensor, nn

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.hosts.matdeeplearn.eam_model import EAMTerm
from mdl_physpretrain.hosts.matdeeplearn.hybrid_options import eam_options

__all__ = ["CGCNN_EAM", "TorchMD_EAM"]

_Host: Any = nn.Module if TYPE_CHECKING else object


class _Hybrid(_Host):
    """Gives a network of MatDeepLearn an EAM.

    Parameters
    ----------
    eam_args
        Of :class:`~mdl_physpretrain.hosts.matdeeplearn.eam_model.EAMTerm`:
        ``atom_types``, ``n_basis``, ``init_mode``, ``init_args``,
        ``freeze_params``, and ``cutoff_radius`` where it is not 8 Å.
    load_trained_eam
        Checkpoint (or pattern) of the EAM to begin with.
    freeze_eam
        Train the network alone.
    atom_types, n_basis, init_mode, freeze_params
        The same as words of the section ``model`` itself, instead of
        ``eam_args``; ``init_mode`` may be a checkpoint.
    cutoff_radius
        Of the network, Å.
    **kwargs
        Of the network.
    """

    def __init__(
        self,
        *args: Any,
        cutoff_radius: float = 8.0,
        eam_args: Mapping[str, Any] | None = None,
        load_trained_eam: str | None = None,
        freeze_eam: bool = False,
        atom_types: Sequence[str | int] | None = None,
        n_basis: int | None = None,
        init_mode: str | None = None,
        freeze_params: bool | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        words = {"atom_types": atom_types, "n_basis": n_basis, "init_mode": init_mode, "freeze_params": freeze_params}
        options = eam_options(cutoff_radius, eam_args, load_trained_eam, freeze_eam, words)
        super().__init__(*args, cutoff_radius=cutoff_radius, **kwargs)
        self.eam_potential = EAMTerm(**options)

    def eam(self, data: Any) -> dict[str, Tensor | None]:
        """Energies (B, 1), forces (N, 3) and stress (B, 3, 3) of the EAM alone."""
        create_graph = self.training and torch.is_grad_enabled()
        return self.eam_potential(data, gradient=self.gradient, create_graph=create_graph)

    def forward(self, data: Any) -> dict[str, Tensor | None]:
        """Energies (B, 1), forces (N, 3), stress (B, 3, 3) of both together."""
        eam = self.eam(data)  # before the network strains data
        network = super().forward(data)
        return {
            key: None if network[key] is None or eam[key] is None else network[key] + eam[key]
            for key in ("output", "pos_grad", "cell_grad")
        }


@registry.register_model("CGCNN_EAM")
class CGCNN_EAM(_Hybrid, CGCNN):  # noqa: N801 - MatDeepLearn's way of naming
    """MatDeepLearn's CGCNN plus an EAM."""


@registry.register_model("TorchMD_EAM")
class TorchMD_EAM(_Hybrid, TorchMD_ET_Early):  # noqa: N801 - MatDeepLearn's way of naming
    """MatDeepLearn's ``torchmd_etEarly`` plus an EAM; unlike there ``pool_order`` counts, ``late`` by default."""

    def __init__(self, *args: Any, pool: str = "global_mean_pool", pool_order: str = "late", **kwargs: Any) -> None:
        if pool_order not in ("early", "late"):
            raise ConfigError(f"model.pool_order must be 'early' or 'late', not {pool_order!r}")
        super().__init__(*args, pool=pool, **kwargs)
        self.pool_order = pool_order

    def _forward(self, data: Any) -> Tensor:
        """As the host's; late: its read-out of every atom, then the pool."""
        if self.pool_order == "early":
            return super()._forward(data)
        self.prediction_level = "node"
        try:
            atoms = super()._forward(data)
        finally:
            self.prediction_level = "graph"
        with torch.set_grad_enabled(torch.is_grad_enabled() or bool(self.gradient)):  # validation takes forces, too
            return getattr(torch_geometric.nn, self.pool)(atoms, data.batch)
