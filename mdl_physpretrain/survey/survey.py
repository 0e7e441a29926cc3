"""``survey``: one check per potential and condition, each potential by its own Python; then one page of all."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from ase import Atoms, units
from ase.io import write

from mdl_physpretrain.errors import ConfigError, Terminated
from mdl_physpretrain.files import replacing, write_atomic
from mdl_physpretrain.locking import locked
from mdl_physpretrain.ownership import claim_folder, note_contents, write_again
from mdl_physpretrain.survey.known import KNOWN
from mdl_physpretrain.survey.materials import materials
from mdl_physpretrain.survey.page import survey_page
from mdl_physpretrain.survey.tables import answers_of, checks_of, trajectories_of
from mdl_physpretrain.workflow.check_suite import CheckSettings, check_names, probe_names

__all__ = ["Condition", "SurveyPotential", "Surveyed", "conditions", "known_potentials", "survey"]

MATERIALS = "materials.extxyz"
ROOT = Path(__file__).parents[2]  # that holds the package: other environments need not have it installed
REPEATED = ("rdf", "diffusion", "ensemble")  # questions to every simulation; the others are asked once
ENDED = (-2, -15, 130, 143)  # exit codes of SIGINT and SIGTERM


@dataclass(frozen=True)
class SurveyPotential:
    """A potential, as ``physpretrain check`` takes it, and the Python that has its packages."""

    name: str
    text: str
    python: str = sys.executable


@dataclass(frozen=True)
class Condition:
    """Temperature (K) and pressure (GPa; 0: at the volume as it is) of a simulation."""

    temperature: float
    pressure: float = 0.0

    @property
    def name(self) -> str:
        """For folders and the page."""
        return f"{self.temperature:g}K" + (f"-{self.pressure:g}GPa" if self.pressure else "")


@dataclass
class Surveyed:
    """What a survey found: its folder and page, all answers, all trajectories, and why a check has none.

    ``failures`` are those of this call, ``earlier`` those of earlier ones that were not asked for now.
    """

    folder: Path
    page: Path
    answers: pd.DataFrame
    trajectories: pd.DataFrame
    failures: dict[tuple[str, str], str] = field(default_factory=dict)
    earlier: dict[tuple[str, str], str] = field(default_factory=dict)


def known_potentials(python: str = sys.executable) -> dict[str, SurveyPotential]:
    """Those of :data:`~mdl_physpretrain.survey.known.KNOWN` whose package an environment has."""
    packages = sorted({package for package, _ in KNOWN.values()})
    code = "import importlib.util as u, sys; print(*[p for p in sys.argv[1:] if u.find_spec(p)])"
    if python == sys.executable:
        there = [package for package in packages if importlib.util.find_spec(package)]
    else:
        there = _output([python, "-c", code, *packages], python).split()
    return {
        name: SurveyPotential(name, f"{make.__module__}:{make.__name__}", python)
        for name, (package, make) in KNOWN.items()
        if package in there
    }


def conditions(temperatures: Sequence[float], pressures: Sequence[float] = (0.0,)) -> list[Condition]:
    """Every temperature at the volume as it is; at the first temperature every pressure above 0 GPa."""
    if not temperatures or min(temperatures) <= 0 or min(pressures, default=0.0) < 0:
        raise ConfigError("a survey needs temperatures above 0 K, and pressures that are not negative (GPa)")
    first = [Condition(float(kelvin)) for kelvin in dict.fromkeys(temperatures)]
    return first + [Condition(float(temperatures[0]), float(p)) for p in dict.fromkeys(pressures) if p > 0]


def survey(
    potentials: Sequence[SurveyPotential],
    *,
    output: str | Path,
    names: Sequence[str] | None = None,
    md_names: Sequence[str] | None = None,
    simulated: Sequence[Condition] = (Condition(300.0), Condition(1000.0), Condition(300.0, 20.0)),
    options: Sequence[str] = (),
    skip: Sequence[str] = (),
    listener: Callable[[str, str, str], None] | None = None,
) -> Surveyed:
    """Examine potentials on textbook crystals.

    Parameters
    ----------
    potentials
        With the Python of each; their packages need not fit together.
    output
        Folder: ``<potential>/<condition>/`` are folders of checks, ``index.html`` the page, ``answers.csv`` and
        ``trajectories.csv`` its tables. Another call goes on; with further potentials it adds them.
    names
        Of materials; ``None``: all.
    md_names
        Of the materials that are simulated, the others are examined without MD; ``None``: all. A potential that knows
        none of them is simulated on all that it knows.
    simulated
        Temperatures and pressures. Questions without MD are asked with the first one.
    options
        Further words for ``physpretrain check``, such as ``--steps``, ``2000``.
    skip
        Questions that are not asked.
    listener
        Called with potential, condition and ``"start"``, ``"done"`` or why it failed.

    Returns
    -------
    Surveyed
        A potential that fails (its package is missing, an element is unknown) is told there and on the page; the others
        go on.

    Raises
    ------
    ConfigError
        If a name or an option cannot be used, a Python does not exist, or the folder holds other materials.
    """
    structures = materials(names)
    there = [str(atoms.info["structure_id"]) for atoms in structures]
    for name in md_names or ():
        if name not in there:
            raise ConfigError(f"{name} cannot be simulated: the survey is of {', '.join(there)}")
    if not potentials or not simulated:
        raise ConfigError("a survey needs a potential and a temperature")
    check_names({potential.name: potential for potential in potentials})
    if len({potential.name for potential in potentials}) < len(potentials):
        raise ConfigError("two potentials of a survey have one name")
    CheckSettings(skip=tuple(skip))
    for python in dict.fromkeys(potential.python for potential in potentials):
        _output([python, "-c", "print(1)"], python)
    folder = claim_folder(output, "survey")
    with locked(folder), _ended_by_sigterm():
        _keep_materials(folder, structures)
        failures: dict[tuple[str, str], str] = {}
        for potential in potentials:
            reasons = _prepare(folder, potential, structures)
            for condition in simulated:
                key = potential.name, condition.name
                if listener is not None:
                    listener(*key, "start")
                words = _words(folder, potential, condition, skip, first=condition == simulated[0])
                known = [name for name in md_names or () if name not in reasons]
                words += [word for name in known for word in ("--md-structures", name)]
                reason = reasons.get("") or _run([potential.python, "-m", "mdl_physpretrain", *words, *options])
                if reason:
                    failures[key] = reason
                if listener is not None:
                    listener(*key, reason or "done")
                result = _collect(folder, potentials, failures)  # so that the page can be looked at while it grows
    return result


def _collect(folder: Path, potentials: Sequence[SurveyPotential], failures: Mapping[tuple[str, str], str]) -> Surveyed:
    """Tables and page of all checks in the folder, also those of earlier calls."""
    stored, refused, checks = _read_failures(folder), _read_refusals(folder), checks_of(folder)
    done = {(path.parent.parent.name, path.parent.name) for path in folder.glob("*/*/verdicts.csv")}
    told = {key: reason for key, reason in {**stored, **failures}.items() if key in failures or key not in done}
    answers, trajectories = answers_of(folder), trajectories_of(folder)
    described = _read_records(folder).get("potentials", {})  # also those of earlier calls
    described |= {potential.name: {"potential": potential.text, "python": potential.python} for potential in potentials}
    records = {"potentials": described, "failures": [[*key, reason] for key, reason in told.items()]}
    page = survey_page(answers, trajectories, checks, told, refused, _read_versions(folder))
    contents = {"survey.json": json.dumps(records, indent=1), "index.html": page,
                "answers.csv": answers.to_csv(index=False), "checks.csv": checks.to_csv(index=False),
                "trajectories.csv": trajectories.to_csv(index=False)}  # fmt: skip
    for name, text in contents.items():
        write_again(folder, name, text)
    now = {key: reason for key, reason in told.items() if key in failures}
    earlier = {key: reason for key, reason in told.items() if key not in failures}
    return Surveyed(folder, folder / "index.html", answers, trajectories, now, earlier)


def _prepare(folder: Path, potential: SurveyPotential, structures: Sequence[Atoms]) -> dict[str, str]:
    """Keep the structures that a potential can evaluate in its folder; why not the others, by id (all: by nothing)."""
    place = folder / potential.name
    place.mkdir(exist_ok=True)
    refused, fresh = place / "refused.json", place / "refused.json.new"
    words = [potential.python, "-m", "mdl_physpretrain.survey.supported"]
    # asked in every call: the potential, its packages or their repair do not show in its name
    reason = _run([*words, potential.text, str(folder / MATERIALS), str(fresh)])
    if reason:
        return {"": reason}
    answer = fresh.read_text(encoding="utf-8")
    fresh.unlink()
    reasons: dict[str, str] = json.loads(answer)["refused"]
    known = [atoms for atoms in structures if atoms.info["structure_id"] not in reasons]
    if not known:
        return {"": next(iter(reasons.values()))}
    write_atomic(refused, answer)  # not where all are refused: that may be the environment
    with replacing(place / MATERIALS) as part:
        write(part, known, format="extxyz")
    return reasons


def _words(
    folder: Path, potential: SurveyPotential, condition: Condition, skip: Sequence[str], *, first: bool
) -> list[str]:
    """Of one check."""
    left_out = [name for name in probe_names() if name in skip or not (first or name in REPEATED)]
    place = folder / potential.name
    # crystals of a survey have nothing to do with each other: elements that none has both of never meet
    words = ["check", f"{potential.name}={potential.text}", "-s", str(place / MATERIALS),
             "-o", str(place / condition.name), "-T", f"{condition.temperature:g}",
             "--probe", "diatomic_pairs=together",
             *(word for name in left_out for word in ("--skip", name))]  # fmt: skip
    if condition.pressure:
        words += ["--ensemble", "npt", "--pressure", f"{condition.pressure * units.GPa:.10g}"]
    return words


def _run(words: Sequence[str]) -> str:
    """A command by a potential's Python, in which our package is found; why it failed, or nothing."""
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    if done.returncode in ENDED:
        raise KeyboardInterrupt
    return _reason(done.returncode, done.stderr)


