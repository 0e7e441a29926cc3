"""``EAM_Interaction``: the paper's EAM as a model that MatDeepLearn trains.

The parameters are entries of their own, in the layout of the released
checkpoints; the numbers are those of :class:`mdl_physpretrain.potentials.EAM`,
whose analytic forces and stress are used (training differentiates once, not
twice). The neighbour list is ours: all pairs within the cutoff, whatever
``edge_calc_method``, ``n_neighbors`` and ``num_offsets`` say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from matdeeplearn.common.registry import registry
from matdeeplearn.models.base_model import BaseModel
from torch import Tensor, nn

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.hosts.matdeeplearn.data import batch_of
from mdl_physpretrain.hosts.matdeeplearn.eam_layout import symbols_of
from mdl_physpretrain.hosts.matdeeplearn.eam_start import PARAMETERS, frozen_parameters, starting_eam
from mdl_physpretrain.potentials.base import predict
from mdl_physpretrain.potentials.eam.model import EAM

__all__ = ["EAMTerm", "EAM_Interaction"]


class _Parameters(nn.Module):
    """The released layout: ``param_dict.<parameter>.<number>``, vectors of length 1 or n_basis."""

    def __init__(self, eam: EAM) -> None:
        super().__init__()
        self.param_dict = nn.ModuleDict()
        for name in PARAMETERS:
            values = getattr(eam, name).detach()
            entries = {str(k): nn.Parameter(v.clone().reshape(-1)) for k, v in enumerate(values)}
            self.param_dict[name] = nn.ParameterDict(entries)

    def stacked(self, name: str) -> Tensor:
        """One parameter of all pairs or elements, shape (n,) or (n, n_basis)."""
        entries: Any = self.param_dict[name]
        values = torch.stack([entries[str(k)] for k in range(len(entries))])
        return values if name in ("A", "beta") else values.squeeze(1)


class EAMTerm(nn.Module):
    """The EAM of a MatDeepLearn model: parameters in the released layout, our kernel.

    Parameters
    ----------
    atom_types
        Symbols or atomic numbers; their order numbers pairs and elements.
    cutoff
        In Å.
    n_basis
        Exponentials in the density.
    init_mode, init_args
        See :func:`~mdl_physpretrain.hosts.matdeeplearn.eam_start.starting_eam`.
    freeze_params
        ``True`` (all), or names of parameters that are not trained.
    """

    def __init__(
        self,
        atom_types: Sequence[str | int],
        *,
        cutoff: float,
        n_basis: int = 10,
        init_mode: str = "ones",
        init_args: Mapping[str, Any] | None = None,
        freeze_params: bool | Sequence[str] = False,
    ) -> None:
        super().__init__()
        symbols = symbols_of(atom_types)
        start = starting_eam(symbols, cutoff=cutoff, n_basis=n_basis, init_mode=init_mode, init_args=init_args)
        self.eam_params = _Parameters(start)
        self.kernel = EAM(symbols, cutoff=cutoff, n_basis=start.hparams["n_basis"], core=False)
        for name in PARAMETERS:  # the kernel's own are replaced at every call
            del self.kernel._parameters[name]
        for name in frozen_parameters(freeze_params):
            self.eam_params.param_dict[name].requires_grad_(False)

    @contextmanager
    def _filled(self) -> Iterator[EAM]:
        try:
            for name in PARAMETERS:
                setattr(self.kernel, name, self.eam_params.stacked(name))
            yield self.kernel
        finally:
            for name in PARAMETERS:
                self.kernel.__dict__.pop(name, None)

    def forward(self, data: Any, *, gradient: bool, create_graph: bool) -> dict[str, Tensor | None]:
        """Energies (B, 1) in eV, forces (N, 3) in eV/Å and stress (B, 3, 3) in eV/Å³ of a host batch."""
        batch = batch_of(data, self.kernel.cutoff)
        with self._filled() as eam:
            if not gradient:
                return {
                    "output": eam(batch).to(batch.positions.dtype).unsqueeze(1),
                    "pos_grad": None,
                    "cell_grad": None,
                }
            with torch.set_grad_enabled(create_graph):
                out = predict(eam, batch, create_graph=create_graph)
        return {"output": out.energy.to(out.forces.dtype).unsqueeze(1), "pos_grad": out.forces, "cell_grad": out.stress}


@registry.register_model("EAM_Interaction")
class EAM_Interaction(BaseModel):  # noqa: N801 - the released name
    """The paper's EAM inside MatDeepLearn; ``state_dict`` keys are ``eam_params.param_dict.<parameter>.<number>``.

    Parameters
    ----------
    atom_types, n_basis, init_mode, init_args, freeze_params
        See :class:`EAMTerm`.
    cutoff_radius
        Of ``preprocess_params``, Å.
    **kwargs
        What MatDeepLearn gives every model; ``gradient: True`` for forces and
        stress.
    """

    def __init__(
        self,
        *,
        atom_types: Sequence[str | int] | None = None,
        n_basis: int = 10,
        init_mode: str = "ones",
        init_args: Mapping[str, Any] | None = None,
        freeze_params: bool | Sequence[str] = False,
        cutoff_radius: float = 8.0,
        **kwargs: Any,
    ) -> None:
        if not atom_types:
            raise ConfigError("model.atom_types is required: the elements of the dataset, e.g. [Si, O]")
        super().__init__(cutoff_radius=cutoff_radius, **kwargs)
        term = EAMTerm(
            atom_types,
            cutoff=cutoff_radius,
            n_basis=n_basis,
            init_mode=init_mode,
            init_args=init_args,
            freeze_params=freeze_params,
        )
        self._term = [term]  # not a submodule: its parts are here under the released names
        self.eam_params, self.kernel = term.eam_params, term.kernel

    @property
    def target_attr(self) -> str:
        """Name of the label in a batch."""
        return "y"

    def forward(self, data: Any) -> dict[str, Tensor | None]:
        """Energies (B, 1), forces (N, 3), stress (B, 3, 3)."""
        return self._term[0](data, gradient=self.gradient, create_graph=self.training and torch.is_grad_enabled())
