"""Reading of a run folder, any part of which may be missing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from mdl_physpretrain.dynamics.records import Runs
from mdl_physpretrain.errors import CheckpointError, PhysPretrainError
from mdl_physpretrain.ownership import LEFT, MARK
from mdl_physpretrain.probes.registry import probe_answers, table_kinds
from mdl_physpretrain.report.conditions import with_outcomes
from mdl_physpretrain.report.parse import (
    attempt,
    read_check,
    read_examination,
    read_filter,
    read_json,
    read_mapping,
    read_timings,
    table_reader,
)
from mdl_physpretrain.stability.limits import VARIANTS
from mdl_physpretrain.statistics.reference import REFERENCE_POTENTIAL
from mdl_physpretrain.training.replay_scope import SCOPE

__all__ = ["RunData", "md_files", "read_left", "read_run", "refuse_foreign"]

OF_REFERENCE = "reference"  # arm of reference trajectories
REPLAY_COLUMNS = [
    "scope", "n_labels", "network_error", "teacher_error", "tolerance", "lost", "lost_closer", "simulated",
]  # fmt: skip
REFERENCE = "baseline"  # the arm that the others are compared with


@dataclass
class RunData:
    """Contents of a run folder, or of a check's (``is_check``); ``None`` where a part is missing, ``notes`` says why.

    ``physicality`` has the columns ``arm, seed, condition, md`` (the condition without its length), ``broken`` (NaN or
    explosion) and ``outcome``; ``tables`` are those of the other probes by kind; ``histories`` are by (seed, training);
    ``rounds`` are those of the closed loops of all seeds and arms, ``replay`` says which labels each of them replayed.
    ``left`` are the tasks that are not done as the configuration says: what hangs on them is missing, or of before.
    """

    path: Path
    is_check: bool = False
    check: dict[str, Any] | None = None
    config: dict[str, Any] | None = None
    config_text: str | None = None
    environment: Any = None
    timings: list[dict[str, Any]] | None = None
    summary: dict[str, Any] | None = None
    examination: dict[str, Any] | None = None
    teacher_errors: dict[str, Any] | None = None
    teacher_history: pd.DataFrame | None = None
    curves: pd.DataFrame | None = None
    decomposition: pd.DataFrame | None = None
    filter: dict[str, Any] | None = None
    distances: pd.DataFrame | None = None
    coverage: pd.DataFrame | None = None
    comparison: pd.DataFrame | None = None
    change_errors: pd.DataFrame | None = None
    rounds: pd.DataFrame | None = None
    replay: pd.DataFrame | None = None
    plan: dict[str, Any] | None = None
    answers: pd.DataFrame | None = None
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    physicality: pd.DataFrame | None = None
    efs: pd.DataFrame | None = None
    reference: dict[str, Any] | None = None
    reference_errors: dict[str, Any] | None = None
    histories: dict[tuple[int, str], pd.DataFrame] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The run's name: that of the configuration, else that of the folder."""
        name = (self.config or {}).get("name")
        return str(name) if name else self.path.resolve().name

    @property
    def title(self) -> str:
        """Heading of the page."""
        if not self.is_check:
            return self.name
        n = len(self.judged)
        return f"Check of {n} potential{'' if n == 1 else 's'}"

    @property
    def judged(self) -> list[str]:
        """Arms without the reference potential, which is there to compare with."""
        return [arm for arm in self.arms if arm != REFERENCE_POTENTIAL]

    @property
    def reference_words(self) -> str:
        """What the reference potential is."""
        stored, key = (self.check, "reference_potential") if self.is_check else (self.reference, "potential")
        return str((stored or {}).get(key) or "")

    @property
    def variant(self) -> str:
        """Whose limits of what is physical judged the main simulation."""
        md = ((self.check or {}) if self.is_check else (self.config or {})).get("settings" if self.is_check else "md")
        stored = str(md.get("lindemann_variant")) if isinstance(md, dict) else ""
        return stored if stored in VARIANTS else "literature"

    @property
    def probe_options(self) -> dict[str, Any]:
        """Options of the probes as the folder stores them; what it does not store has its default."""
        stored = (self.check or {}).get("settings") if self.is_check else self.config
        sections = stored if isinstance(stored, dict) else {}
        merged: dict[str, Any] = {}
        for section in (sections if self.is_check else sections.get("md"), sections.get("probe")):
            merged |= section if isinstance(section, dict) else {}
        if self.is_check and "compressed" in merged:
            merged.setdefault("n_compressed", merged["compressed"])  # as CheckSettings.options calls it
        return merged

    @property
    def arms(self) -> list[str]:
        """Arms in the order of the configuration (potentials in that of the command), then those of the results."""
        if self.is_check:
            names = list((self.check or {}).get("potentials") or {})
        else:
            arms = (self.config or {}).get("arms") or []
            if isinstance(arms, dict):
                names = [str(name) for name in arms]
            elif isinstance(arms, (list, tuple)):
                names = [str(a.get("name", "")) if isinstance(a, dict) else str(a) for a in arms]
            else:
                names = [str(arms)]
        for frame in (self.physicality, self.efs):
            if frame is not None:
                names += sorted(frame["arm"].unique())
        for frame in self.tables.values() if self.is_check else ():
            names += [arm for arm in frame["arm"].unique() if arm != OF_REFERENCE]
        names = list(dict.fromkeys(n for n in names if n))
        names.sort(key=lambda name: name == REFERENCE_POTENTIAL)  # last
        return names if self.is_check else sorted(names, key=lambda name: name != REFERENCE)  # stable

    @property
    def seeds(self) -> list[int]:
        """Seeds of which there are results or learning curves."""
        seeds = {seed for seed, _ in self.histories}
        for frame in (self.physicality, self.efs):
            if frame is not None:
                seeds |= set(frame["seed"])
        return sorted(seeds)


