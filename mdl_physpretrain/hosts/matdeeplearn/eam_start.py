"""With which parameters an EAM begins: ones, a random draw, the start modes of the paper's authors, or a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ase.data import atomic_numbers

from mdl_physpretrain.errors import CheckpointError, ConfigError
from mdl_physpretrain.hosts.matdeeplearn.checkpoint import state_of
from mdl_physpretrain.hosts.matdeeplearn.eam_layout import eam_from_layout, symbols_of
from mdl_physpretrain.hosts.matdeeplearn.paths import newest
from mdl_physpretrain.potentials.checkpoint import load_model
from mdl_physpretrain.potentials.checkpoint_file import is_native
from mdl_physpretrain.potentials.eam.model import EAM, ELEMENT_PARAMETERS, PAIR_PARAMETERS
from mdl_physpretrain.potentials.safe_load import load_foreign

__all__ = ["PARAMETERS", "START_MODES", "frozen_parameters", "read_eam", "starting_eam"]

PARAMETERS = PAIR_PARAMETERS + ELEMENT_PARAMETERS
START_MODES = ("ones", "random", "constant", "covalent_radius", "custom")
RANDOM_SPREAD = 0.3  # of "random": parameters are multiplied by exp(N(0, spread^2))
ARGUMENTS = {"constant": {"constant_value"}, "covalent_radius": {"scale"}}  # of init_args

#: Single-bond covalent radii of the elements 1 to 118 in pm (Pyykkö and Atsumi, Chem. Eur. J. 15, 186, 2009), which
#: "covalent_radius" means in the authors' code; our own "ones" takes those of ASE (Cordero et al., 2008).
PYYKKO_RADII = (
    32, 46, 133, 102, 85, 75, 71, 63, 64, 67, 155, 139, 126, 116, 111, 103, 99, 96, 196, 171, 148, 136, 134,
    122, 119, 116, 111, 110, 112, 118, 124, 121, 121, 116, 114, 117, 210, 185, 163, 154, 147, 138, 128, 125,
    125, 120, 128, 136, 142, 140, 140, 136, 133, 131, 232, 196, 180, 163, 176, 174, 173, 172, 168, 169, 168,
    167, 166, 165, 164, 170, 162, 152, 146, 137, 131, 129, 122, 123, 124, 133, 144, 144, 151, 145, 147, 142,
    223, 201, 186, 175, 169, 170, 171, 172, 166, 166, 168, 168, 165, 167, 173, 176, 161, 157, 149, 143, 141,
    134, 129, 128, 121, 122, 136, 143, 162, 175, 165, 157,
)  # fmt: skip


def starting_eam(
    symbols: list[str],
    *,
    cutoff: float,
    n_basis: int = 10,
    init_mode: str = "ones",
    init_args: Mapping[str, Any] | None = None,
) -> EAM:
    """An EAM without a core, with the parameters that training begins with.

    Parameters
    ----------
    symbols
        Elements, in the order of ``atom_types``.
    cutoff
        In Å.
    n_basis
        Exponentials in the density.
    init_mode
        ``"ones"`` (the paper's: ones, but ``rm`` the sum of ASE's covalent
        radii), ``"random"`` (those times a random factor); of the authors'
        code ``"constant"`` (all equal to ``constant_value``, 1),
        ``"covalent_radius"`` (ones, but ``rm`` the sum of Pyykkö's radii times
        ``scale``, 1) and ``"custom"`` (ones, but what ``init_args`` says by
        pair and element); or a checkpoint of an EAM.
    init_args
        Of the authors' modes: ``{constant_value: 0.5}``, ``{scale: 0.9}``,
        ``{Si-O: {rm: 1.6}, Si: {B: 0.1}}``.

    Raises
    ------
    ConfigError
        If a mode, an argument or a name in it is unknown.
    CheckpointError
        If a checkpoint is of another EAM.
    """
    if init_mode not in START_MODES and not str(init_mode).endswith((".pt", ".ckpt")):
        raise ConfigError(f"init_mode must be {', '.join(START_MODES)} or a checkpoint (.pt), not {init_mode!r}")
    args = dict(init_args or {})
    if init_mode != "custom" and (strange := sorted(map(str, set(args) - ARGUMENTS.get(init_mode, set())))):
        raise ConfigError(f"init_args: init_mode {init_mode!r} has no {', '.join(strange)}")
    if init_mode not in START_MODES:
        return _from_checkpoint(init_mode, symbols, cutoff)
    eam = EAM(symbols, cutoff=cutoff, n_basis=n_basis, core=False)
    if init_mode == "ones":
        return eam
    with torch.no_grad():
        if init_mode == "random":
            for parameter in eam.parameters():
                parameter.mul_(torch.exp(RANDOM_SPREAD * torch.randn_like(parameter)))
            return eam
        for name in PARAMETERS:
            getattr(eam, name).fill_(args.get("constant_value", 1.0) if init_mode == "constant" else 1.0)
        if init_mode == "covalent_radius":
            radii = [PYYKKO_RADII[atomic_numbers[s] - 1] * 0.01 * args.get("scale", 1.0) for s in symbols]
            for index, (a, b) in enumerate(_pairs(symbols)):
                eam.rm[index] = radii[a] + radii[b]
        elif init_mode == "custom":
            for key, values in args.items():
                _set(eam, symbols, str(key), values)
    return eam


def frozen_parameters(parameters: bool | Sequence[str]) -> list[str]:
    """Names of the parameters that are not trained, of ``True`` (all) or a list.

    Raises
    ------
    ConfigError
        If a name is unknown.
    """
    if parameters is True:
        return list(PARAMETERS)
    names = [parameters] if isinstance(parameters, str) else list(parameters or ())
    if unknown := [n for n in names if n not in PARAMETERS]:
        raise ConfigError(f"freeze_params: unknown {', '.join(map(str, unknown))}; known: {', '.join(PARAMETERS)}")
    return names


def read_eam(path: str | Path, atom_types: Sequence[str | int] | None = None, cutoff: float | None = None) -> EAM:
    """An EAM from our checkpoint, or from one of ``EAM_Interaction``.

    Parameters
    ----------
    path
        A ``.pt`` file, or a pattern of which the newest match is taken.
    atom_types, cutoff
        Needed for checkpoints of ``EAM_Interaction``, which hold neither.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged, or holds another model.
    """
    path = newest(path)
    content = load_foreign(path)
    if is_native(content):
        eam = load_model(path, expect="eam")
        assert isinstance(eam, EAM)
        return eam
    if atom_types is None or cutoff is None:
        raise CheckpointError(f"{path}: a checkpoint of EAM_Interaction needs atom_types and a cutoff to be read")
    return eam_from_layout(state_of(content, str(path)), atom_types, cutoff=cutoff, source=str(path))


def _from_checkpoint(path: str, symbols: list[str], cutoff: float) -> EAM:
    eam = read_eam(path, symbols, cutoff)
    if eam.elements != symbols:
        raise CheckpointError(f"{path}: its elements are {eam.elements}, not atom_types {symbols} in this order")
    if abs(eam.cutoff - cutoff) > 1e-9:
        raise CheckpointError(f"{path}: its cutoff is {eam.cutoff:g} Å, cutoff_radius is {cutoff:g} Å")
    if eam.core is not None:
        raise CheckpointError(
            f"{path}: this EAM has a ZBL core, for which EAM_Interaction has no place: "
            "fit it with preset 'paper' (physpretrain fit-eam --preset paper)"
        )
    return eam.float()


def _pairs(symbols: list[str]) -> list[tuple[int, int]]:
    """Elements of every pair by the number of the pair."""
    n = len(symbols)
    return [(a, b) for a in range(n) for b in range(a + 1, n)] + [(a, a) for a in range(n)]


def _set(eam: EAM, symbols: list[str], key: str, values: Any) -> None:
    """Set the parameters that ``init_args`` gives for a pair or an element."""
    ends = symbols_of(key.split("-"))
    names = PAIR_PARAMETERS if len(ends) == 2 else ELEMENT_PARAMETERS
    if len(ends) > 2 or any(e not in symbols for e in ends):
        raise ConfigError(f"init_args: {key!r} is no element or pair of atom_types {symbols}")
    if not isinstance(values, Mapping) or (strange := [n for n in values if n not in names]):
        wrong = f"no {', '.join(map(str, strange))}" if isinstance(values, Mapping) else f"not {values!r}"
        raise ConfigError(f"init_args: {key} takes values of {', '.join(names)}, {wrong}")
    places = sorted(symbols.index(e) for e in ends)
    index = _pairs(symbols).index((places[0], places[-1])) if len(ends) == 2 else places[0]
    for name, value in values.items():
        try:
            getattr(eam, name)[index] = float(value)
        except (TypeError, ValueError):
            raise ConfigError(f"init_args: {key}.{name} must be a number, not {value!r}") from None
