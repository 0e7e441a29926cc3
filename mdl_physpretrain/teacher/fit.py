"""Fitting the EAM teacher to DFT energies, forces and stress.

Two presets. ``"paper"`` is section 2.2.2: AdamW on the parameters themselves,
all starting at one but ``r_m``, 200 epochs. ``"default"`` fits the same
functional form, with a ZBL core, inside bounds that keep it physical
(:mod:`mdl_physpretrain.teacher.parametrisation`), of every pair of elements or,
with many elements, of every element (:mod:`mdl_physpretrain.teacher.factorised`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.graphs.bonds import core_ends, nearest_distances
from mdl_physpretrain.potentials.eam.model import EAM
from mdl_physpretrain.potentials.error_metrics import trivial_errors
from mdl_physpretrain.progress import track
from mdl_physpretrain.recipe import TEACHER
from mdl_physpretrain.structures import reference_energies, validate_structures
from mdl_physpretrain.structures.elements import FEW_ELEMENTS, checked_symbols, elements_of, strange_elements
from mdl_physpretrain.structures.labels import get_labels
from mdl_physpretrain.teacher.examine import PUSHED_BACK, Examination, examine, extrapolated_pairs
from mdl_physpretrain.teacher.factorised import CorrectedEAM, FactorisedEAM
from mdl_physpretrain.teacher.objective import EAMObjective
from mdl_physpretrain.teacher.parametrisation import BoundedEAM, Bounds

__all__ = ["fit_eam"]

DEFAULT_STEPS = 600  # of the default preset, whatever the size of the dataset
MIN_EPOCHS = 10
ATTEMPTS = 4  # with bounds tightened after every failed examination
ELEMENTS_HINT = "give all (elements=[...]), leave these structures out, or split the data otherwise"
HELD_OUT = 0.1  # share of the structures of many elements that judge the fit where there are no others

SEARCHES: dict[str, type[BoundedEAM]] = {
    "pairwise": BoundedEAM, "factorised": FactorisedEAM, "corrected": CorrectedEAM,
}  # fmt: skip

PRESETS: dict[str, dict[str, Any]] = {
    "default": {"epochs": None, "learning_rate": 3e-2, "batch_size": 8, "core": True},
    "paper": {"epochs": 200, "learning_rate": 1e-3, "batch_size": 8, "core": False},
}


def fit_eam(
    structures: Sequence[Atoms],
    *,
    val: Sequence[Atoms] | None = None,
    cutoff: float = TEACHER.cutoff,
    n_basis: int = TEACHER.n_basis,
    pairs: str = TEACHER.pairs,
    preset: str = TEACHER.preset,
    epochs: int | None = TEACHER.epochs,
    batch_size: int | None = TEACHER.batch_size,
    learning_rate: float | None = TEACHER.learning_rate,
    weights: tuple[float, float, float] = TEACHER.weights,
    bounds: Bounds | None = None,
    elements: Sequence[str] | None = None,
    seed: int = TEACHER.seed,
    directory: str | Path | None = None,
    progress: bool = False,
) -> EAM:
    """Fit an EAM to labelled structures and examine it.

    Parameters
    ----------
    structures
        Labelled; missing labels are left out of the loss.
    val
        The best state is chosen on these, or on ``structures``, and the examination asks for their forces. Above 8
        elements, without them, a tenth of ``structures`` is kept out of the fit for that.
    cutoff
        In Å.
    n_basis
        Exponentials in the density.
    pairs
        ``"pairwise"``: every pair of elements has its own parameters; ``"factorised"``: pairs are mixed of parameters
        of elements (:class:`mdl_physpretrain.teacher.factorised.FactorisedEAM`); ``"corrected"``: mixed, with a free
        correction of every pair that the data show often; ``"auto"``: factorised above 8 elements, corrected where
        the data never show some pair together, else (and with the preset ``"paper"``) pairwise.
    preset
        ``"default"`` or ``"paper"``.
    epochs, batch_size, learning_rate
        Override the preset's; the default preset takes about 600 steps.
    weights
        Of energy (eV), forces (eV/Å), stress (eV/Å³) in the MAE loss.
    bounds
        Of the default preset.
    elements
        Symbols in the order of the parameters; from the data by default. May hold more than the data: what the data
        do not show follows from the start and, factorised, from the other pairs.
    seed
        Of the start (default preset) and the order of batches.
    directory
        ``teacher.pt`` is written there at the end.
    progress
        Show a progress bar.

    Returns
    -------
    EAM
        The best state in double precision. Where it fails the examination the
        default preset is fitted again, three times at most, within tighter
        bounds; above 8 elements of the pairs that failed only, and not where
        nothing but the forces did. ``metadata["fit"]`` holds the
        history and the errors next to the trivial predictor's,
        ``metadata["examination"]`` its examination.

    Raises
    ------
    ConfigError
        If the preset is unknown or an option is out of range.
    StructureError
        If there are no usable labels, or ``val`` has elements that ``structures`` and ``elements`` have not.
    """
    if preset not in PRESETS:
        raise ConfigError(f"preset must be one of {', '.join(PRESETS)}, not {preset!r}")
    if pairs not in ("auto", *SEARCHES):
        raise ConfigError(f"pairs must be one of auto, {', '.join(SEARCHES)}, not {pairs!r}")
    paper = preset == "paper"
    if paper and pairs not in ("auto", "pairwise"):
        raise ConfigError(f"pairs: {pairs!r} is not the paper's: the preset 'paper' is pairwise")
    structures = validate_structures(list(structures), require=("energy",))
    symbols = elements_of(structures) if elements is None else checked_symbols(elements)
    for part, name in ((structures, "the training structures"), (val or (), "val")):
        strange = strange_elements(part, symbols, name, "the training structures" if elements is None else "elements")
        if strange is not None:
            raise StructureError(f"{strange}: {ELEMENTS_HINT}", field="numbers")
    if val and not any(get_labels(a).energy is not None for a in val):
        raise StructureError("val: no structure has an energy to judge the fit by", field="energy")
    many = len(symbols) > FEW_ELEMENTS
    if pairs == "auto":
        pairs = "pairwise" if paper else "factorised" if many else "corrected"
        if not many and not extrapolated_pairs(symbols, nearest_distances(structures, cutoff)):
            pairs = "pairwise"
    shown: Sequence[Atoms] = structures
    held_out: Sequence[Atoms] | None = val
    if many and not val and not paper:
        structures, held_out = _kept_out(structures, seed)
    options = dict(PRESETS[preset])
    overrides = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
    options.update({k: v for k, v in overrides.items() if v is not None})
    if options["epochs"] is None:
        options["epochs"] = max(MIN_EPOCHS, -(-DEFAULT_STEPS // -(-len(structures) // max(1, options["batch_size"]))))
    if options["epochs"] < 1 or options["batch_size"] < 1 or not options["learning_rate"] > 0:
        raise ConfigError("epochs and batch_size must be at least 1 and learning_rate positive")
    references = reference_energies(structures)
    generator = torch.Generator().manual_seed(seed)

    energies = torch.tensor([references.get(s, 0.0) for s in symbols], dtype=torch.get_default_dtype())
    distances = nearest_distances(structures, min(cutoff, 6.0))
    bounds = bounds or Bounds()
    attempts = 0
    ends: dict[str, float] | None = None
    tightened: Counter[tuple[str, str]] = Counter()
    softened: Counter[tuple[str, str]] = Counter()
    while True:
        attempts += 1
        changes = (tightened, softened)
        before, ends = ends, core_ends(distances, symbols, long=_either_order(tightened))
        if ends != before:
            model = EAM(symbols, cutoff=cutoff, n_basis=n_basis, core=options["core"], core_ends=ends).double().eval()
            objective = EAMObjective(model, structures, weights)
            val_objective = EAMObjective(model, held_out, weights) if held_out else objective
        search = model if paper else SEARCHES[pairs](model, distances, bounds, energies, generator, *changes).double()
        history, best = _minimise(search, objective, val_objective, options, generator, progress)
        model.load_state_dict(best)
        examination = examine(model, shown, held_out=held_out)
        weak, steep = _failed_pairs(model, examination) if many else (list(model.pairs), [])
        if examination.passed or paper or attempts == ATTEMPTS or not weak + steep:
            break
        tightened.update(weak)
        softened.update(steep)
    model.metadata = {
        "fit": {
            "preset": preset,
            "pairs": pairs,
            "parameters": sum(p.numel() for p in search.parameters()),
            "seed": seed,
            "attempts": attempts,
            "bounds": None if paper else asdict(bounds if many else bounds.tightened(attempts - 1)),
            "tightened": {"-".join(pair): times for pair, times in tightened.items()} if many else {},
            "softened": {"-".join(pair): times for pair, times in softened.items()},
            "history": history,
            "errors": objective.errors(best),
            "val_errors": val_objective.errors(best) if held_out else None,
            "trivial": trivial_errors(structures, references),
        },
        "examination": examination.to_dict(),
    }
    if directory:
        model.save(Path(directory) / "teacher.pt")
    return model


def _either_order(pairs: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    return {order for pair in pairs for order in (pair, pair[::-1])}


def _failed_pairs(model: EAM, examination: Examination) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Pairs of elements that repel too little, and those whose forces are too large.

    All of them repel too little where only the test of real pairs failed.
    """
    of_name = {"-".join(order): pair for pair in model.pairs for order in _either_order([pair])}
    failed = [v for v in examination.pairs if not v.passed]
    weak, steep = ([of_name[v.pair] for v in failed if v.bounded is bounded] for bounded in (True, False))
    if not failed and examination.pushed_back < PUSHED_BACK:
        weak = list(model.pairs)
    return weak, steep