def read_run(run_dir: Path) -> RunData:
    """Read the folder of ``physpretrain run`` or ``check``; raises PhysPretrainError where it is none."""
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise PhysPretrainError(f"run folder {run_dir} does not exist")
    run = RunData(run_dir)
    run.is_check = (run_dir / "check.json").is_file() and not (run_dir / "config.yaml").is_file()

    def take(part: str, file: str, reader: Callable[[Path], Any], *, quiet: bool = False) -> Any:
        value, note = attempt(run_dir / file, file, reader)
        if note and ((run_dir / file).exists() or not (quiet or run.is_check)):
            run.notes[part] = note
        return value

    if run.is_check:
        run.check = take("check", "check.json", read_check)
    run.config = take("config", "config.yaml", read_mapping(lambda p: yaml.safe_load(p.read_text())))
    run.config_text, _ = attempt(run_dir / "config.yaml", "config.yaml", lambda p: p.read_text())
    run.environment = take("environment", "environment.json", read_json)
    run.timings = take("timings", "timings.json", read_timings)
    run.plan = take("plan", "plan.json", read_mapping(read_json), quiet=True)
    run.left = read_left(run_dir)
    run.summary = take("summary", "data/summary.json", read_mapping(read_json))
    # what belongs to every EAM, other kinds of teachers may have or not
    teacher = (run.config or {}).get("teacher")
    other = isinstance(teacher, dict) and teacher.get("kind", "eam") != "eam"
    run.examination = take("examination", "teacher/examination.json", read_examination, quiet=other)
    run.teacher_errors = take("teacher_errors", "teacher/errors.json", read_mapping(read_json))
    run.teacher_history = take("teacher_history", "teacher/history.csv", table_reader("teacher_history"), quiet=other)
    run.curves = take("curves", "teacher/curves.csv", table_reader("curves"), quiet=other)
    run.filter = take("filter", "augment/filter.json", read_filter)
    run.distances = take("distances", "augment/min_distances.csv", table_reader("distances"))
    run.comparison = take("comparison", "teacher/comparison.csv", table_reader("comparison"), quiet=True)
    run.coverage = take("coverage", "augment/coverage.csv", table_reader("coverage"), quiet=True)
    run.change_errors = take("change_errors", "augment/change_errors.csv", table_reader("change_errors"), quiet=True)
    run.decomposition = take("decomposition", "teacher/decomposition.csv", table_reader("decomposition"), quiet=True)
    run.reference = take("reference", "reference/potential.json", read_mapping(read_json), quiet=True)
    run.reference_errors = take("reference_errors", "reference/errors.json", read_mapping(read_json), quiet=True)
    run.answers = take("verdicts", "verdicts.csv", table_reader("verdicts"), quiet=True)
    for kind, probe in table_kinds().items():
        table = take(kind, f"{kind}.csv", table_reader(kind), quiet=kind not in probe.expected)
        if table is not None:
            run.tables[kind] = _with_arm_and_seed(table)
    run.efs, run.physicality = (run.tables.pop(kind, None) for kind in ("efs", "physicality"))
    _read_seed_folders(run)
    if run.physicality is not None:
        run.physicality = with_outcomes(_with_arm_and_seed(run.physicality))
        if not len(run.physicality):
            run.physicality = None
            run.notes["physicality"] = "No trajectory could be judged: none has more than one frame."
    if run.is_check and run.answers is None and "verdicts" not in run.notes:
        run.answers = _answers(run)
    return run


def read_left(run_dir: Path) -> list[str]:
    """Tasks of a run, but for its report, that are not done as the configuration says."""
    left, _ = attempt(run_dir / LEFT, LEFT, read_json)
    return [str(name) for name in left if name != "report"] if isinstance(left, list) else []


def refuse_foreign(run: RunData) -> None:
    """Raise where a folder has files, but none that a run or a check has."""
    try:
        there = any(not path.name.startswith(".") and path.name != "report" for path in run.path.iterdir())
    except OSError:
        return
    names = (MARK, ".stages", "config.yaml", "check.json", "environment.json", "timings.json", "data/summary.json")
    tables = (f"{kind}.csv" for kind in table_kinds())
    if there and not any((run.path / name).exists() for name in (*names, *tables)):
        raise PhysPretrainError(f"{run.path} is not the folder of a run or a check")


