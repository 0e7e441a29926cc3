"""The contract of a native teacher: a potential of this package that is fitted to the data before it labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import pandas as pd
from ase import Atoms

from mdl_physpretrain.option_types import Section
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.teacher.examine import Examination

__all__ = ["NativeTeacher"]


class NativeTeacher(ABC):
    """One kind of native teacher; ``teacher.kind`` of a configuration names it.

    A subclass in a file of ``teacher/kinds/``, or named by another package's
    entry point (group ``mdl_physpretrain.teachers``), is known to ``physpretrain
    run``, ``fit-teacher``, both plugins and the report.

    Attributes
    ----------
    name
        In configurations and checkpoints.
    potentials
        Registered names of the potentials that the fitted model is made of. The
        first belongs to this kind alone: a checkpoint of it, saved by whoever,
        is recognised by it. Empty for a kind that chooses among the others.
    Options
        Of the fit: a :class:`~mdl_physpretrain.option_types.Section`, given
        under ``teacher.args``.
    """

    name: ClassVar[str]
    potentials: ClassVar[tuple[str, ...]]
    Options: ClassVar[type[Section]] = Section

    @abstractmethod
    def fit(
        self, structures: Sequence[Atoms], *, val: Sequence[Atoms] | None, options: Any, progress: bool
    ) -> EnergyModel:
        """Fit to labelled structures.

        Parameters
        ----------
        structures, val
            Labelled; the second may choose the best state.
        options
            An instance of :attr:`Options`.
        progress
            Show a progress bar.

        Returns
        -------
        EnergyModel
            What ``metadata["fit"]`` holds of ``history`` (rows of a table with
            the column ``loss``), ``errors``, ``val_errors`` and ``trivial`` is
            shown; errors that are not there are measured.

        Raises
        ------
        PhysPretrainError
            If it cannot be fitted.
        """

    def examine(self, model: Any, structures: Sequence[Atoms]) -> Examination | None:
        """Whether it may label; ``None``: it need not be asked.

        Parameters
        ----------
        model
            A fitted teacher of this kind.
        structures
            The data.
        """
        return None

    def curves(self, model: Any, structures: Sequence[Atoms]) -> pd.DataFrame | None:
        """Energies of pairs for ``teacher/curves.csv``: columns ``pair``, ``r`` (Å), ``total`` and parts (eV)."""
        return None

    def decomposition(self, model: Any, structures: Sequence[Atoms]) -> pd.DataFrame | None:
        """Errors of its parts alone, as of :func:`mdl_physpretrain.teacher.decomposition.eam_decomposition`."""
        return None
