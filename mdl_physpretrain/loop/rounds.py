"""One round of the closed loop: examine the network on training structures, label what fails, train on."""

from __future__ import annotations

import hashlib
import itertools
import json
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from ase import Atoms

from mdl_physpretrain.augmentation.filter import filter_labels
from mdl_physpretrain.dynamics.settings import simulation_options
from mdl_physpretrain.errors import CheckpointError
from mdl_physpretrain.files import write_atomic
from mdl_physpretrain.locking import locked
from mdl_physpretrain.loop.curves import (
    compressed_children,
    covering,
    crystal_holes,
    pair_bins,
    pair_holes,
    stretches,
)
from mdl_physpretrain.loop.motion import conditions, examined_motion
from mdl_physpretrain.ownership import claim_folder
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.checkpoint import load_model
from mdl_physpretrain.potentials.devices import resolve_device
from mdl_physpretrain.potentials.error_metrics import evaluate
from mdl_physpretrain.potentials.identity import potential_fingerprint
from mdl_physpretrain.recipe import CHECK, MD, Augment, Augmentation, Finetune, Loop, MolecularDynamics
from mdl_physpretrain.structures import get_labels, read_structures, write_structures
from mdl_physpretrain.structures.fingerprint import structure_hash
from mdl_physpretrain.structures.randomness import derived_seed
from mdl_physpretrain.teacher.label import label
from mdl_physpretrain.teacher.labelled_set import anchors, change_errors
from mdl_physpretrain.training.pretrain_finetune import finetune
from mdl_physpretrain.training.replay_scope import REPLAYED, SCOPE

__all__ = ["LoopData", "Round", "run_round", "validation_total"]

MARKS_PS = (1.0, 2.0, 5.0, 10.0)
KEPT = ("training", "seed", "best_val_loss", "elements", *REPLAYED)  # nothing that differs from run to run
NO_LABELS = ("n_new", "n_labelled", "n_removed")


@dataclass(frozen=True)
class LoopData:
    """What all rounds of a loop share.

    Attributes
    ----------
    structures, val
        Training and validation structures with reference labels; only the
        former are simulated.
    replay
        Labelled structures as finetuning replayed them: all, or
        :func:`mdl_physpretrain.training.replay_scope.beyond_data`.
    teacher
        What :func:`mdl_physpretrain.teacher.label` takes.
    options, augment, finetune, md
        Sections of the recipe; ``finetune`` as the network was finetuned.
    seed
        Of the network.
    force
        Let a teacher label that failed its examination.
    device
        Of examination and labelling.
    trainer
        ``accelerator``, ``devices``, ``strategy`` of the trainings.
    """

    structures: Sequence[Atoms]
    val: Sequence[Atoms] | None
    replay: Sequence[Atoms]
    teacher: Any
    options: Loop
    augment: Augment
    finetune: Finetune
    md: MolecularDynamics
    seed: int = 0
    force: bool = False
    device: str = "auto"
    trainer: Mapping[str, Any] = field(default_factory=dict)


class Round(NamedTuple):
    """What a round did.

    Attributes
    ----------
    potential
        The network after it: the trained one where it was accepted.
    labelled
        New structures with the teacher's labels, for this and later rounds.
    facts
        Plain values, see :func:`run_round`.
    """

    potential: EnergyModel
    labelled: list[Atoms]
    facts: dict[str, Any]


def run_round(
    data: LoopData,
    potential: EnergyModel,
    gathered: Sequence[Atoms],
    *,
    number: int,
    start_total: float | None = None,
    train: bool = True,
    directory: Path | None = None,
    progress: bool = False,
) -> Round:
    """Examine a network, and train it on if something fails.

    Parameters
    ----------
    data
        See :class:`LoopData`.
    potential
        The network; ``metadata["best_val_loss"]``, where it is, is its validation total.
    gathered
        Labelled structures of the rounds before.
    number
        Of the round, from 1; another number means other structures and velocities.
    start_total
        Validation total before the loop, which the tolerance counts from;
        default: the network's.
    train
        False: only examine.
    directory
        Of the round: an interrupted one goes on there, a finished one is read.
    progress
        Show progress bars.

    Returns
    -------
    Round
        ``facts``: ``round``, ``n_trajectories``, ``n_lost``,
        ``first_loss_fs``, ``physical_at_<t>ps`` (shares, of simulated times),
        ``reasons``, ``holes`` (stretches of pairs), ``collapsed`` (ids),
        ``passed``, ``n_labelled``, ``n_removed``, ``n_new``, ``total_before``,
        ``total_after``, ``accepted``.

    Raises
    ------
    CheckpointError
        If the directory holds another round.
    ConfigError
        If it holds files of the user.
    """
    if directory is None:
        with tempfile.TemporaryDirectory(prefix="physpretrain-loop-") as folder:
            place = claim_folder(folder, "training")
            return _in_folder(data, potential, gathered, number, start_total, train, place, progress)
    claim_folder(directory, "training", inside=True)
    with locked(directory):
        return _in_folder(data, potential, gathered, number, start_total, train, directory, progress)


