"""The potential whose molecular dynamics makes thermal structures: the teacher, or a cheap one that is fitted for it.

Such frames need be plausible, not exact: their labels are the teacher's. An ASE calculator that takes a tenth of a
second for a structure labels a thousand frames in minutes, and would take hours for the MD between them.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ase import Atoms

from mdl_physpretrain import recipe
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.teacher.by_composition import ByComposition
from mdl_physpretrain.teacher.source import fitted_beside

__all__ = ["drives_by_fit", "thermal_driver"]

FILE = "driver.pt"


def drives_by_fit(options: recipe.Augmentation, *, calculator: bool) -> bool:
    """Whether thermal structures come from the MD of a fitted potential; ``calculator``: an ASE calculator teaches."""
    if options.thermal is None or options.thermal_method != "md":
        return False
    return options.thermal_driver == "fitted" or (options.thermal_driver == "auto" and calculator)


def thermal_driver(
    structures: Sequence[Atoms],
    teacher: Any,
    options: recipe.Augmentation,
    *,
    directory: Path | None = None,
    progress: bool = False,
) -> Any:
    """The potential that moves the atoms.

    Parameters
    ----------
    structures
        With energies and forces, to fit to.
    teacher
        An :class:`EnergyModel`, an ASE calculator or a function that makes one.
    options
        ``thermal_driver`` decides.
    directory
        Of the MD; keeps the fitted potential, so that an interrupted call does not fit it again.
    progress
        Show a progress bar of the fit.

    Returns
    -------
    EnergyModel or teacher
        ``teacher`` itself, or the fitted potential: the one of the native teachers that knows changes of force best.
        Where that failed its examination, a warning says so; frames of runaway atoms are dropped, and every label is
        the teacher's.
    """
    if not drives_by_fit(options, calculator=not isinstance(teacher, EnergyModel)):
        return teacher
    if isinstance(teacher, ByComposition):
        return teacher.fitted
    file = None if directory is None else directory / FILE
    driver = fitted_beside(structures, file=file, progress=progress)
    if not (driver.metadata.get("examination") or {"passed": True})["passed"]:
        warnings.warn(
            "the potential fitted to move atoms (augment.thermal_driver) failed its examination: some of its frames "
            "may be odd; their labels are the teacher's",
            stacklevel=2,
        )
    return driver
