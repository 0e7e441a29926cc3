"""The EAM as a teacher: Morse pairs and an embedding (section 2.2.2 of the paper)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from ase import Atoms

from mdl_physpretrain import recipe
from mdl_physpretrain.potentials.eam.model import EAM
from mdl_physpretrain.structures.elements import elements_of
from mdl_physpretrain.teacher.base import NativeTeacher
from mdl_physpretrain.teacher.decomposition import eam_decomposition
from mdl_physpretrain.teacher.examine import Examination, examine, teacher_curves
from mdl_physpretrain.teacher.fit import fit_eam

__all__ = ["EAMTeacher"]


class EAMTeacher(NativeTeacher):
    """See :func:`mdl_physpretrain.teacher.fit_eam`."""

    name = "eam"
    potentials = ("eam",)
    Options = recipe.EAMFit

    def fit(self, structures: Sequence[Atoms], *, val: Sequence[Atoms] | None, options: Any, progress: bool) -> EAM:
        return fit_eam(structures, val=val, **options.model_dump(), progress=progress)

    def examine(self, model: EAM, structures: Sequence[Atoms]) -> Examination:
        # pairs of elements that the data have not are no concern of these labels
        known = [e for e in elements_of(structures) if e in model.elements]
        return examine(model.restricted(known) if len(known) < len(model.elements) and known else model, structures)

    def curves(self, model: EAM, structures: Sequence[Atoms]) -> pd.DataFrame:
        return teacher_curves(model, structures)

    def decomposition(self, model: EAM, structures: Sequence[Atoms]) -> pd.DataFrame:
        return eam_decomposition(model, structures)
