"""What a probe is: a question to a finished potential, its options, its tables, its answer, its part of the report.

A probe is one class in one file of this folder (or of another package, under the entry point group
``mdl_physpretrain.probes``). ``physpretrain run``, ``physpretrain check``, the host plugins and the report use the
same class; nothing else has to know it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from mdl_physpretrain.option_types import Section
from mdl_physpretrain.stability.limits import Limits

if TYPE_CHECKING:
    import pandas as pd
    from ase import Atoms

    from mdl_physpretrain.dynamics.records import Runs
    from mdl_physpretrain.potentials.base import EnergyModel
    from mdl_physpretrain.probes.page import PagePart
    from mdl_physpretrain.probes.single_points import Potential

__all__ = ["Answer", "Probe", "Simulated", "Subject", "Tables"]

Tables = Mapping[str, "pd.DataFrame"]
Answer = tuple[Literal["yes", "no", "value", "not judged"], str]


@dataclass(frozen=True)
class Subject:
    """A potential and the structures that it is evaluated on.

    Attributes
    ----------
    potential
        An :class:`EnergyModel`, an ASE calculator, or a function that makes
        one.
    name
        For warnings.
    splits
        Structures of ``"train"``, ``"val"`` and ``"test"``; of a check all are
        ``"test"``.
    elements
        That the potential is to know.
    choose
        Takes structures and a number, and gives at most so many of them.
    teacher
        The teacher, where there is one.
    flag_failures
        A potential that fails at a part of the question (a pair, a structure)
        gets a row that says so, instead of an exception that ends the probe.
    decimals
        Of long tables; ``None``: all.
    """

    potential: Potential
    name: str = "potential"
    splits: Mapping[str, Sequence[Atoms]] = field(default_factory=dict)
    elements: Sequence[str] = ()
    choose: Callable[[Sequence[Atoms], int], list[Atoms]] = lambda structures, n: list(structures[:n])
    teacher: EnergyModel | None = None
    flag_failures: bool = False
    decimals: int | None = None

    def first_split(self, *names: str) -> Sequence[Atoms]:
        """Structures of the first of these splits that has any."""
        return next((self.splits[name] for name in names if self.splits.get(name)), [])


@dataclass(frozen=True)
class Simulated:
    """A finished simulation.

    Attributes
    ----------
    structures
        That it started from.
    runs
        Its records; ``None`` for probes of frames.
    trajectories
        Folder of its frames, where they were kept.
    references
        Trajectories of a reference, by structure.
    limits
        Of what is physical.
    """

    structures: Sequence[Atoms]
    runs: Runs | None = None
    trajectories: Path | None = None
    references: Mapping[str, Sequence[Atoms]] = field(default_factory=dict)
    limits: Limits = field(default_factory=Limits)


class Probe(ABC):
    """A question to a finished potential.

    Parameters
    ----------
    **options
        Fields of :attr:`Options`.

    Attributes
    ----------
    name
        Of ``--skip`` and of files.
    question
        Whose answer is "yes" when all is well.
    applies_to
        ``"potential"``: :meth:`tables` gets a :class:`Subject`;
        ``"simulation"``: a :class:`Simulated` with records; ``"frames"``: a
        :class:`Simulated` with a folder of trajectories.
    needs
        What there has to be: ``"labels"``, ``"teacher"``, or an ensemble such as
        ``"nve"``.
    compares
        Whether it compares with reference trajectories, where there are any.
    files
        The tables that it fills (``<name>.csv`` of a run folder), each with
        the columns without which it says nothing, beside ``arm`` and ``seed``.
    numbers, flags, texts
        Columns that hold numbers, or true and false, however they were
        written, or text (``007`` and ``NA`` stay what they are).
        ``structure_id`` and others that several tables share are text
        without being named: :data:`mdl_physpretrain.probes.tables.TEXT`.
    Options
        A pydantic section: the ``probe:`` section of a YAML file and
        ``--probe`` of ``physpretrain check`` hold the fields of all probes, so
        their names must say whose they are. (Fields that ``md:`` has are read
        there.)
    expected
        Tables whose absence from the folder of a run the report tells.
    title
        Of its section of the report; empty: it has none of its own.
    answer_place, page_place
        Where it stands among the answers, and among the sections of the page.
    """

    name: ClassVar[str]
    question: ClassVar[str]
    applies_to: ClassVar[Literal["potential", "simulation", "frames"]]
    needs: ClassVar[frozenset[str]] = frozenset()
    compares: ClassVar[bool] = False
    files: ClassVar[Mapping[str, tuple[str, ...]]]
    numbers: ClassVar[tuple[str, ...]] = ()
    flags: ClassVar[tuple[str, ...]] = ()
    texts: ClassVar[tuple[str, ...]] = ()
    Options: ClassVar[type[Section]] = Section
    expected: ClassVar[frozenset[str]] = frozenset()
    title: ClassVar[str] = ""
    answer_place: ClassVar[int] = 100
    page_place: ClassVar[int] = 100

    def __init__(self, **options: Any) -> None:
        self.options: Any = self.Options(**options)

    def is_applicable(self, available: frozenset[str]) -> bool:
        """Whether there is what it needs, and its options do not say no."""
        return self.needs <= available

    def kinds(self, *, references: bool) -> tuple[str, ...]:
        """Which of its :attr:`files` it fills, with reference trajectories or without."""
        return tuple(self.files)

    @abstractmethod
    def tables(self, subject: Any) -> dict[str, pd.DataFrame]:
        """Ask.

        Parameters
        ----------
        subject
            A :class:`Subject` or a :class:`Simulated`, as :attr:`applies_to` says.

        Returns
        -------
        dict
            Tables by kind, without the columns ``arm`` and ``seed``.

        Raises
        ------
        PhysPretrainError
            If the potential cannot answer.
        """

    def reference_tables(self, references: Mapping[str, Sequence[Atoms]]) -> dict[str, pd.DataFrame]:
        """Rows of reference trajectories themselves, as arm ``"reference"``."""
        return {}

    def answer(self, tables: Tables) -> Answer | None:
        """The answer of one potential in a few words.

        Parameters
        ----------
        tables
            All tables of a folder, with the rows of that potential.

        Returns
        -------
        tuple or None
            ``yes``, ``no``, ``value`` (a number without a limit) or ``not
            judged`` (there is too little to say yes or no), and what was
            found; ``None`` where there is nothing to say.
        """
        return None

    def page(self, tables: Tables, arms: Sequence[str], heading: str) -> PagePart | None:
        """What its section of the report holds; ``None``: nothing.

        Parameters
        ----------
        tables
            All tables of the folder, with the columns ``arm`` and ``seed``.
        arms
            Potentials in the order of the page.
        heading
            What they are called, ``"Arm"`` or ``"Potential"``.
        """
        return None
