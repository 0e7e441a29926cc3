"""Identity of a training, which a ``last.ckpt`` must have to be resumed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from ase import Atoms

from mdl_physpretrain.errors import CheckpointError
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.identity import potential_fingerprint
from mdl_physpretrain.recipe import Training
from mdl_physpretrain.structures.fingerprint import structure_hash

__all__ = ["refuse_other_training", "training_identity"]

#: A longer training goes on; how often its state is written changes nothing.
MAY_CHANGE = {"epochs", "checkpoint_every"}

#: Options that a cosine schedule does not have.
ON_PLATEAU = {"scheduler_factor", "scheduler_patience"}


def training_identity(
    options: Training,
    structures: Mapping[str, Iterable[Atoms] | None],
    start: Mapping[str, Any],
    **further: Any,
) -> dict[str, str]:
    """All that a training's result depends on but its length and the machine, as JSON by name."""
    unused = {"rho"} if options.optimizer != "sam" else set()
    if not (options.optimizer == "sam" and options.sam_adaptive):  # nor has it a checkpoint of before
        unused.add("sam_adaptive")
    if options.scheduler == "cosine":  # every step depends on how many epochs there will be
        values = options.model_dump(exclude=(MAY_CHANGE - {"epochs"}) | unused | ON_PLATEAU) | further
    else:  # checkpoints of before know no other schedule
        values = options.model_dump(exclude=MAY_CHANGE | unused | {"scheduler"}) | further
    for name, value in start.items():
        values[name] = f"#{potential_fingerprint(value)}" if isinstance(value, EnergyModel) else value
    values |= {name: _hash(data) for name, data in structures.items()}
    return {name: json.dumps(value, sort_keys=True, default=str) for name, value in values.items()}


def refuse_other_training(before: Mapping[str, str] | None, now: Mapping[str, str], checkpoint: str) -> None:
    """Raise CheckpointError, saying what differs, unless the training that wrote a checkpoint is this one."""
    if before == now:
        return
    if before is None:
        reason = "does not say of which training it is (an older version wrote it)"
    else:
        changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        reason = f"was written with {', '.join(_difference(name, before, now) for name in changed)}"
    if before is not None and "epochs" in changed:
        reason += (
            " (rates along a cosine and a falling weight of replay depend on it; a training with scheduler 'plateau' "
            "and replay_final_weight 1 may go on for longer)"
        )
    raise CheckpointError(
        f"{checkpoint} {reason}: to train anew delete it, train into another directory, or with resume=False"
    )


def _hash(structures: Iterable[Atoms] | None) -> str | None:
    if structures is None:
        return None
    digest = hashlib.sha256()
    for atoms in structures:
        digest.update(structure_hash(atoms, labels=True).encode())
    return f"#{digest.hexdigest()}"


def _difference(name: str, before: Mapping[str, str], now: Mapping[str, str]) -> str:
    old, new = (json.loads(values.get(name, "null")) for values in (before, now))
    if any(str(value).startswith("#") for value in (old, new)):
        return f"another {name}" if name in ("model", "eam") else f"other {name}"
    return f"{name}={old!r}, not {new!r}"
