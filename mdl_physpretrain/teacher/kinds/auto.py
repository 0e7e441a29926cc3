"""The native teacher that knows the changes between frames of the data best: every kind is fitted, the best is kept."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from ase import Atoms
from pydantic import Field

from mdl_physpretrain.errors import ConfigError, PhysPretrainError
from mdl_physpretrain.option_types import Section
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.error_metrics import evaluate, trivial_errors
from mdl_physpretrain.recipe import EAMFit
from mdl_physpretrain.structures import get_labels
from mdl_physpretrain.teacher import registry, source
from mdl_physpretrain.teacher.base import NativeTeacher
from mdl_physpretrain.teacher.changes import change_skill, frame_pairs
from mdl_physpretrain.teacher.examine import Examination

__all__ = ["BestTeacher", "best_teacher"]

FEWEST_PAIRS = 10  # of frames: a judgement on fewer is left to the structures themselves


class BestTeacher(NativeTeacher):
    """See :func:`best_teacher`."""

    name = "auto"
    potentials = ()

    class Options(Section):
        """Of the choice."""

        candidates: list[str] | None = Field(default=None, description="Kinds to choose from; null: all.")
        eam: EAMFit = Field(default_factory=EAMFit, description="The EAM's, where it is a candidate.")

    def fit(
        self, structures: Sequence[Atoms], *, val: Sequence[Atoms] | None, options: Options, progress: bool
    ) -> EnergyModel:
        of_kinds = {"eam": options.eam}
        return best_teacher(structures, val=val, candidates=options.candidates, options=of_kinds, progress=progress)

    def examine(self, model: EnergyModel, structures: Sequence[Atoms]) -> Examination | None:
        kind = registry.kind_of(model)
        return None if kind is None else kind.examine(model, structures)

    def curves(self, model: EnergyModel, structures: Sequence[Atoms]) -> pd.DataFrame | None:
        kind = registry.kind_of(model)
        return None if kind is None else kind.curves(model, structures)

    def decomposition(self, model: EnergyModel, structures: Sequence[Atoms]) -> pd.DataFrame | None:
        kind = registry.kind_of(model)
        return None if kind is None else kind.decomposition(model, structures)


def best_teacher(
    structures: Sequence[Atoms],
    *,
    val: Sequence[Atoms] | None = None,
    candidates: Sequence[str] | None = None,
    options: Mapping[str, Section] | None = None,
    progress: bool = False,
) -> EnergyModel:
    """Fit every kind of native teacher, and keep the one with the smallest error.

    An anchored label is the parent's own plus the change that the teacher
    sees. So teachers are compared by the changes of force between frames of
    the same atoms (:func:`mdl_physpretrain.teacher.changes.change_skill`):
    those within ``val`` and ``structures`` together, or, where the data hold
    fewer than ten such pairs, or forces change between none, by the forces themselves. One that fails
    its examination is kept only when all fail.

    Parameters
    ----------
    structures, val
        Labelled; the second also chooses the best state of a fit.
    candidates
        Kinds; all that are known by default.
    options
        Of the fits, by kind.
    progress
        Show progress bars.

    Returns
    -------
    EnergyModel
        With ``metadata["comparison"]``: one row per kind.

    Raises
    ------
    ConfigError
        If a kind is unknown, or none can be fitted.
    """
    kinds = registry.teacher_kinds()
    names = [name for name in kinds if name != BestTeacher.name] if candidates is None else list(candidates)
    if not names:
        raise ConfigError("teacher.args.candidates: there is no kind to choose from")
    data = [*(val or ()), *structures]
    with_forces = [atoms for atoms in data if get_labels(atoms).forces is not None]
    pairs = frame_pairs(with_forces)
    rows: list[dict[str, Any]] = []
    fitted: list[EnergyModel] = []
    reasons: dict[str, str] = {}
    for name in names:
        kind = registry.teacher_kind(name, "teacher.args.candidates")
        chosen = (options or {}).get(name) or kind.Options()
        try:
            model = source.fitted_teacher(kind, structures, val, chosen, progress)
            row = _errors(model, with_forces or data, pairs)
        except PhysPretrainError as error:
            reasons[name] = str(error)
            warnings.warn(f"the teacher {name!r} cannot be fitted: {error}", stacklevel=2)
            continue
        examination = model.metadata.get("examination")
        rows.append({"teacher": name, "passed": examination is None or bool(examination["passed"]), **row})
        fitted.append(model)
    if not fitted:
        why = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise ConfigError(f"no native teacher can be fitted to these structures ({why})")
    best = min(range(len(rows)), key=lambda k: (not rows[k]["passed"], rows[k]["error"]))
    if rows[best]["error"] >= rows[best]["trivial"]:
        warnings.warn(
            f"even the best native teacher ({rows[best]['teacher']}) has an error of {rows[best]['error']:.3g} eV/Å in "
            f"{rows[best]['of']}, where predicting none has {rows[best]['trivial']:.3g}: near the data it teaches "
            "nothing; a calculator (teacher.calculator) may know more",
            stacklevel=2,
        )
    for k, row in enumerate(rows):
        row["chosen"] = k == best
    model = fitted[best]
    model.metadata = {**model.metadata, "comparison": rows}
    return model


def _errors(model: EnergyModel, data: Sequence[Atoms], pairs: Sequence[Any]) -> dict[str, Any]:
    """Error of a teacher beside that of predicting none: of changes or forces, eV/Å, else of energies, eV/atom."""
    if len(pairs) >= FEWEST_PAIRS and (skill := change_skill(model, data, pairs)).pairs:
        of = f"force changes of {skill.pairs} pairs of frames"
        return {"error": skill.error, "trivial": skill.trivial, "stiffness": skill.stiffness, "of": of}
    has_forces = get_labels(data[0]).forces is not None
    column, words = ("forces_mae", "forces") if has_forces else ("energy_per_atom_mae", "energies")
    trivial = trivial_errors(data)[column]
    return {"error": evaluate(model, data)[column], "trivial": trivial, "of": f"{words} of {len(data)} structures"}
