"""``EAM_Interaction``: the paper's EAM as a model that MatDeepLearn trains.

The parameters are entries of their own, in the layout of the released
checkpoints; the numbers are those of :class:`mdl_physpretrain.potentials.EAM`,
whose analytic forces and stress are used (training differentiates once, not
twice). The neighbour list is ours: all pairs within the cutoff, whatever
``edge_calc_method``, ``n_neighbors`` and ``num_offsets`` say.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from matdeeplearn.common.registry import registry
from matdeeplearn.models.base_model import BaseModel
from torch import Tensor, nn

from mdl_physpretrain.errors import CheckpointError, ConfigError
from mdl_physpretrain.hosts.matdeeplearn.checkpoint import state_of
from mdl_physpretrain.hosts.matdeeplearn.data import batch_of
from mdl_physpretrain.hosts.matdeeplearn.eam_layout import eam_from_layout, symbols_of
from mdl_physpretrain.hosts.matdeeplearn.paths import newest
from mdl_physpretrain.potentials.base import predict
from mdl_physpretrain.potentials.checkpoint import FORMAT, load_model
from mdl_physpretrain.potentials.eam.model import EAM, ELEMENT_PARAMETERS, PAIR_PARAMETERS
from mdl_physpretrain.potentials.safe_load import load_foreign

__all__ = ["EAMTerm", "EAM_Interaction", "WithEAM", "read_eam"]

_Host: Any = nn.Module if TYPE_CHECKING else object

PARAMETERS = PAIR_PARAMETERS + ELEMENT_PARAMETERS
RANDOM_SPREAD = 0.3  # of init_mode "random": parameters are multiplied by exp(N(0, spread^2))


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
    init_mode
        ``"ones"`` (the paper's: ones, but ``rm`` the sum of covalent radii),
        ``"random"`` (those times a random factor), or a checkpoint of an EAM:
        ours (``.pt``) or of ``EAM_Interaction``.
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
        freeze_params: bool | Sequence[str] = False,
    ) -> None:
        super().__init__()
        symbols = symbols_of(atom_types)
        start = _start(symbols, cutoff, n_basis, init_mode)
        self.eam_params = _Parameters(start)
        self.kernel = EAM(symbols, cutoff=cutoff, n_basis=start.hparams["n_basis"], core=False)
        for name in PARAMETERS:  # the kernel's own are replaced at every call
            del self.kernel._parameters[name]
        for name in _frozen(freeze_params):
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


class WithEAM(_Host):
    """Gives a model of MatDeepLearn an EAM; the keys of both ``state_dict`` s stay as they are.

    Parameters
    ----------
    atom_types, n_basis, init_mode, freeze_params
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
        freeze_params: bool | Sequence[str] = False,
        cutoff_radius: float = 8.0,
        **kwargs: Any,
    ) -> None:
        if not atom_types:
            raise ConfigError("model.atom_types is required: the elements of the dataset, e.g. [Si, O]")
        super().__init__(cutoff_radius=cutoff_radius, **kwargs)
        term = EAMTerm(
            atom_types, cutoff=cutoff_radius, n_basis=n_basis, init_mode=init_mode, freeze_params=freeze_params
        )
        self._term = [term]  # not a submodule: its parts are here under the released names
        self.eam_params, self.kernel = term.eam_params, term.kernel

    def eam(self, data: Any) -> dict[str, Tensor | None]:
        """Energies (B, 1), forces (N, 3) and stress (B, 3, 3) of the EAM alone."""
        return self._term[0](data, gradient=self.gradient, create_graph=self.training and torch.is_grad_enabled())


@registry.register_model("EAM_Interaction")
class EAM_Interaction(WithEAM, BaseModel):  # noqa: N801 - the released name
    """The paper's EAM inside MatDeepLearn; ``state_dict`` keys are ``eam_params.param_dict.<parameter>.<number>``."""

    @property
    def target_attr(self) -> str:
        """Name of the label in a batch."""
        return "y"

    def forward(self, data: Any) -> dict[str, Tensor | None]:
        """Energies (B, 1), forces (N, 3), stress (B, 3, 3)."""
        return self.eam(data)


def read_eam(path: str | Path, atom_types: Sequence[str | int] | None = None, cutoff: float | None = None) -> EAM:
    """An EAM from our checkpoint, or from one of ``EAM_Interaction``, which needs ``atom_types`` and ``cutoff``.

    ``path`` may be a pattern, of which the newest match is taken. Raises CheckpointError.
    """
    path = newest(path)
    content = load_foreign(path)
    if isinstance(content, dict) and content.get("format") == FORMAT:
        eam = load_model(path, expect="eam")
        assert isinstance(eam, EAM)
        return eam
    if atom_types is None or cutoff is None:
        raise CheckpointError(f"{path}: a checkpoint of EAM_Interaction needs atom_types and a cutoff to be read")
    return eam_from_layout(state_of(content, str(path)), atom_types, cutoff=cutoff, source=str(path))


def _start(symbols: list[str], cutoff: float, n_basis: int, init_mode: str) -> EAM:
    if init_mode in ("ones", "random"):
        eam = EAM(symbols, cutoff=cutoff, n_basis=n_basis, core=False)
        if init_mode == "random":
            with torch.no_grad():
                for parameter in eam.parameters():
                    parameter.mul_(torch.exp(RANDOM_SPREAD * torch.randn_like(parameter)))
        return eam
    if not str(init_mode).endswith((".pt", ".ckpt")):
        raise ConfigError(f"init_mode must be 'ones', 'random' or a checkpoint (.pt), not {init_mode!r}")
    eam = read_eam(init_mode, symbols, cutoff)
    if eam.elements != symbols:
        raise CheckpointError(f"{init_mode}: its elements are {eam.elements}, not atom_types {symbols} in this order")
    if abs(eam.cutoff - cutoff) > 1e-9:
        raise CheckpointError(f"{init_mode}: its cutoff is {eam.cutoff:g} Å, cutoff_radius is {cutoff:g} Å")
    if eam.core is not None:
        raise CheckpointError(
            f"{init_mode}: this EAM has a ZBL core, for which EAM_Interaction has no place: "
            "fit it with preset 'paper' (physpretrain fit-eam --preset paper)"
        )
    return eam.float()


def _frozen(parameters: bool | Sequence[str]) -> list[str]:
    if parameters is True:
        return list(PARAMETERS)
    names = [parameters] if isinstance(parameters, str) else list(parameters or ())
    unknown = [n for n in names if n not in PARAMETERS]
    if unknown:
        raise ConfigError(f"freeze_params: unknown {', '.join(map(str, unknown))}; known: {', '.join(PARAMETERS)}")
    return names
