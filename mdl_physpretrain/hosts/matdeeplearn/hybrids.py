"""``E = E_MLIP + E_EAM`` (Appendix B) with MatDeepLearn's own networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from matdeeplearn.common.registry import registry
from matdeeplearn.models.cgcnn import CGCNN
from matdeeplearn.models.torchmd_etEarly import TorchMD_ET_Early
from torch import Tensor

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.hosts.matdeeplearn.eam_model import EAMTerm

__all__ = ["CGCNN_EAM", "TorchMD_EAM"]

_Host: Any = torch.nn.Module if TYPE_CHECKING else object


class _WithEAM(_Host):
    """Adds an EAM to a network of MatDeepLearn; the keys of both ``state_dict`` s stay as they are.

    Parameters
    ----------
    atom_types, n_basis, init_mode, freeze_params
        Of the EAM, see :class:`mdl_physpretrain.hosts.matdeeplearn.eam_model.EAMTerm`;
        the paper fits it first: give its checkpoint as ``init_mode``.
    **kwargs
        Of the network.
    """

    def __init__(
        self,
        *,
        atom_types: Sequence[str | int] | None = None,
        n_basis: int = 10,
        init_mode: str = "ones",
        freeze_params: bool | Sequence[str] = False,
        **kwargs: Any,
    ) -> None:
        if not atom_types:
            raise ConfigError("model.atom_types is required: the elements of the dataset, e.g. [Si, O]")
        super().__init__(**kwargs)
        term = EAMTerm(
            atom_types,
            cutoff=kwargs["cutoff_radius"],
            n_basis=n_basis,
            init_mode=init_mode,
            freeze_params=freeze_params,
        )
        self.eam_params, self.kernel = term.eam_params, term.kernel
        self._term = [term]  # not a submodule: its parts are already here under the released names

    def forward(self, data: Any) -> dict[str, Tensor | None]:
        """Energies (B, 1), forces (N, 3), stress (B, 3, 3) of both together."""
        create_graph = self.training and torch.is_grad_enabled()
        eam = self._term[0](data, gradient=self.gradient, create_graph=create_graph)  # before the network strains data
        network = super().forward(data)
        return {
            key: None if network[key] is None or eam[key] is None else network[key] + eam[key]
            for key in ("output", "pos_grad", "cell_grad")
        }


@registry.register_model("CGCNN_EAM")
class CGCNN_EAM(_WithEAM, CGCNN):  # noqa: N801 - MatDeepLearn's way of naming
    """MatDeepLearn's CGCNN plus an EAM."""


@registry.register_model("TorchMD_EAM")
class TorchMD_EAM(_WithEAM, TorchMD_ET_Early):  # noqa: N801 - MatDeepLearn's way of naming
    """MatDeepLearn's ``torchmd_etEarly`` plus an EAM."""
