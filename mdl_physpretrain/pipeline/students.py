"""What is done once per seed and arm: training, errors, molecular dynamics."""

from __future__ import annotations

import os
import shutil
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.pipeline.alone import is_first_rank
from mdl_physpretrain.pipeline.cache import write_atomic
from mdl_physpretrain.pipeline.config import RunConfig, Training
from mdl_physpretrain.pipeline.preparing import choose, read_part
from mdl_physpretrain.pipeline.teaching import TEACHER, resolve_device

if TYPE_CHECKING:
    from mdl_physpretrain.dynamics import Runs
    from mdl_physpretrain.models import EnergyModel

__all__ = [
    "arm_folder",
    "collect_errors",
    "collect_md",
    "derived_seed",
    "evaluate_arm",
    "finetune_arm",
    "pretrain_folder",
    "pretrain_student",
    "simulate_arm",
]

LABELLED = "augment/labelled.extxyz"
N_ALIGNED = 100  # structures whose forces are compared with the EAM's
MD_COLUMNS = ("ensemble", "temperature", "timestep", "steps")
CHUNK_ATOMS = {"cpu": 512, "cuda": 16384}  # of MD: what an interruption can cost


def derived_seed(seed: int, purpose: str) -> int:
    """An independent seed for one purpose within a run's seed.

    The purpose is the same for all arms: the same initial weights, starting
    velocities and noise, so that arms are compared in pairs.
    """
    return int(np.random.SeedSequence([seed, zlib.crc32(purpose.encode())]).generate_state(1)[0] & 0x7FFFFFFF)


def pretrain_folder(seed: int, core: str) -> str:
    """Folder of the pretraining of a seed; a network with a core is another network."""
    return f"seed-{seed}/pretrain" + ("" if core == "none" else f"-{core}")


def arm_folder(seed: int, arm: str) -> str:
    """Folder of an arm's training."""
    return f"seed-{seed}/{arm}"


def pretrain_student(config: RunConfig, folder: Path, show: bool, *, seed: int, core: str) -> list[str]:
    """Train a new network on the teacher's labels.

    It is made from the reference data, like that of an arm without pretraining
    and with the same seed: reference energies, normalisation and the reach of
    a core are those of the data, not of compressed structures.
    """
    from mdl_physpretrain.training import build_student, shift_reference_energies

    labelled = _read(folder / LABELLED)
    kept, val = _by_parent(labelled, config.pretrain.val_fraction, config.data.seed)
    number = derived_seed(seed, "student")
    train = read_part(folder, "train")
    model = build_student(config.backbone.name, train, model_args=config.backbone.args, core=core, seed=number)
    if config.teacher.calculator is not None and not config.augment.anchor:
        shift_reference_energies(model, kept)  # another code, another energy scale
    out = pretrain_folder(seed, core)
    return _train(config, folder, out, show, model, kept, val or None, config.pretrain, seed=number)


def finetune_arm(config: RunConfig, folder: Path, show: bool, *, seed: int, arm: str) -> list[str]:
    """Train an arm's network on the reference labels, from the pretrained one or afresh."""
    chosen, core, replay = config.arms[arm], config.core_of(arm), config.replay_of(arm)
    options = config.finetune.model_copy(update=chosen.changes())
    train, val = read_part(folder, "train"), read_part(folder, "val")
    extra: dict[str, Any] = {"seed": derived_seed(seed, "finetune" if chosen.pretrain else "student")}
    if replay > 0:
        extra |= {"replay": _read(folder / LABELLED), "replay_fraction": replay}
    model: Any = config.backbone.name
    if chosen.pretrain:
        from mdl_physpretrain.models import load_model

        model = load_model(folder / pretrain_folder(seed, core) / "best.pt")
        extra["shift_energies"] = config.finetune.shift_energies
    else:
        extra |= {"model_args": config.backbone.args, "core": core}
        if chosen.hybrid != "none":
            extra |= {"eam": folder / TEACHER, "freeze_eam": chosen.hybrid == "frozen"}
    return _train(config, folder, arm_folder(seed, arm), show, model, train, val or None, options, **extra)


