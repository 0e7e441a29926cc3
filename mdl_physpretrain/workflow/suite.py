"""Base class of the probes of a run or a check: potentials, structures, simulations, options."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
from ase import Atoms

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.files import write_atomic
from mdl_physpretrain.probes.base import Probe, Subject
from mdl_physpretrain.probes.registry import make_probe, probe_classes
from mdl_physpretrain.stability.limits import Limits
from mdl_physpretrain.workflow.layout import md_file

__all__ = ["Cell", "Suite", "SuiteMaker"]

Cell = tuple[str, int, str]  # arm, seed, label of the simulation


class Suite(ABC):
    """The probes of a run or a check, with all that they need.

    :class:`~mdl_physpretrain.workflow.run_suite.RunSuite` has the trained potentials of a run,
    :class:`~mdl_physpretrain.workflow.check_suite.CheckSuite` those that are given.

    Parameters
    ----------
    config
        A :class:`RunConfig` or :class:`CheckInputs`.
    folder
        Of the run or check.
    """

    #: Columns in front of a probe's table.
    front: ClassVar[tuple[str, str]]
    #: Whether a potential that fails at something is told in the tables (else the exception goes on).
    flags_failures: ClassVar[bool]

    def __init__(self, config: Any, folder: Path) -> None:
        self.config, self.folder = config, folder

    @property
    @abstractmethod
    def options(self) -> Mapping[str, Any]:
        """Of the probes."""

    @abstractmethod
    def includes(self, probe: Probe) -> bool:
        """Whether a probe is wanted at all."""

    @abstractmethod
    def cells(self, probe: Probe) -> list[Cell]:
        """Everything that a probe is applied to, in the order of its joint table."""

    @abstractmethod
    def subject(self, arm: str, seed: int) -> Subject:
        """A potential, for the probes that need nothing else."""

    @abstractmethod
    def potential(self, arm: str, seed: int) -> Any:
        """The potential of an arm and seed."""

    @abstractmethod
    def starts(self, label: str = "") -> list[Atoms]:
        """Structures that a simulation begins with."""

    @abstractmethod
    def simulation(self, arm: str, seed: int, label: str) -> dict[str, Any]:
        """Keyword arguments of ``simulate``."""

    @abstractmethod
    def conditions(self, label: str) -> dict[str, Any]:
        """Columns of ``physicality.csv`` that say what was simulated."""

    @abstractmethod
    def references(self) -> dict[str, list[Atoms]]:
        """Reference trajectories; empty: there are none."""

    @property
    @abstractmethod
    def has_references(self) -> bool:
        """Whether reference trajectories are compared with."""

    def reference_seed(self, seed: int) -> int | None:
        """Seed of the reference potential's simulation beside one; ``None``: there is none."""
        return None

    @abstractmethod
    def reference_potential(self) -> Any:
        """The potential whose MD says what can be kept."""

    @abstractmethod
    def reference_starts(self, label: str = "") -> list[Atoms]:
        """Structures that it is simulated from."""

    @abstractmethod
    def test_structures(self) -> list[Atoms]:
        """Structures, with labels or without, that errors are measured on."""

    def limits(self, label: str) -> Limits:
        """Of what is physical."""
        return Limits()

    def probes(self, applies_to: str, *available: str) -> list[Probe]:
        """The probes of a kind (:attr:`Probe.applies_to`) that are wanted and :meth:`Probe.is_applicable`."""
        probes = [self.probe(name) for name, cls in probe_classes().items() if cls.applies_to == applies_to]
        return [probe for probe in probes if self.includes(probe) and probe.is_applicable(frozenset(available))]

    def probe(self, name: str) -> Probe:
        """A probe with its options."""
        return make_probe(name, self.options)

    def frames_folder(self, arm: str, seed: int, label: str = "") -> Path:
        """Folder of a simulation's trajectories."""
        return self.folder / f"{md_file(seed, arm, label)}.trajectories"

    def table_file(self, probe: Probe, kind: str, cell: Cell) -> str:
        """Where a table of one potential is."""
        arm, seed, label = cell
        if probe.applies_to == "potential":
            return f"seed-{seed}/evaluate/{arm}.{kind}.csv"
        return f"{md_file(seed, arm, label)}{'' if kind == 'physicality' else f'.{kind}'}.csv"

    def with_names(self, table: pd.DataFrame, probe: Probe, cell: Cell) -> pd.DataFrame:
        """A table with the potential and the seed in front."""
        names: dict[str, Any] = dict(zip(("arm", "seed"), cell[:2], strict=True))
        for place, column in enumerate(self.front):
            table.insert(place, column, names[column])
        return table

    def refuse_shared_files(self, cells: Sequence[Cell], probes: Sequence[Probe]) -> None:
        """Raise where tables of two potentials would be one file, as those of ``a`` and of ``a.rdf``.

        Raises
        ------
        ConfigError
            Naming both.
        """
        seen: dict[str, Cell] = {}
        for probe in probes:
            for kind in probe.files:
                for cell in cells:
                    other = seen.setdefault(self.table_file(probe, kind, cell), cell)
                    if other[:2] != cell[:2]:
                        raise ConfigError(
                            f"tables of {cell[0]!r} and of {other[0]!r} would be one file: give one another name"
                        )

    def write(self, probe: Probe, tables: Mapping[str, pd.DataFrame], cell: Cell) -> list[str]:
        """Write the tables of one potential; the names of the files."""
        outputs = []
        for kind, table in tables.items():
            outputs.append(self.table_file(probe, kind, cell))
            named = table if kind == "physicality" else self.with_names(table, probe, cell)
            write_atomic(self.folder / outputs[-1], named.to_csv(index=False))
        return outputs


SuiteMaker = Callable[[Any, Path], Suite]
