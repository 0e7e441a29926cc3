"""``E = E_MLIP + E_EAM`` (Appendix B) with MatDeepLearn's own networks.

The paper fits the EAM first: give its checkpoint as ``init_mode``.
"""

from __future__ import annotations

from typing import Any

from matdeeplearn.common.registry import registry
from matdeeplearn.models.cgcnn import CGCNN
from matdeeplearn.models.torchmd_etEarly import TorchMD_ET_Early
from torch import Tensor

from mdl_physpretrain.hosts.matdeeplearn.eam_model import WithEAM

__all__ = ["CGCNN_EAM", "TorchMD_EAM"]


class _Hybrid(WithEAM):
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
    """MatDeepLearn's ``torchmd_etEarly`` plus an EAM."""