def evaluate_arm(config: RunConfig, folder: Path, show: bool, *, seed: int, arm: str) -> list[str]:
    """Errors of an arm on test and validation data, its diatomic curves, its forces' angles to an EAM's."""
    import pandas as pd

    from mdl_physpretrain.physicality.diatomics import diatomic_curve, element_pairs
    from mdl_physpretrain.training import evaluate

    model = _load(config, folder, seed, arm)
    who = {"seed": seed, "arm": arm}
    parts = {name: read_part(folder, name) for name in ("test", "val", "train")}
    rows = [{**who, "split": name, **evaluate(model, part)} for name, part in parts.items() if part]
    r = np.round(np.linspace(0.4, 6.0, 141), 4)
    curves = []
    for pair in element_pairs([s for a in parts["train"] for s in a.symbols]):
        energy, force = diatomic_curve(model, pair, r)
        curves.append(
            pd.DataFrame({"arm": arm, "seed": seed, "pair": "-".join(pair), "r": r, "energy": energy, "force": force})
        )
    start = f"seed-{seed}/evaluate/{arm}"
    write_atomic(folder / f"{start}.efs.csv", pd.DataFrame(rows).to_csv(index=False))
    write_atomic(folder / f"{start}.diatomics.csv", pd.concat(curves).to_csv(index=False))
    outputs = [f"{start}.efs.csv", f"{start}.diatomics.csv"]
    if config.uses_eam:
        from mdl_physpretrain.models import load_model
        from mdl_physpretrain.physicality.alignment import alignment_table

        teacher = load_model(folder / TEACHER, expect="eam").to(model.device)
        judged = choose(parts["test"] or parts["val"] or parts["train"], N_ALIGNED, config.data.seed)
        angles = alignment_table({arm: model}, teacher, judged).round(4)
        angles.insert(0, "seed", seed)
        write_atomic(folder / f"{start}.alignment.csv", angles.to_csv(index=False))
        outputs.append(f"{start}.alignment.csv")
    return outputs


def simulate_arm(config: RunConfig, folder: Path, show: bool, *, seed: int, arm: str) -> list[str]:
    """MD of the starting structures with an arm's network, and the verdict on each trajectory.

    The structures are simulated in fixed portions, each written when it is
    done: a portion that was interrupted starts again, so that the result does
    not depend on interruptions (batches of other structures round differently).
    """
    from mdl_physpretrain.dynamics import Runs
    from mdl_physpretrain.dynamics.batched import split_batches
    from mdl_physpretrain.physicality import Limits, assess

    model = _load(config, folder, seed, arm)
    starts = md_structures(config, folder)
    start = f"seed-{seed}/md/{arm}"
    finished, portions = folder / f"{start}.runs.npz", folder / f"{start}.parts"
    if finished.is_file():
        runs = Runs.load(finished)
    else:
        records, settings, mark = [], {}, ""
        size = CHUNK_ATOMS.get(model.device.type, CHUNK_ATOMS["cuda"])
        for number, chosen in enumerate(split_batches(starts, size)):
            file = portions / f"{number:04d}.npz"
            if file.is_file():
                part = Runs.load(file)
            else:
                part = _simulate(config, folder, model, [starts[k] for k in chosen], seed, arm, show)
                part.save(file)
            records += list(part)
            settings, mark = part.settings, part.fingerprint
        runs = Runs(records, settings=settings, fingerprint=mark)
        runs.save(finished)
    shutil.rmtree(portions, ignore_errors=True)
    table = assess(runs, limits=Limits(variant=config.md.lindemann_variant))
    write_atomic(folder / f"{start}.csv", table.to_csv(index=False))
    return [f"{start}.csv", f"{start}.runs.npz"]


def md_structures(config: RunConfig, folder: Path) -> list[Atoms]:
    """Starting structures of the MD, the same for all seeds and arms."""
    from mdl_physpretrain.structures import read_structures

    found: list[Atoms] = []
    for source in config.md.source:
        found += read_part(folder, source) if source in ("train", "val", "test") else read_structures(source)
    if config.md.max_atoms is not None:
        found = [a for a in found if len(a) <= config.md.max_atoms]
    if not found:
        raise ConfigError(
            f"md.source: there are no structures in {', '.join(config.md.source)}"
            + (f" with at most {config.md.max_atoms} atoms" if config.md.max_atoms else "")
        )
    return choose(found, config.md.n_structures, config.data.seed)


def collect_errors(config: RunConfig, folder: Path, show: bool) -> list[str]:
    """``efs.csv``, ``diatomics.csv`` and ``alignment.csv`` of all seeds and arms."""
    kinds = ["efs", "diatomics", *(["alignment"] if config.uses_eam else [])]
    for kind in kinds:
        frames = [_table(folder / f"seed-{s}/evaluate/{a}.{kind}.csv") for s in config.seeds for a in config.arms]
        _write_joined(folder / f"{kind}.csv", frames)
    if not config.uses_eam:  # left by a run with other arms
        (folder / "alignment.csv").unlink(missing_ok=True)
    return [f"{kind}.csv" for kind in kinds]


