"""The check of finished potentials: its tasks, tables and answers, with the runner of a run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase import Atoms

from mdl_physpretrain.dynamics.checkpoint import MDCheckpoint, OlderRecords
from mdl_physpretrain.dynamics.settings import MDSettings
from mdl_physpretrain.errors import CheckpointError, ConfigError, PhysPretrainError
from mdl_physpretrain.executors.transfer import send
from mdl_physpretrain.locking import locked
from mdl_physpretrain.ownership import write_again
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.identity import is_calculator, package_versions, potential_fingerprint
from mdl_physpretrain.probes.accuracy import labelled
from mdl_physpretrain.probes.references import read_references
from mdl_physpretrain.probes.registry import probe_answers, table_kinds
from mdl_physpretrain.probes.tables import joined, read_table
from mdl_physpretrain.report import write_report
from mdl_physpretrain.report.conditions import too_short, with_outcomes
from mdl_physpretrain.statistics.paired import PotentialPair, compare_potentials
from mdl_physpretrain.statistics.reference import REFERENCE_POTENTIAL
from mdl_physpretrain.structures import read_structures
from mdl_physpretrain.structures.fingerprint import structure_hash
from mdl_physpretrain.workflow.check_folder import describe_check, open_folder
from mdl_physpretrain.workflow.check_suite import CheckInputs, CheckSettings, CheckSuite, check_names
from mdl_physpretrain.workflow.dependencies import probe_modules
from mdl_physpretrain.workflow.folder import write_timings
from mdl_physpretrain.workflow.layout import md_file, md_scratch
from mdl_physpretrain.workflow.records import Records, note_written, refuse_shared_records, remove_written
from mdl_physpretrain.workflow.reference import see_every_element
from mdl_physpretrain.workflow.run import MAX_JOBS, RunResult, execute
from mdl_physpretrain.workflow.stages.collect import joint_table
from mdl_physpretrain.workflow.stages.evaluate import evaluate_potential
from mdl_physpretrain.workflow.stages.frames import read_frames
from mdl_physpretrain.workflow.stages.md import simulate_potential
from mdl_physpretrain.workflow.stages.reference import simulate_reference
from mdl_physpretrain.workflow.stages.reference_errors import MOST_STRUCTURES, measure_reference
from mdl_physpretrain.workflow.task import Task
from mdl_physpretrain.workflow.watch import Watch

if TYPE_CHECKING:
    import pandas as pd

    from mdl_physpretrain.probes.single_points import Potential

__all__ = ["CheckResult", "check"]


@dataclass
class CheckResult:
    """What :func:`check` found.

    Attributes
    ----------
    folder
        Where everything is.
    settings
        The options.
    tables
        The folder's CSV files by their stem.
    answers
        One row per potential and question: ``arm, question, verdict, finding``.
    pairs
        Every potential against the first one, on the main simulation.
    unanswered
        Why a part is missing, by potential and probe.
    page
        The report, where one was written.
    """

    folder: Path
    settings: CheckSettings
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    answers: pd.DataFrame = field(default=None, repr=False)  # type: ignore[assignment]
    pairs: list[PotentialPair] = field(default_factory=list)
    unanswered: dict[tuple[str, str], str] = field(default_factory=dict)
    page: Path | None = None

    @property
    def short(self) -> str:
        """A sentence where the MD is too short for a claim."""
        table = self.tables.get("physicality")
        return "" if table is None else too_short(with_outcomes(table.copy()))


def check(
    potentials: Mapping[str, Potential],
    structures: Any,
    *,
    output: str | Path,
    references: Sequence[str] = (),
    reference_potential: Potential | None = None,
    described: Mapping[str, str] | None = None,
    command: Sequence[str] = (),
    report: bool = True,
    jobs: int = 1,
    progress: bool = False,
    listener: Callable[[str, Task, float], None] | None = None,
    say: Callable[[str], None] | None = None,
    **options: Any,
) -> CheckResult:
    """Ask potentials the questions of all probes, on the same structures, velocities and noise.

    Parameters
    ----------
    potentials
        By name: an :class:`EnergyModel`, an ASE calculator, or a function that
        makes one (see :func:`mdl_physpretrain.hosts.loading.load_potential`).
    structures
        What :func:`mdl_physpretrain.structures.read_structures` reads:
        structures, files, patterns. Errors are those of the labelled ones.
    output
        Folder to fill, laid out as that of a run (``check.json`` says what it
        is). Another call with the same folder goes on; what has not changed is
        not done again. MD of other code moves to ``.replaced``.
    references
        Reference trajectories for the RDFs, see
        :func:`~mdl_physpretrain.probes.references.read_references`.
    reference_potential
        Its MD from the same starts, velocities and noise stands beside that of
        the others: what it loses, too, is not held against them
        (:func:`mdl_physpretrain.statistics.reference.beside_reference`).
    described
        What the potentials are, in words, for ``check.json``; the reference
        potential is called ``"reference potential"``.
    command
        For ``check.json``.
    report
        Write ``report/index.html``.
    jobs
        Tasks at the same time, each in a process with one thread.
    progress
        Show progress bars.
    listener
        See :func:`mdl_physpretrain.workflow.run.run_pipeline`; also called
        with ``"fail"``.
    say
        Called now and then with a line on what is at work.
    **options
        Fields of :class:`~mdl_physpretrain.workflow.check_suite.CheckSettings`.

    Returns
    -------
    CheckResult

    Raises
    ------
    ConfigError
        If an option is out of range, a name cannot be used, the folder holds
        something else, or a potential fails on one of the elements. All of
        this is found before the work begins.
    StructureError
        If a file or a structure cannot be used.
    CheckpointError
        If the folder holds MD of another potential of that name.

    Warns
    -----
    UserWarning
        When a potential fails at a question: the others are still asked.
    """
    settings = CheckSettings(**options)
    check_names(potentials)
    starts = read_structures(structures, check="labels" if settings.uses_labels else "atoms")
    missing = sorted(set(settings.md_structures or ()) - {str(atoms.info["structure_id"]) for atoms in starts})
    if missing or settings.md_structures == ():
        raise ConfigError(f"md_structures: no structure {', '.join(missing)} is given")
    reference_frames = read_references(references, starts) if references else {}
    if reference_frames and not settings.compares:
        raise ConfigError("reference trajectories are compared by RDFs of trajectories, which are not asked for")
    if not 1 <= jobs <= MAX_JOBS:
        raise ConfigError(f"jobs must lie between 1 and {MAX_JOBS}, not {jobs}")
    folder = Path(output)
    if reference_potential is None and settings.reference_structures is not None:
        raise ConfigError("reference_structures is about a reference potential, which is not given")
    inputs = CheckInputs(potentials, starts, reference_frames, settings, reference_potential)
    suite = CheckSuite(inputs, folder)
    for applies_to in ("potential", "frames"):
        suite.probes(applies_to)  # options out of range are told now
    given = () if isinstance(structures, Atoms) else structures
    open_folder(folder, settings, [given, references, (described or {}).values()])
    see_every_element({f"potential {name}": p for name, p in potentials.items()}, starts)
    if reference_potential is not None:
        beside = {REFERENCE_POTENTIAL: reference_potential}
        see_every_element(beside, suite.reference_starts(), "npt" if settings.ensemble == "npt" else "nve")
    with locked(folder), Watch(folder, say or (lambda line: None), bars=progress and jobs == 1) as watch:

        def note(event: str, task: Task, seconds: float) -> None:
            watch.note(event, task, seconds)
            if listener is not None:
                listener(event, task, seconds)

        work = _Check(suite)
        work.refuse_other_potentials()
        everything = {**potentials, REFERENCE_POTENTIAL: reference_potential}
        words = {name: (described or {}).get(name, _described(p)) for name, p in everything.items() if p is not None}
        describe_check(folder, inputs, words, command)
        if jobs > 1:
            reference = None if reference_potential is None else send(reference_potential)
            sent = {name: send(p) for name, p in potentials.items()}
            inputs = CheckInputs(sent, starts, reference_frames, settings, reference)
        return work.run(inputs, report, jobs=jobs, progress=progress, listener=note)


class _Check:
    """The tasks of a check and what became of them."""

    def __init__(self, suite: CheckSuite) -> None:
        self.suite, self.settings, self.folder = suite, suite.settings, suite.folder
        self.records = Records(suite.folder)
        self.unanswered: dict[tuple[str, str], str] = {}
        self.owner: dict[str, tuple[str, tuple[str, ...]]] = {}  # of a task: potential and probes
        self.tasks: list[Task] = []
        for name, potential in suite.config.potentials.items():
            self._add_tasks(name, potential)
        if suite.config.reference_potential is not None:
            self._add_reference(suite.config.reference_potential)
        refuse_shared_records(task.name for task in self.tasks)
        cells = [(name, seed, label) for name in suite.config.potentials for seed, label in self._simulations()]
        kinds = [*suite.probes("potential", "labels"), *suite.probes("simulation", "nvt", "npt", "nve")]
        suite.refuse_shared_files(cells, [*kinds, *suite.probes("frames")])

    def _add_tasks(self, name: str, potential: Any) -> None:
        suite, settings = self.suite, self.settings
        arguments: dict[str, Any] = {"suite_class": CheckSuite, "arm": name}
        identity, models = potential_fingerprint(potential), _potential_modules(potential)
        structures = suite.config.structures
        available = ("labels",) if settings.uses_labels and labelled(structures) else ()
        hashes = tuple(_hashes(structures))
        for probe in suite.probes("potential", *available):
            mark = tuple(_hashes(structures, labels=True)) if "labels" in probe.needs else hashes
            work = partial(evaluate_potential, **arguments, seed=0, probes=(probe.name,))
            section = [identity, probe.name, probe.options.model_dump()]
            modules = (*models, *probe_modules([probe]))
            self._add(name, (probe.name,), Task(f"{probe.name} of {name}", "evaluate", work, section, fixed=mark,
                                             modules=modules, parallel=True))  # fmt: skip
        for seed, label in self._simulations():
            start, of_md = md_file(seed, name, label), f"md {name} seed {seed} {label}".strip()
            probes = suite.probes("simulation", suite.conditions(label)["ensemble"])
            self._add(name, settings.simulated(label), Task(
                of_md, "md", partial(simulate_potential, **arguments, seed=seed, label=label),
                [identity, settings.simulation(label), seed, None if label else settings.trajectory_interval],
                scratch=md_scratch(start), growing=tuple(_hashes(suite.starts(label))),
                modules=(*models, *probe_modules(probes)), parallel=True,
            ))  # fmt: skip
            for probe in suite.probes("frames") if not label else ():
                references = [
                    (f"{structure} {k}", digest)
                    for structure, frames in suite.config.references.items()
                    for k, (_, digest) in enumerate(_hashes(frames))
                ]
                work = partial(read_frames, **arguments, seed=seed, probe=probe.name)
                self._add(name, (probe.name,), Task(
                    f"{probe.name} of seed {seed} of {name}", "frames", work, [identity, probe.options.model_dump()],
                    inputs=(f"{start}.runs.npz",), needs=(of_md,), fixed=tuple(references),
                    modules=probe_modules([probe]), parallel=True,
                ))  # fmt: skip

    def _add_reference(self, potential: Any) -> None:
        """Its errors, and its MD for every seed, which are those of velocities and noise here."""
        suite, models = self.suite, _potential_modules(potential)
        versions = [package_versions(module) for module in models if not isinstance(potential, EnergyModel)]
        self._add(REFERENCE_POTENTIAL, ("errors",), Task(
            "errors of the reference potential", "evaluate", partial(measure_reference, suite_class=CheckSuite),
            [potential_fingerprint(potential), versions, MOST_STRUCTURES],
            fixed=tuple(_hashes(suite.test_structures(), labels=True)), modules=models, parallel=True,
        ))  # fmt: skip
        for seed in self.settings.seeds:
            start = md_file(seed, REFERENCE_POTENTIAL)
            section = [potential_fingerprint(potential), versions, self.settings.simulation(""), seed,
                       self.settings.trajectory_interval]  # fmt: skip
            self._add(REFERENCE_POTENTIAL, ("md",), Task(
                f"md of the reference potential seed {seed}", "md",
                partial(simulate_reference, suite_class=CheckSuite, seed=seed), section,
                scratch=md_scratch(start),
                growing=tuple(_hashes(suite.reference_starts())), modules=models, parallel=True,
            ))  # fmt: skip

    def _simulations(self) -> list[tuple[int, str]]:
        """Seeds and labels of what is simulated."""
        settings = self.settings
        first = [(settings.seeds[0], settings.nve_label)] if settings.simulated(settings.nve_label) else []
        return [*first, *((seed, "") for seed in settings.seeds)]

    def _add(self, name: str, probes: tuple[str, ...], task: Task) -> None:
        self.tasks.append(task)
        self.owner[task.name] = name, probes

    def refuse_other_potentials(self) -> None:
        """Make sure that the MD that is there is of these potentials and structures.

        That of older versions, whose structures cannot be recognised, is
        moved away by the task that does it again.
        """
        for probe in self.suite.probes("simulation"):
            for name, seed, label in self.suite.cells(probe):
                options = self.settings.simulation(label)
                del options["engine"]
                potential = potential_fingerprint(self.suite.potential(name, seed))
                file = self.folder / f"{md_file(seed, name, label)}.runs.npz"
                with suppress(OlderRecords):
                    MDCheckpoint(file, MDSettings(seed=seed, **options), potential, self.suite.starts(label))

    def run(self, inputs: CheckInputs, report: bool, **options: Any) -> CheckResult:
        """Do what is not done; join the tables, answer, compare, write the page."""
        result = RunResult(self.folder)
        execute(self.tasks, inputs, self.records, result, tolerate=self._tolerate, **options)
        answered = {name: status for name, status in result.status.items() if status != "failed"}
        write_timings(self.folder, self.tasks, answered, result.seconds)
        stored = [self.records.read(name) for name in answered]
        written = {file for record in stored if record is not None for file in record["outputs"]}
        checked = CheckResult(self.folder, self.settings, self._tables(written), unanswered=self.unanswered)
        names = list(inputs.potentials)
        checked.answers = probe_answers(checked.tables, names, self.unanswered, self.settings.options)
        if len(checked.answers):
            write_again(self.folder, "verdicts.csv", checked.answers.to_csv(index=False))
            note_written(self.folder, ["verdicts.csv"])
        else:
            remove_written(self.folder, "verdicts.csv")
        if "physicality" in checked.tables:
            table = checked.tables["physicality"]
            table = table[table["label"].isna()]
            checked.pairs = [compare_potentials(table, names[0], other) for other in names[1:]]
        if report:
            checked.page = write_report(self.folder)
        return checked

    def _tolerate(self, task: Task, error: Exception) -> bool:
        """Note what a potential cannot answer; errors of our own code, and of the folder, end the check."""
        name, probes = self.owner[task.name]
        ours = isinstance(error, PhysPretrainError)
        inputs = self.suite.config
        failed = inputs.reference_potential if name == REFERENCE_POTENTIAL else inputs.potentials[name]
        if isinstance(error, CheckpointError) or (isinstance(failed, EnergyModel) and not ours):
            return False
        reason = str(error) if ours else f"{type(error).__name__}: {error}"
        self.unanswered |= {(name, probe): reason for probe in probes}
        warnings.warn(f"{name} could not answer {', '.join(probes)}: {reason}", stacklevel=2)
        return True

    def _tables(self, written: set[str]) -> dict[str, pd.DataFrame]:
        """Join the potentials' tables in the folder; an older one without successor is removed."""
        tables = {}
        for kind, cls in table_kinds().items():
            probe, file = self.suite.probe(cls.name), self.folder / f"{kind}.csv"
            cells = [c for c in self.suite.cells(probe) if self.suite.table_file(probe, kind, c) in written]
            parts = []
            if self.suite.includes(probe) and cells:
                parts = joint_table(self.suite, probe, kind, cells, written=written)
            if parts := [part for part in parts if len(part)]:
                write_again(self.folder, file.name, joined(parts))
                note_written(self.folder, [file.name])
                tables[kind] = read_table(file, texts=cls.texts)
            else:
                remove_written(self.folder, file.name)
        return tables


def _described(potential: Any) -> str:
    if isinstance(potential, EnergyModel):
        return potential.registry_name
    return str(getattr(potential, "__qualname__", type(potential).__qualname__))


def _potential_modules(potential: Any) -> tuple[str, ...]:
    """Modules whose code a potential runs: of a network and its parts, of a calculator or its factory."""
    if isinstance(potential, EnergyModel):
        return tuple(sorted({type(m).__module__ for m in potential.modules() if isinstance(m, EnergyModel)}))
    if is_calculator(potential):
        return (type(potential).__module__,)
    name = str(getattr(potential, "__qualname__", ""))
    module, colon, _ = name.partition(":")  # "module:factory" of the command line
    return (module if colon else str(getattr(potential, "__module__", "")),)


def _hashes(structures: Sequence[Atoms], *, labels: bool = False) -> list[tuple[str, str]]:
    """Id and hash of every structure, with what it is labelled with when that matters."""
    return [(str(a.info.get("structure_id", "")), structure_hash(a, labels=labels)) for a in structures]
