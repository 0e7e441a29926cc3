"""The check of finished potentials: its tasks, tables and answers, with the runner of a run."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms

from mdl_physpretrain.dynamics import simulate
from mdl_physpretrain.dynamics.checkpoint import MDCheckpoint, OlderRecords
from mdl_physpretrain.dynamics.settings import MDSettings
from mdl_physpretrain.errors import CheckpointError, ConfigError, PhysPretrainError, StructureError
from mdl_physpretrain.executors.transfer import send
from mdl_physpretrain.files import write_atomic
from mdl_physpretrain.ownership import claim_folder
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.identity import is_calculator, potential_fingerprint
from mdl_physpretrain.probes.accuracy import labelled
from mdl_physpretrain.probes.references import read_references
from mdl_physpretrain.probes.registry import probe_answers, table_kinds
from mdl_physpretrain.probes.tables import joined, read_table
from mdl_physpretrain.report import write_report
from mdl_physpretrain.statistics.paired import PotentialPair, compare_potentials
from mdl_physpretrain.structures import read_structures
from mdl_physpretrain.structures.fingerprint import structure_hash
from mdl_physpretrain.workflow.check_suite import MD, CheckInputs, CheckSettings, CheckSuite, check_names
from mdl_physpretrain.workflow.folder import environment, write_timings
from mdl_physpretrain.workflow.layout import md_file
from mdl_physpretrain.workflow.lock import locked, prepare_folder
from mdl_physpretrain.workflow.plan import probe_modules
from mdl_physpretrain.workflow.records import Records, note_written, refuse_shared_records, remove_written
from mdl_physpretrain.workflow.run import MAX_JOBS, RunResult, execute
from mdl_physpretrain.workflow.stages.collect import joint_table
from mdl_physpretrain.workflow.stages.evaluate import evaluate_potential
from mdl_physpretrain.workflow.stages.frames import read_frames
from mdl_physpretrain.workflow.stages.md import simulate_potential
from mdl_physpretrain.workflow.task import Task

if TYPE_CHECKING:
    import pandas as pd

    from mdl_physpretrain.probes.single_points import Potential

__all__ = ["Checked", "check"]


@dataclass
class Checked:
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


def check(
    potentials: Mapping[str, Potential],
    structures: Any,
    *,
    output: str | Path,
    references: Sequence[str] = (),
    described: Mapping[str, str] | None = None,
    command: Sequence[str] = (),
    report: bool = True,
    jobs: int = 1,
    progress: bool = False,
    listener: Callable[[str, Task, float], None] | None = None,
    **options: Any,
) -> Checked:
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
    described
        What the potentials are, in words, for ``check.json``.
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
    **options
        Fields of :class:`~mdl_physpretrain.workflow.check_suite.CheckSettings`.

    Returns
    -------
    Checked

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
    starts = read_structures(structures)
    reference_frames = read_references(references, starts) if references else {}
    if reference_frames and not settings.compares:
        raise ConfigError("reference trajectories are compared by RDFs of trajectories, which are not asked for")
    if not 1 <= jobs <= MAX_JOBS:
        raise ConfigError(f"jobs must lie between 1 and {MAX_JOBS}, not {jobs}")
    folder = Path(output)
    inputs = CheckInputs(potentials, starts, reference_frames, settings)
    suite = CheckSuite(inputs, folder)
    for applies_to in ("potential", "frames"):
        suite.probes(applies_to)  # options out of range are told now
    given = () if isinstance(structures, Atoms) else structures
    _open(folder, settings, [given, references, (described or {}).values()])
    _see_every_element(potentials, starts)
    with locked(folder):
        work = _Check(suite)
        work.refuse_other_potentials()
        words = {name: (described or {}).get(name, _described(p)) for name, p in potentials.items()}
        _describe(folder, inputs, words, command)
        if jobs > 1:
            inputs = CheckInputs({name: send(p) for name, p in potentials.items()}, starts, reference_frames, settings)
        return work.run(inputs, report, jobs=jobs, progress=progress, listener=listener)


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
        refuse_shared_records(task.name for task in self.tasks)
        cells = [(name, seed, label) for name in suite.config.potentials for seed, label in self._simulations()]
        kinds = [*suite.probes("potential", "labels"), *suite.probes("simulation", "nvt", "npt", "nve")]
        suite.refuse_shared_files(cells, [*kinds, *suite.probes("frames")])

    def _add_tasks(self, name: str, potential: Any) -> None:
        suite, settings = self.suite, self.settings
        arguments: dict[str, Any] = {"suite_class": CheckSuite, "arm": name}
        identity, models = potential_fingerprint(potential), _potential_modules(potential)
        structures = suite.config.structures
        available = ("labels",) if labelled(structures) else ()
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
                scratch=(f"{start}.runs.npz", f"{start}.trajectories"), growing=tuple(_hashes(suite.starts(label))),
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

    def run(self, inputs: CheckInputs, report: bool, **options: Any) -> Checked:
        """Do what is not done; join the tables, answer, compare, write the page."""
        result = RunResult(self.folder)
        execute(self.tasks, inputs, self.records, result, tolerate=self._tolerate, **options)
        answered = {name: status for name, status in result.status.items() if status != "failed"}
        write_timings(self.folder, self.tasks, answered, result.seconds)
        stored = [self.records.read(name) for name in answered]
        written = {file for record in stored if record is not None for file in record["outputs"]}
        checked = Checked(self.folder, self.settings, self._tables(written), unanswered=self.unanswered)
        names = list(inputs.potentials)
        checked.answers = probe_answers(checked.tables, names, self.unanswered, self.settings.options)
        if len(checked.answers):
            write_atomic(self.folder / "verdicts.csv", checked.answers.to_csv(index=False))
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
        if isinstance(error, CheckpointError) or (
            isinstance(self.suite.config.potentials[name], EnergyModel) and not ours
        ):
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
            parts = joint_table(self.suite, probe, kind, cells) if self.suite.includes(probe) and cells else []
            if parts := [part for part in parts if len(part)]:
                write_atomic(file, joined(parts))
                note_written(self.folder, [file.name])
                tables[kind] = read_table(file, texts=cls.texts)
            else:
                remove_written(self.folder, file.name)
        return tables


def _open(folder: Path, settings: CheckSettings, inputs: Sequence[Any]) -> None:
    """Create the folder, and make sure that it is ours and holds no run and no MD under other conditions."""
    if (folder / "config.yaml").exists():
        raise ConfigError(f"{folder} is the folder of a run: choose another output folder")
    try:
        prepare_folder(folder)
    except PhysPretrainError as error:
        raise ConfigError(str(error)) from error
    claim_folder(folder, "check", inputs=inputs)
    try:
        stored = json.loads((folder / "check.json").read_text())["settings"]
        options = json.loads(json.dumps(asdict(settings)))
        changed = [key for key in (*MD, "nve_steps") if stored.get(key) != options[key]]
    except FileNotFoundError:
        return
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{folder / 'check.json'} is damaged ({error}): choose another folder") from error
    if changed:
        differences = ", ".join(f"{key} {stored.get(key)} instead of {options[key]}" for key in changed)
        raise ConfigError(f"{folder} holds a check with {differences}: choose another output folder")


def _see_every_element(potentials: Mapping[str, Potential], structures: Sequence[Atoms]) -> None:
    """Let every potential see every element once, before any long work.

    Raises ConfigError naming it and the structure.
    """
    first: dict[str, Atoms] = {}
    for atoms in sorted(structures, key=len):
        for symbol in set(atoms.symbols):
            first.setdefault(symbol, atoms)
    chosen = list({id(a): a for a in first.values()}.values())
    for name, potential in potentials.items():
        try:
            simulate(potential, chosen, ensemble="nve", steps=0)
        except (ConfigError, StructureError) as error:
            raise ConfigError(f"potential {name}: {error}") from error


def _describe(folder: Path, plan: CheckInputs, potentials: Mapping[str, str], command: Sequence[str]) -> None:
    """Write ``check.json``, ``environment.json`` and ``data/summary.json``."""
    sizes = [len(a) for a in plan.structures]
    content = {
        "version": 1,
        "command": list(command),
        "potentials": dict(potentials),
        "structures": [str(a.info["structure_id"]) for a in plan.structures],
        "settings": asdict(plan.settings),
    }
    summary = {
        "source": "structures of the check",
        "n_test": len(plan.structures),
        "elements": sorted({s for a in plan.structures for s in a.symbols}),
        "n_atoms": {"min": min(sizes), "max": max(sizes), "mean": float(np.mean(sizes))},
    }
    for name, value in (
        ("check.json", content),
        ("environment.json", environment(command, plan.settings.seeds)),
        ("data/summary.json", summary),
    ):
        write_atomic(folder / name, json.dumps(value, indent=1))


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