def collect_md(config: RunConfig, folder: Path, show: bool) -> list[str]:
    """``physicality.csv`` of all seeds and arms."""
    frames = []
    for seed in config.seeds:
        for arm in config.arms:
            conditions = {name: getattr(config.md, name) for name in MD_COLUMNS}
            frames.append(_table(folder / f"seed-{seed}/md/{arm}.csv").assign(seed=seed, arm=arm, **conditions))
    _write_joined(folder / "physicality.csv", frames)
    return ["physicality.csv"]


def _simulate(
    config: RunConfig, folder: Path, model: EnergyModel, structures: list[Atoms], seed: int, arm: str, show: bool
) -> Runs:
    from mdl_physpretrain.dynamics import simulate

    options = config.md.simulation(folder / f"seed-{seed}/md/{arm}.trajectories")
    return simulate(model, structures, seed=derived_seed(seed, "md"), progress=show, **options)


def _train(
    config: RunConfig,
    folder: Path,
    out: str,
    show: bool,
    model: Any,
    structures: Sequence[Atoms],
    val: Sequence[Atoms] | None,
    options: Training,
    **extra: Any,
) -> list[str]:
    from mdl_physpretrain.training import train

    _drop_damaged(folder / out / "last.ckpt")
    own = set(Training.model_fields)
    trained = train(
        model,
        structures,
        val=val,
        directory=folder / out,
        resume=True,
        accelerator=config.accelerator,
        devices=config.devices,
        strategy=config.strategy,
        progress=show,
        **{name: value for name, value in options.model_dump().items() if name in own},
        **extra,
    )
    best = trained.metadata.get("best_val_loss")  # type: ignore[union-attr]
    elements = sorted({s for a in structures for s in a.symbols})
    # nothing that differs from run to run (times): equal results shall be equal files
    trained.metadata = {"training": out, "seed": extra["seed"], "best_val_loss": best, "elements": elements}  # type: ignore[assignment]
    if is_first_rank():
        trained.save(folder / out / "best.pt")  # type: ignore[arg-type]
    return [f"{out}/best.pt", f"{out}/history.csv"]


def _drop_damaged(checkpoint: Path) -> None:
    """Remove a ``last.ckpt`` that cannot be read: the training then starts again, which is said."""
    if not checkpoint.is_file():
        return
    import torch

    try:
        torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        warnings.warn(f"{checkpoint} is damaged ({reason}); this training starts again", stacklevel=2)
        os.replace(checkpoint, checkpoint.with_name("last.damaged.ckpt"))


def _load(config: RunConfig, folder: Path, seed: int, arm: str) -> EnergyModel:
    from mdl_physpretrain.models import load_model

    return load_model(folder / arm_folder(seed, arm) / "best.pt").to(resolve_device(config.device))


def _read(path: Path) -> list[Atoms]:
    from mdl_physpretrain.structures import read_structures

    return read_structures(path)


def _by_parent(structures: Sequence[Atoms], share: float, seed: int) -> tuple[list[Atoms], list[Atoms]]:
    """Split off validation structures, all children of a parent on one side."""
    parents = list(dict.fromkeys(str(a.info.get("parent_id", a.info["structure_id"])) for a in structures))
    count = min(round(share * len(parents)) or (1 if share > 0 else 0), len(parents) - 1)
    if not structures:
        raise StructureError("there are no labelled structures to pretrain on")
    chosen = np.random.default_rng([seed, 0xA0612]).permutation(len(parents))[: max(count, 0)]
    held = {parents[k] for k in chosen}
    sides: tuple[list[Atoms], list[Atoms]] = ([], [])
    for atoms in structures:
        sides[str(atoms.info.get("parent_id", atoms.info["structure_id"])) in held].append(atoms)
    return sides


def _table(path: Path) -> Any:
    import pandas as pd

    return pd.read_csv(
        path, dtype={"structure_id": str, "first_unphysical_step": "Int64"}, keep_default_na=False, na_values=[""]
    )


def _write_joined(path: Path, frames: Sequence[Any]) -> None:
    import pandas as pd

    write_atomic(path, pd.concat([f.astype(object) for f in frames], ignore_index=True).to_csv(index=False))