def _kept_out(structures: list[Atoms], seed: int) -> tuple[list[Atoms], list[Atoms] | None]:
    """Structures to fit to, and a tenth to judge by, with forces and elements that others have.

    Whole compositions, where there are ten or more.
    """
    counts = Counter(z for atoms in structures for z in set(atoms.numbers.tolist()))
    groups: dict[str, list[int]] = {}
    for k, atoms in enumerate(structures):
        groups.setdefault(atoms.get_chemical_formula(empirical=True), []).append(k)
    if len(groups) < 1 / HELD_OUT:
        groups = {str(k): [k] for k in range(len(structures))}
    names = sorted(groups)
    chosen: list[int] = []
    for position in np.random.default_rng([seed, 0x4E1D]).permutation(len(names)).tolist():
        members = groups[names[position]]
        here = Counter(z for k in members for z in set(structures[k].numbers.tolist()))
        labelled = all(get_labels(structures[k]).forces is not None for k in members)
        room = HELD_OUT * len(structures) - len(chosen)
        if labelled and len(members) <= max(1.0, room) and room > 0 and all(counts[z] > n for z, n in here.items()):
            chosen += members
            counts.subtract(here)
    kept = set(range(len(structures))) - set(chosen)
    return [structures[k] for k in sorted(kept)], [structures[k] for k in sorted(chosen)] or None