def _in_folder(
    data: LoopData,
    potential: EnergyModel,
    gathered: Sequence[Atoms],
    number: int,
    start_total: float | None,
    train: bool,
    folder: Path,
    progress: bool,
) -> Round:
    identity = _identity(data, potential, gathered, number, train)
    before = _read(folder, identity)
    if before is not None:
        return before
    began = time.perf_counter()
    facts: dict[str, Any] = {"round": number}
    results, children, inside = _examination(data, potential, number, folder, train, progress)
    facts |= results
    examined = time.perf_counter()
    total = validation_total(data, potential)
    facts |= {"total_before": total, "total_after": total, "accepted": None, **dict.fromkeys(NO_LABELS, 0)}
    labelled: list[Atoms] = []
    if train and not facts["passed"]:
        labelled, counts = _labelled(data, children, folder, "labels", progress)
        labelled += inside
        facts |= counts | {"n_labelled": len(children) + len(inside), "n_new": len(labelled)}
    if labelled:
        trained = _trained(data, potential, [*gathered, *labelled], number, folder, progress)
        facts["total_after"] = float(trained.metadata["best_val_loss"])
        limit = (total if start_total is None else start_total) * (1 + data.options.tolerance)
        facts["accepted"] = bool(facts["total_after"] <= limit)
        if facts["accepted"]:
            potential = trained
    seconds = {"examination": examined - began, "training": time.perf_counter() - examined}
    _write(folder, identity, potential, labelled, facts, seconds)
    return Round(potential, labelled, facts)


def _examination(
    data: LoopData, potential: EnergyModel, number: int, folder: Path, train: bool, progress: bool
) -> tuple[dict[str, Any], list[Atoms], list[Atoms]]:
    """What fails, children of the training structures for the teacher to label, and labelled ones in a hole."""
    options, label_of = data.options, f"loop{number}"
    parents = _parents(data)
    device = resolve_device(data.device)
    potential = deepcopy(potential).to(device)
    seed = derived_seed(data.seed, f"loop {options.seed} {number}")
    order = np.random.default_rng(seed).permutation(len(parents))
    chosen = [parents[k] for k in np.sort(order[: options.n_structures])]
    md = conditions(options, data.md)
    rows, children = examined_motion(
        potential, chosen, md, options, seed=seed, folder=folder, label=label_of, progress=progress
    )
    rows.to_csv(folder / "trajectories.csv", index=False)
    facts = _motion_facts(rows, md)
    holes: list[str] = []
    collapsed: list[str] = []
    labelled: list[Atoms] = []
    if options.curves:
        bins = pair_bins(parents)
        probes = covering(parents, bins, 1, seed, f"{label_of}-probe")
        shown, _ = _labelled(data, probes, folder, "probes", progress)
        labelled = list(itertools.compress(shown, crystal_holes(potential, shown, parents, md.temperature)))
        flagged = pair_holes(potential, data.teacher, bins)
        for atoms in labelled:
            pair, distance = atoms.info["aug_pair"], float(atoms.info["aug_distance"])
            flagged |= ((bins["pair"] == pair) & (bins["low"] <= distance) & (distance < bins["high"])).to_numpy()
        holes = stretches(bins, flagged)
        if flagged.any() and train:
            children += covering(parents, bins[flagged], options.per_bin, seed, f"{label_of}-cover")
        strained = [a for a in chosen if not data.augment.anchor or get_labels(a).stress is not None]
        collapsed, squeezed = compressed_children(potential, data.teacher, strained[: CHECK.compressed], label_of)
        children += squeezed
    facts |= {"holes": holes, "collapsed": collapsed}
    facts["passed"] = not (facts["n_lost"] or holes or collapsed)
    return facts, children, labelled


def validation_total(data: LoopData, potential: EnergyModel) -> float:
    """Its total as the training knew it, or computed with the same weights."""
    remembered = potential.metadata.get("best_val_loss")
    if remembered is not None:
        return float(remembered)
    errors = evaluate(potential, data.val or data.structures)
    parts = (errors[f"{name}_mae"] for name in ("energy", "forces", "stress"))
    return float(np.nansum([weight * part for weight, part in zip(data.finetune.weights, parts, strict=True)]))


def _motion_facts(rows: pd.DataFrame, md: MolecularDynamics) -> dict[str, Any]:
    lost = rows["first_unphysical_step"].dropna().astype(float)
    times = pd.to_numeric(rows["first_unphysical_step"]).fillna(np.inf).to_numpy(float) * md.timestep
    marks = {
        f"physical_at_{mark:g}ps": float((times > 1000 * mark).mean())
        for mark in MARKS_PS
        if 1000 * mark <= md.steps * md.timestep
    }
    return {
        "n_trajectories": len(rows),
        "n_lost": len(lost),
        "first_loss_fs": float(lost.min() * md.timestep) if len(lost) else None,
        **marks,
        "reasons": {str(k): int(v) for k, v in rows.loc[lost.index, "reason"].value_counts().items()},
    }


def _parents(data: LoopData) -> list[Atoms]:
    return anchors(data.structures) if data.augment.anchor else list(data.structures)