def _reason(code: int, stderr: str) -> str:
    """Why a command failed, from its exit code and messages."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    told = next((line for line in reversed(lines) if line.startswith(("error:", "internal error"))), None)
    number = -code if code < 0 else code - 128  # a script that starts a Python adds 128
    if told is None and number in signal.valid_signals():
        last = lines[-1:] if number != signal.SIGKILL else []  # nothing can say that it is killed
        return "; its last message: ".join([f"ended by signal {number}", *last])[:500]
    boxed = [line.strip("│ ") for line in lines if line.startswith("│")] if code == 2 else []  # words that are wrong
    told = told or " ".join(filter(None, boxed)) or (lines[-1] if lines else "no message")
    return told.removeprefix("error:").removeprefix("Error:").strip()[:500]


def _output(words: list[str], python: str) -> str:
    try:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigError(f"{python} is no Python that works: {error}") from error


def _keep_materials(folder: Path, structures: Sequence[Atoms]) -> None:
    """Write the materials; those of an earlier call must be the same, as its checks are of them."""
    path = folder / MATERIALS
    with replacing(folder / f"{MATERIALS}.new") as part:
        write(part, structures, format="extxyz")
    fresh = folder / f"{MATERIALS}.new"
    if path.exists() and path.read_bytes() != fresh.read_bytes():
        fresh.unlink()
        raise ConfigError(f"{folder} holds a survey of other materials: choose another output folder")
    fresh.replace(path)
    note_contents(folder, [MATERIALS])


def _read_records(folder: Path) -> dict[str, Any]:
    """survey.json of earlier calls; nothing where there is none that can be read."""
    try:
        records = json.loads((folder / "survey.json").read_text(encoding="utf-8"))
        return records if isinstance(records, dict) else {}
    except (OSError, ValueError):
        return {}


def _read_failures(folder: Path) -> dict[tuple[str, str], str]:
    try:
        stored = _read_records(folder)["failures"]
        return {(str(name), str(condition)): str(reason) for name, condition, reason in stored}
    except (ValueError, KeyError, TypeError):
        return {}


def _read_refusals(folder: Path) -> dict[tuple[str, str], str]:
    """Why a potential was not asked about a material."""
    reasons = {}
    for path in sorted(folder.glob("*/refused.json")):
        for material, reason in json.loads(path.read_text(encoding="utf-8"))["refused"].items():
            reasons[path.parent.name, str(material)] = str(reason)
    return reasons


def _read_versions(folder: Path) -> dict[str, str]:
    """Versions of Python and of the packages of every potential, in words."""
    versions = {}
    for path in sorted(folder.glob("*/refused.json")):
        stored = json.loads(path.read_text(encoding="utf-8")).get("versions", {})
        versions[path.parent.name] = ", ".join(f"{package} {version}" for package, version in stored.items())
    return versions


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Make SIGTERM an exception, which ends the check at work, too: it would hold its folder against the next call."""

    def end(*_: object) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