def _minimise(
    search: EAM | BoundedEAM,
    objective: EAMObjective,
    val_objective: EAMObjective,
    options: dict[str, Any],
    generator: torch.Generator,
    progress: bool,
) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
    """History by epoch, and the EAM parameters of the epoch with the lowest validation error."""
    optimizer = torch.optim.AdamW(search.parameters(), lr=options["learning_rate"], weight_decay=0.0)
    size = options["batch_size"]
    steps = options["epochs"] * -(-len(objective) // size)
    bounded = isinstance(search, BoundedEAM)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps) if bounded else None

    leaves: dict[str, Tensor] = dict(search.named_parameters())

    def parameters() -> dict[str, Tensor]:
        return search.parameters_of_eam() if isinstance(search, BoundedEAM) else leaves

    history: list[dict[str, float]] = []
    best: dict[str, Tensor] = {}
    lowest = float("inf")
    for epoch in track(range(options["epochs"]), "fit EAM", enabled=progress):
        order = torch.randperm(len(objective), generator=generator).tolist()
        losses = []
        for start in range(0, len(order), size):
            values = parameters()
            value, gradient = objective.loss(values, order[start : start + size])
            if bounded:
                optimizer.zero_grad()
                torch.autograd.backward(list(values.values()), [gradient[name] for name in values])
            else:
                for name, leaf in leaves.items():
                    leaf.grad = gradient[name]
            torch.nn.utils.clip_grad_norm_(search.parameters(), 10.0, foreach=True)
            optimizer.step()
            if schedule is not None:
                schedule.step()
            losses.append(value)
        state = {name: value.detach().clone() for name, value in parameters().items()}
        errors = val_objective.errors(state)
        loss = sum(losses) / len(losses)
        history.append({"step": epoch, "loss": loss, "val_loss": errors["total"], "forces_mae": errors["forces_mae"]})
        if math.isfinite(loss) and errors["total"] < lowest:
            lowest, best = errors["total"], state
    if not best:
        raise ConfigError("the EAM fit diverged: no finite loss; lower the learning rate or look at the labels")
    return history, best