def _labelled(
    data: LoopData, children: Sequence[Atoms], folder: Path, name: str, progress: bool
) -> tuple[list[Atoms], dict[str, Any]]:
    """Children with the teacher's labels, as far as the filter keeps them."""
    if not children:
        return [], {}
    options = data.augment
    labelled = label(
        children,
        data.teacher,
        anchor=options.anchor,
        anchor_reach=options.anchor_reach,
        change_error=change_errors(data.teacher, data.structures, options),
        parents=_parents(data) if options.anchor else None,
        batch_size=options.batch_size,
        resume=folder / f"{name}.journal",
        force=data.force,
        progress=progress,
    )
    result = filter_labels(
        labelled,
        max_force=options.max_force,
        max_energy_per_atom=options.max_energy_per_atom,
        max_stress=options.max_stress,
        min_distance=options.min_distance,
        min_distance_factor=max(data.options.min_distance_factor, options.filter_distance_factor or 0.0) or None,
        reference=_parents(data) if options.max_energy_per_atom is not None else None,
    )
    counts = {"n_labelled": len(children), "n_removed": len(children) - len(result.kept), "n_new": len(result.kept)}
    return result.kept, counts


def _trained(
    data: LoopData, potential: EnergyModel, gathered: Sequence[Atoms], number: int, folder: Path, progress: bool
) -> EnergyModel:
    """The network after a round's training, in its best state."""
    options = data.finetune.model_dump() | {"epochs": data.options.epochs}
    before = {k: v for k, v in potential.metadata.items() if k in REPLAYED}
    options |= {**before, "shift_energies": False, "replay_scope": "all"}  # chosen before the loop
    options["learning_rate"] = data.options.learning_rate or 0.5 * data.finetune.learning_rate
    if data.options.replay is not None:
        options["replay_fraction"] = data.options.replay
    share, replay = data.options.share, data.replay
    of_kind = Counter("aug_lost" in atoms.info for atoms in gathered)  # frames of MD, and those of curves
    weights = [(1 - share) / max(len(replay), 1)] * len(replay)
    weights += [share / len(of_kind) / of_kind["aug_lost" in atoms.info] for atoms in gathered]
    trained = finetune(
        potential,
        data.structures,
        val=data.val or None,
        replay=[*replay, *gathered],
        replay_weights=weights,
        seed=derived_seed(data.seed, f"loop training {number}"),
        directory=folder,
        progress=progress,
        **options,
        **data.trainer,
    )
    (folder / SCOPE).unlink(missing_ok=True)  # of the finetuning, not of a round
    trained.metadata |= {"replay_scope": "all", **before}
    return trained


def _identity(data: LoopData, potential: EnergyModel, gathered: Sequence[Atoms], number: int, train: bool) -> str:
    """Hash of all that a round depends on, but the machine."""
    limits = data.augment.model_dump(include=set(Augment.model_fields) - set(Augmentation.model_fields))
    md = simulation_options(conditions(data.options, data.md), Path())
    if md["barostat"] == MD.barostat:  # rounds of versions without this option stay valid
        del md["barostat"]
    loop, finetuning = data.options.model_dump(exclude={"rounds"}), data.finetune.model_dump(exclude={"replay_scope"})
    sections = [loop, limits, finetuning, md]
    digest = hashlib.sha256(json.dumps([sections, data.seed, number, train], sort_keys=True, default=str).encode())
    for each in (potential, data.teacher):
        digest.update(potential_fingerprint(each).encode())
    for structures in (data.structures, data.val or (), data.replay, gathered):
        digest.update(b"|")
        for atoms in structures:
            digest.update(structure_hash(atoms, labels=True).encode())
    return digest.hexdigest()


def _read(folder: Path, identity: str) -> Round | None:
    """A finished round."""
    file = folder / "round.json"
    if not file.is_file():
        return None
    facts = json.loads(file.read_text(encoding="utf-8"))
    if facts.pop("identity", None) != identity:
        raise CheckpointError(
            f"{folder} holds a round of a loop with other data, options, seed or network: "
            "delete it or choose another directory"
        )
    labelled = read_structures(folder / "labelled.extxyz") if facts["n_new"] else []
    return Round(load_model(folder / "best.pt"), labelled, facts)


def _write(
    folder: Path,
    identity: str,
    potential: EnergyModel,
    labelled: Sequence[Atoms],
    facts: Mapping[str, Any],
    seconds: Mapping[str, float],
) -> None:
    """The round's files; ``round.json``, the last, makes it finished."""
    metadata = potential.metadata
    potential.metadata = {k: metadata[k] for k in KEPT if k in metadata}
    potential.save(folder / "best.pt")
    potential.metadata = metadata
    if labelled:
        write_structures(folder / "labelled.extxyz", labelled)
    write_atomic(folder / "seconds.json", json.dumps({k: round(v, 3) for k, v in seconds.items()}))
    write_atomic(folder / "round.json", json.dumps({**facts, "identity": identity}, indent=1))
    for journal in folder.glob("*.journal"):
        journal.unlink()
