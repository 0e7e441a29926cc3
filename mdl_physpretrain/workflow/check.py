"""The whole suite for any potentials, on the same structures."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase import Atoms

from mdl_physpretrain.dynamics import simulate
from mdl_physpretrain.dynamics.assessment import assess
from mdl_physpretrain.errors import CheckpointError, ConfigError, PhysPretrainError
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.identity import potential_fingerprint
from mdl_physpretrain.probes import questions as probes
from mdl_physpretrain.probes.energy_drift import nve_drift
from mdl_physpretrain.probes.questions import probe, rdfs, read_references, reference_rdfs
from mdl_physpretrain.probes.verdicts import verdict_table
from mdl_physpretrain.report import write_report
from mdl_physpretrain.source_graph import dependencies, source_hash
from mdl_physpretrain.statistics.paired import PotentialPair, compare_potentials
from mdl_physpretrain.structures import read_structures
from mdl_physpretrain.workflow.check_folder import CheckFolder, structures_mark
from mdl_physpretrain.workflow.check_settings import MD, CheckSettings

if TYPE_CHECKING:
    import pandas as pd

    from mdl_physpretrain.dynamics.records import Runs
    from mdl_physpretrain.probes.single_points import Potential

__all__ = ["Checked", "check"]

NAME = r"\w[\w.+-]*"


@dataclass
class Checked:
    """What :func:`check` found.

    Attributes
    ----------
    folder
        Where everything is.
    settings
        What was asked.
    tables
        The folder's CSV files by their stem.
    verdicts
        One row per potential and question: ``arm, question, verdict, finding``.
    pairs
        Every potential against the first one, on the main simulation.
    unanswered
        Why a part is missing, by potential and part.
    page
        The report, where one was written.
    """

    folder: Path
    settings: CheckSettings
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    verdicts: pd.DataFrame = field(default=None, repr=False)  # type: ignore[assignment]
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
    progress: bool = False,
    **options: Any,
) -> Checked:
    """Ask potentials the suite's questions, on the same structures, velocities and noise.

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
        not done again.
    references
        Reference trajectories for the RDFs, see
        :func:`~mdl_physpretrain.probes.questions.read_references`.
    described
        What the potentials are, in words, for ``check.json``.
    command
        For ``check.json``.
    report
        Write ``report/index.html``.
    progress
        Show progress bars.
    **options
        Fields of :class:`~mdl_physpretrain.workflow.check_settings.CheckSettings`.

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

    Warns
    -----
    UserWarning
        When a potential fails at a question: the others are still asked.
    """
    settings = CheckSettings(**options)
    _check_names(potentials)
    starts = read_structures(structures)
    known = read_references(references, starts) if references else {}
    if known and not settings.asks("rdf"):
        raise ConfigError("reference trajectories are compared by RDFs of trajectories, which are not asked for")
    folder = CheckFolder(output)
    told = asdict(settings)
    folder.refuse_other(told, (*MD, "nve_steps"))
    probe(potentials, starts)
    folder.describe(
        {
            "version": 1,
            "command": list(command),
            "potentials": {name: (described or {}).get(name, _described(p)) for name, p in potentials.items()},
            "structures": [str(a.info["structure_id"]) for a in starts],
            "settings": told,
        },
        starts,
    )
    work = _Work(folder, settings, starts, known, progress)
    for name, potential in potentials.items():
        work.ask(name, potential)
    return work.finish(list(potentials), report)


class _Work:
    """The questions to one potential after the other, and their joint answers."""

    def __init__(
        self,
        folder: CheckFolder,
        settings: CheckSettings,
        structures: list[Atoms],
        references: dict[str, list[Atoms]],
        progress: bool,
    ) -> None:
        self.folder, self.settings, self.structures = folder, settings, structures
        self.references, self.progress = references, progress
        self.parts: dict[str, list[pd.DataFrame]] = {}
        self.tasks: list[str] = []
        self.unanswered: dict[tuple[str, str], str] = {}

    def ask(self, name: str, potential: Potential) -> None:
        settings, identity = self.settings, potential_fingerprint(potential)
        if isinstance(potential, EnergyModel):
            identity += source_hash(dependencies([type(potential).__module__]))
        judged = probes.labelled(self.structures)
        elements = sorted({s for a in self.structures for s in a.symbols})
        squeezed = self.structures[: settings.compressed]
        if judged and settings.asks("errors"):
            mark = self.folder.mark(identity, "errors", structures_mark(judged, labels=True))
            self._tables(name, potential, "errors", mark, lambda: probes.errors(potential, judged))
        if settings.asks("diatomics"):
            mark = self.folder.mark(identity, elements, ())
            self._tables(name, potential, "diatomics", mark, lambda: probes.curves_of_pairs(potential, elements))
        if settings.asks("compression"):
            mark = self.folder.mark(identity, "compression", structures_mark(squeezed))
            self._tables(name, potential, "compression", mark, lambda: probes.compress(potential, squeezed))
        if settings.asks("nve"):
            self._attempt(name, potential, "nve", lambda: self._conserve(name, potential, identity))
        for seed in settings.seeds:
            self._attempt(name, potential, "md", lambda seed=seed: self._simulate(name, potential, identity, seed))  # type: ignore[misc]

    def finish(self, names: list[str], report: bool) -> Checked:
        """Join the tables, judge, compare, write the page."""
        if self.references and "rdf" in self.parts:
            self.parts["rdf"].append(reference_rdfs(self.references, self.settings.r_max))
        kinds = ("efs", "diatomics", "diatomic_flags", "compression", "compression_flags", "nve", "physicality", "rdf")
        tables = {kind: self.folder.write(kind, self.parts.get(kind, [])) for kind in (*kinds, "rdf_errors")}
        found = Checked(self.folder.path, self.settings, {k: t for k, t in tables.items() if t is not None})
        found.unanswered = self.unanswered
        found.verdicts = verdict_table(found.tables, names, self.unanswered)
        self.folder.write("verdicts", [found.verdicts])
        self.folder.write_timings(self.tasks)
        if "physicality" in found.tables:
            table = found.tables["physicality"]
            table = table[table["label"].isna()]
            found.pairs = [compare_potentials(table, names[0], other) for other in names[1:]]
        if report:
            found.page = write_report(self.folder.path)
        return found

    def _simulate(self, name: str, potential: Potential, identity: str, seed: int) -> None:
        settings, extra = self.settings, {}
        file = self.folder.md_file(name, seed)
        frames = file.with_name(f"{file.name}.trajectories")
        if settings.trajectory_interval is not None:
            extra = {"trajectory_dir": frames, "trajectory_interval": settings.trajectory_interval}
        self._runs(name, potential, identity, seed, "", self.structures, settings.simulation(), extra)
        if settings.asks("rdf"):
            inputs = [("md", self.folder.records.hash(f"{file.relative_to(self.folder.path)}.runs.npz"))]
            inputs += [(i, str([m for _, m in structures_mark(_named(f, i))])) for i, f in self.references.items()]
            mark = self.folder.mark(identity, ["rdf", settings.r_max], inputs)
            self._tables(
                name,
                potential,
                f"rdf of seed {seed}",
                mark,
                lambda: rdfs(frames, self.structures, self.references, settings.r_max),
                seed=seed,
            )

    def _conserve(self, name: str, potential: Potential, identity: str) -> None:
        settings = self.settings
        changes = {"ensemble": "nve", "steps": settings.nve_steps, "trace_interval": max(1, settings.nve_steps // 100)}
        chosen = self.structures[: settings.nve_structures]
        options = settings.simulation() | changes
        runs = self._runs(name, potential, identity, settings.seeds[0], settings.nve_label, chosen, options, {})
        table = nve_drift(runs)
        table.insert(0, "arm", name)
        table.insert(1, "seed", settings.seeds[0])
        self.parts.setdefault("nve", []).append(table)

    def _runs(
        self,
        name: str,
        potential: Potential,
        identity: str,
        seed: int,
        label: str,
        structures: list[Atoms],
        options: dict[str, Any],
        extra: dict[str, Any],
    ) -> Runs:
        """Simulate what is not simulated yet; its rows of the table of physicality."""
        file = self.folder.md_file(name, seed, label)
        checkpoint = file.with_name(f"{file.name}.runs.npz")
        task = f"md {name} seed {seed} {label}".strip()
        mark = self.folder.mark(identity, [options, seed], structures_mark(structures))
        known = self.folder.records.done(task)
        begin = time.perf_counter()
        runs = simulate(
            potential, structures, seed=seed, checkpoint=checkpoint, progress=self.progress, **options, **extra
        )  # fmt: skip
        if known is None or known["fingerprint"] != mark:
            output = str(checkpoint.relative_to(self.folder.path))
            self.folder.records.finish(task, mark, [output], time.perf_counter() - begin)
        self.tasks.append(task)
        conditions = {key: options[key] for key in ("ensemble", "temperature", "timestep", "steps")}
        rows = assess(runs).assign(seed=seed, arm=name, **conditions, label=label or None)
        self.parts.setdefault("physicality", []).append(rows)
        return runs

    def _tables(
        self,
        name: str,
        potential: Potential,
        part: str,
        mark: str,
        make: Callable[[], dict[str, pd.DataFrame]],
        *,
        seed: int = 0,
    ) -> None:
        task = f"{part} of {name}"

        def ask() -> None:
            for kind, table in self.folder.tables(name, task, mark, make, seed=seed).items():
                self.parts.setdefault(kind, []).append(table)
            self.tasks.append(task)

        self._attempt(name, potential, part.split()[0], ask)

    def _attempt(self, name: str, potential: Potential, part: str, ask: Callable[[], None]) -> None:
        """Ask; what a potential cannot answer is noted and does not stop the rest."""
        try:
            ask()
        except CheckpointError:
            raise
        except Exception as error:  # whatever a foreign calculator raises
            if isinstance(potential, EnergyModel) and not isinstance(error, PhysPretrainError):
                raise
            reason = str(error) if isinstance(error, PhysPretrainError) else f"{type(error).__name__}: {error}"
            self.unanswered[name, part] = reason
            warnings.warn(f"{name} could not answer {part}: {reason}", stacklevel=2)


def _check_names(potentials: Mapping[str, Any]) -> None:
    if not potentials:
        raise ConfigError("no potential to check")
    for name in potentials:
        if not re.fullmatch(NAME, name) or name == "reference":
            raise ConfigError(
                f"a potential cannot be called {name!r}: letters, digits and . + - _ only, and not 'reference'"
            )


def _described(potential: Any) -> str:
    if isinstance(potential, EnergyModel):
        return potential.registry_name
    return str(getattr(potential, "__qualname__", type(potential).__qualname__))


def _named(frames: Sequence[Atoms], name: str) -> list[Atoms]:
    """Copies that all have the id of their structure."""
    copies = [a.copy() for a in frames]
    for a in copies:
        a.info["structure_id"] = name
    return copies