def _answers(run: RunData) -> pd.DataFrame | None:
    """The answers to the probes from their tables."""
    tables = {"efs": run.efs, "physicality": run.physicality, **run.tables}
    present = {kind: table for kind, table in tables.items() if table is not None}
    try:
        answers = probe_answers(present, run.judged, options=run.probe_options)
    # as for figures: odd values in a column must not cost the whole report
    except Exception as error:
        run.notes["verdicts"] = f"The questions could not be answered: {error or type(error).__name__}"
        return None
    return answers if len(answers) else None


def _seed_folders(folder: Path) -> Iterator[tuple[int, Path]]:
    for place in sorted(folder.glob("seed-*")):
        match = re.fullmatch(r"seed-(-?\d+)", place.name)
        if match:
            yield int(match[1]), place


def md_files(folder: Path, suffix: str) -> Iterator[tuple[int, str, str, Path]]:
    """Files ``seed-*/md/<arm>[@<condition>]<suffix>`` as (seed, arm, label of the condition, path)."""
    for seed, place in _seed_folders(folder):
        for file in sorted(place.glob(f"md/*{suffix}")):
            arm, _, label = file.name.removesuffix(suffix).partition("@")
            yield seed, arm, label, file


def _read_seed_folders(run: RunData) -> None:
    """Learning curves, and the MD tables of the seeds where the collected table is not there yet."""
    for seed, place in _seed_folders(run.path):
        for file in sorted(place.glob("*/history.csv")):
            history, _ = attempt(file, str(file.relative_to(run.path)), table_reader("history"))
            if history is not None:
                run.histories[seed, file.parent.name] = history
    chosen = []
    for seed, place in _seed_folders(run.path):
        for file in sorted(place.glob(f"*/{SCOPE}")):
            choice, note = attempt(file, str(file.relative_to(run.path)), read_mapping(read_json))
            if choice is None:
                run.notes["replay"] = str(note)
            else:
                chosen.append({"arm": file.parent.name, "seed": seed, **dict.fromkeys(REPLAY_COLUMNS), **choice})
    run.replay = pd.DataFrame(chosen)[["arm", "seed", *REPLAY_COLUMNS]] if chosen else None
    loops = []
    for seed, place in _seed_folders(run.path):
        for file in sorted(place.glob("*/loop/rounds.csv")):
            table, note = attempt(file, str(file.relative_to(run.path)), table_reader("rounds"))
            if table is None:
                run.notes["rounds"] = str(note)
            else:
                table.insert(0, "arm", file.parent.parent.name)
                table.insert(1, "seed", seed)
                loops.append(table)
    run.rounds = pd.concat(loops, ignore_index=True) if loops else None
    if not run.histories and not run.is_check:
        run.notes["histories"] = "no seed-*/*/history.csv is in the run folder."
    if run.efs is None and not run.is_check:
        run.efs = _evaluated(run.path, "efs")
        if run.efs is not None:
            run.notes["efs"] = "efs.csv is not there yet. The errors below are those found in the seeds' folders."
            predictions = _evaluated(run.path, "predictions")
            run.tables |= {} if predictions is None else {"predictions": predictions}
    if run.physicality is not None:
        return
    parts = []
    for seed, arm, label, file in md_files(run.path, ".csv"):
        part, _ = attempt(file, str(file.relative_to(run.path)), table_reader("physicality"))
        if part is not None:
            parts.append(part.assign(**_settings(file), seed=seed, arm=arm, label=label))
    if parts:
        run.physicality = pd.concat(parts, ignore_index=True)
        reason = run.notes.get("physicality", "physicality.csv is not there yet.")
        run.notes["physicality"] = f"{reason} The trajectories below are those found in the seeds' folders."


def _evaluated(folder: Path, kind: str) -> pd.DataFrame | None:
    """Tables of a kind in the folders of the seeds."""
    files = [file for _, place in _seed_folders(folder) for file in sorted(place.glob(f"evaluate/*.{kind}.csv"))]
    tables = [attempt(file, str(file.relative_to(folder)), table_reader(kind))[0] for file in files]
    tables = [table for table in tables if table is not None]
    return _with_arm_and_seed(pd.concat(tables, ignore_index=True)) if tables else None


def _settings(table: Path) -> dict[str, Any]:
    """Conditions of the simulation whose table this is, from the file beside it."""
    try:
        settings = Runs.load(table.with_name(table.name.removesuffix(".csv") + ".runs.npz")).settings
    except CheckpointError:
        return {}
    return {key: settings[key] for key in ("ensemble", "temperature", "timestep", "barostat") if key in settings}


def _with_arm_and_seed(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.copy()
    for column, default in (("arm", REFERENCE), ("seed", 0)):
        if column not in frame:
            frame[column] = default
    frame["arm"] = frame["arm"].fillna("?").astype(str)
    frame["seed"] = pd.to_numeric(frame["seed"], errors="coerce").fillna(-1).astype(int)
    return frame
