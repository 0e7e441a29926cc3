"""The EAM as a ``state_dict`` of ``EAM_Interaction``, the layout the paper's authors released.

Every parameter is an entry of its own: ``eam_params.param_dict.D.0`` is a
vector of length 1, ``eam_params.param_dict.A.0`` one of the number of
exponentials. Pairs are numbered ``combinations(atom_types, 2)`` first, then the
self pairs, as in :class:`mdl_physpretrain.potentials.EAM`; elements are numbered in
the order of ``atom_types``. The formula is that of our EAM without a core.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from ase.data import atomic_numbers, chemical_symbols
from torch import Tensor

from mdl_physpretrain.errors import CheckpointError, ConfigError
from mdl_physpretrain.potentials.eam.model import EAM, ELEMENT_PARAMETERS, PAIR_PARAMETERS

__all__ = [
    "HYBRID_PREFIX",
    "PREFIX",
    "eam_from_layout",
    "eam_to_layout",
    "split_hybrid",
    "symbols_of",
]

PREFIX = "eam_params.param_dict."
HYBRID_PREFIX = "eam_potential."  # of the EAM in a network with one; earlier versions of the plugin had none
BASIS_PARAMETERS = ("A", "beta")
_KEY = re.compile(r"^(?P<name>[A-Za-z0-9_]+)\.(?P<index>[A-Za-z0-9]+)$")


def split_hybrid(state_dict: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor], bool]:
    """Entries of the network and of the EAM in it, and whether they are in the layout of the paper's authors.

    The other layout is that of earlier versions of the plugin: no prefix.
    """
    bare = {k.removeprefix(HYBRID_PREFIX): v for k, v in state_dict.items()}
    eam = {k: v for k, v in bare.items() if k.startswith(PREFIX)}
    network = {k: v for k, v in state_dict.items() if k.removeprefix(HYBRID_PREFIX) not in eam}
    return network, eam, any(k.startswith(HYBRID_PREFIX) for k in state_dict)


def symbols_of(atom_types: Sequence[str | int]) -> list[str]:
    """Chemical symbols of ``atom_types``, symbols or atomic numbers; raises ConfigError."""
    symbols = []
    for entry in atom_types:
        # YAML 1.1 reads an unquoted No (nobelium) as false
        name = "No" if entry is False else entry
        number = atomic_numbers.get(name, 0) if isinstance(name, str) and not name.isdigit() else name
        try:
            number = int(number)
        except (TypeError, ValueError):
            number = 0
        if entry is True or not 1 <= number < len(chemical_symbols):
            raise ConfigError(f"atom_types: {entry!r} is neither a chemical symbol nor an atomic number")
        symbols.append(chemical_symbols[number])
    return symbols


def eam_to_layout(eam: EAM, *, drop_core: bool = False) -> dict[str, Tensor]:
    """Parameters of an EAM as a ``state_dict`` of ``EAM_Interaction``, its ``elements`` as ``atom_types``.

    The layout has no place for a ZBL core: with ``drop_core`` the result is another potential at short distances, else
    CheckpointError is raised.
    """
    if eam.core is not None and not drop_core:
        raise CheckpointError(
            "this EAM has a ZBL core and the layout of EAM_Interaction has none: "
            "fit one with preset 'paper', or drop the core (--drop-core) and lose its short-range repulsion"
        )
    layout = {}
    for name in PAIR_PARAMETERS + ELEMENT_PARAMETERS:
        for index, value in enumerate(getattr(eam, name).detach()):
            layout[f"{PREFIX}{name}.{index}"] = value.clone().reshape(-1)
    return layout


def eam_from_layout(
    state_dict: Mapping[str, Tensor],
    atom_types: Sequence[str | int],
    *,
    cutoff: float = 8.0,
    source: str = "state_dict",
) -> EAM:
    """An EAM (without a core, in evaluation mode) with the parameters of ``EAM_Interaction``; ``cutoff`` in Å.

    Keys of elements may be numbers in the order of ``atom_types``, symbols or atomic numbers; the order is that of the
    configuration that the checkpoint was made with, and decides which pair is which. Raises CheckpointError if entries
    are missing, too many, or of the wrong length.
    """
    symbols = symbols_of(atom_types)
    entries = _entries(state_dict, source)
    lengths = {len(v) for name in BASIS_PARAMETERS for v in entries.get(name, {}).values()}
    if len(lengths) != 1:
        raise CheckpointError(f"{source}: the vectors of A and beta have lengths {sorted(lengths)}, not one length")
    eam = EAM(symbols, cutoff=cutoff, n_basis=lengths.pop(), core=False)
    eam = eam.to(next(iter(entries["A"].values())).dtype)
    for name in PAIR_PARAMETERS + ELEMENT_PARAMETERS:
        slots = getattr(eam, name).data.unbind(0)
        vectors = _ordered(entries.get(name, {}), len(slots), symbols if name in ELEMENT_PARAMETERS else [])
        if vectors is None:
            kind, keys = "elements" if name in ELEMENT_PARAMETERS else "pairs", sorted(entries.get(name, {}))
            raise CheckpointError(
                f"{source}: {PREFIX}{name} has entries for {len(keys)} {kind} ({', '.join(keys)}), "
                f"but atom_types {symbols} has {len(slots)} {kind}"
            )
        for index, (slot, vector) in enumerate(zip(slots, vectors, strict=True)):
            if vector.numel() != slot.numel():
                raise CheckpointError(
                    f"{source}: {PREFIX}{name}.{index} has {vector.numel()} values, expected {slot.numel()}"
                )
            slot.copy_(vector.reshape(slot.shape))
    eam.metadata = {"elements": symbols}
    return eam.eval()


def _entries(state_dict: Mapping[str, Tensor], source: str) -> dict[str, dict[str, Tensor]]:
    """Vectors by parameter name and the text of their index."""
    entries: dict[str, dict[str, Tensor]] = {}
    strange = []
    for key, value in state_dict.items():
        bare = key.removeprefix("module.")
        match = _KEY.match(bare.removeprefix(PREFIX)) if bare.startswith(PREFIX) else None
        if match is None or match["name"] not in PAIR_PARAMETERS + ELEMENT_PARAMETERS:
            strange.append(key)
        else:
            entries.setdefault(match["name"], {})[match["index"]] = torch.as_tensor(value).detach().cpu().reshape(-1)
    if strange or "A" not in entries:
        raise CheckpointError(
            f"{source}: not the layout of EAM_Interaction ("
            + (f"unknown entries {', '.join(strange[:5])}" if strange else f"no entries {PREFIX}A.*")
            + ")"
        )
    return entries


def _ordered(entries: Mapping[str, Tensor], count: int, symbols: list[str]) -> list[Tensor] | None:
    """Entries in order of their number, symbol or atomic number; ``None`` where they are not all there."""
    numbers = {str(k): k for k in range(count)}
    if set(entries) != set(numbers):
        numbers = {key: k for k, symbol in enumerate(symbols) for key in (symbol, str(atomic_numbers[symbol]))}
    ordered = {numbers[key]: vector for key, vector in entries.items() if key in numbers}
    return [ordered[k] for k in range(count)] if len(ordered) == len(entries) == count else None
