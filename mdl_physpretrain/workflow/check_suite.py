"""Evaluation of finished potentials by a check: settings, structures and the probes that apply."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ase import Atoms

from mdl_physpretrain import recipe
from mdl_physpretrain.dynamics.settings import MDSettings
from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.executors.transfer import SentPotential, receive
from mdl_physpretrain.probes.base import Probe, Subject
from mdl_physpretrain.probes.registry import probe_classes
from mdl_physpretrain.recipe import CHECK
from mdl_physpretrain.stability.limits import LIQUID, Limits
from mdl_physpretrain.workflow.config import NO_VALUE
from mdl_physpretrain.workflow.suite import Cell, Suite

__all__ = ["MD", "CheckInputs", "CheckSettings", "CheckSuite", "check_names", "probe_names"]

NAME = r"\w[\w.+-]{0,63}"

MD = (
    "ensemble", "temperature", "timestep", "steps", "friction", "pressure", "barostat", "engine", "trajectory_interval",
)  # fmt: skip
CONDITIONS = ("ensemble", "temperature", "timestep", "steps", "barostat")
#: Options of probes that a check asks without being told; a run, of many networks, asks for them by ``probe:``.
ASKED = {
    "wide_pairs": "all",
    "bond_structures": 3,
    "invariance_structures": 3,
    "eos_structures": 3,
    "ensemble_fluctuations": True,
}


def probe_names() -> tuple[str, ...]:
    """Probes that a check can ask or skip, beside the simulation itself."""
    return tuple(name for name, cls in probe_classes().items() if name != "md" and "teacher" not in cls.needs)


@dataclass(frozen=True)
class CheckSettings:
    """Options of a check, the same for every potential.

    Attributes
    ----------
    seeds
        Of velocities and noise: one simulation of every structure for each.
    ensemble, temperature, timestep, steps, friction, pressure, engine, compiled
        Of the simulation, see :func:`mdl_physpretrain.dynamics.simulate`.
    lindemann_variant
        Of :class:`~mdl_physpretrain.stability.limits.Limits`; ``"liquid"``: melting is no failure.
    trajectory_interval
        Steps between two frames on disk; ``None``: no trajectories, and none
        of the probes of frames.
    md_structures
        Ids of the structures that are simulated, the others are examined
        without MD; ``None``: all.
    nve_structures, nve_steps
        How many structures (the first ones) are simulated without thermostat,
        and for how long, to see whether energy is conserved.
    compressed
        How many structures (the first ones) are compressed.
    reference_structures
        How many structures (the first ones) the reference potential is
        simulated from; ``None``: all.
    r_max
        Of the RDFs, Å.
    probe
        Further options of probes by name, see :attr:`Probe.Options`; those of
        :data:`ASKED` are added.
    skip
        Names of probes to leave out.

    Raises
    ------
    ConfigError
        If an option is out of range.
    """

    seeds: tuple[int, ...] = (0,)
    ensemble: str = recipe.MD.ensemble
    temperature: float = recipe.MD.temperature
    timestep: float = recipe.MD.timestep
    steps: int = recipe.MD.steps
    friction: float = recipe.MD.friction
    pressure: float = recipe.MD.pressure
    barostat: str = recipe.MD.barostat
    engine: str = recipe.MD.engine
    compiled: bool | None = recipe.MD.compiled
    lindemann_variant: str = recipe.MD.lindemann_variant
    trajectory_interval: int | None = CHECK.trajectory_interval
    md_structures: tuple[str, ...] | None = None
    nve_structures: int = CHECK.nve_structures
    nve_steps: int = CHECK.nve_steps
    compressed: int = CHECK.compressed
    reference_structures: int | None = None
    r_max: float = CHECK.r_max
    probe: Mapping[str, Any] = field(default_factory=dict)
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "probe", {**ASKED, **self.probe})  # so that they are stored with the others
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seeds must be different numbers, at least one, not {list(self.seeds)}")
        for seed in self.seeds:
            MDSettings(self.ensemble, self.temperature, self.timestep, self.steps, self.friction, self.pressure,
                       seed=seed, barostat=self.barostat, limits=self.limits)  # fmt: skip
        for name, least in (("nve_structures", 1), ("nve_steps", 20), ("compressed", 1), ("trajectory_interval", 1),
                            ("reference_structures", 1)):  # fmt: skip
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ConfigError(f"{name} must be an integer of at least {least}, not {value!r}")
        if not self.r_max > 0:
            raise ConfigError(f"r_max must be positive (Å), not {self.r_max}")
        for name in self.skip:
            if name not in probe_names():
                raise ConfigError(f"skip must be among {', '.join(probe_names())}, not {name!r}")
        options = {key for cls in probe_classes().values() for key in cls.Options.model_fields}
        for name in self.probe:
            if name not in options:
                raise ConfigError(f"no probe has an option {name!r}; there are {', '.join(sorted(options))}")

    @property
    def limits(self) -> Limits:
        """Of what is physical."""
        return Limits(variant=self.lindemann_variant)

    @property
    def options(self) -> dict[str, Any]:
        """Of all probes."""
        return {"n_compressed": self.compressed, "r_max": self.r_max, **self.probe}

    def includes(self, probe: str) -> bool:
        """Whether a probe is wanted."""
        frames = probe_classes()[probe].applies_to == "frames"
        return probe not in self.skip and not (frames and self.trajectory_interval is None)

    @property
    def uses_labels(self) -> bool:
        """Whether any probe that is wanted compares with labels."""
        return any("labels" in cls.needs and self.includes(name) for name, cls in probe_classes().items())

    @property
    def compares(self) -> bool:
        """Whether any probe that is wanted compares with reference trajectories."""
        return any(cls.compares and self.includes(name) for name, cls in probe_classes().items())

    def simulated(self, label: str) -> tuple[str, ...]:
        """Probes for which a simulation is done: the main one (no label) or that without thermostat."""
        return tuple(
            name
            for name, cls in probe_classes().items()
            if cls.applies_to == "simulation" and ("nve" in cls.needs) == bool(label) and self.includes(name)
        )

    def simulation(self, label: str) -> dict[str, Any]:
        """Keyword arguments of ``simulate``, but for seed and files."""
        options = {key: getattr(self, key) for key in MD if key != "trajectory_interval"}
        if self.limits != Limits():
            options["limits"] = self.limits
        if label:
            options |= {"ensemble": "nve", "steps": self.nve_steps, "trace_interval": max(1, self.nve_steps // 100)}
        return options

    @property
    def nve_label(self) -> str:
        """Label of the NVE simulation's files."""
        return f"nve-{self.temperature:g}K"


@dataclass(frozen=True)
class CheckInputs:
    """The inputs of a check: potentials by name, structures, reference trajectories by structure, settings.

    ``reference_potential`` is simulated beside the others, and judged by nothing but that.
    """

    potentials: Mapping[str, Any]
    structures: Sequence[Atoms]
    references: Mapping[str, Sequence[Atoms]]
    settings: CheckSettings
    reference_potential: Any = None


class CheckSuite(Suite):
    """See :class:`Suite`; ``config`` is a :class:`CheckInputs`."""

    config: CheckInputs
    front = ("arm", "seed")
    flags_failures = False

    def __init__(self, config: CheckInputs, folder: Path) -> None:
        super().__init__(config, folder)
        self.settings = config.settings

    @property
    def options(self) -> Mapping[str, Any]:
        return self.settings.options

    def includes(self, probe: Probe) -> bool:
        return "teacher" not in probe.needs and self.settings.includes(probe.name)

    def cells(self, probe: Probe) -> list[Cell]:
        """Every potential with its seeds; the simulation without thermostat comes first."""
        seeds, nve = self.settings.seeds, self.settings.nve_label
        cells: list[Cell] = [("", seed, "") for seed in seeds]
        if probe.applies_to == "potential":
            cells = [("", 0, "")]
        elif "nve" in probe.needs:
            cells = [("", seeds[0], nve)]
        elif probe.applies_to == "simulation" and self.settings.simulated(nve):
            cells = [("", seeds[0], nve), *cells]
        return [(name, seed, label) for name in self.config.potentials for _, seed, label in cells]

    def subject(self, arm: str, seed: int) -> Subject:
        structures = self.config.structures
        elements = sorted({s for a in structures for s in a.symbols})
        return Subject(self.potential(arm, seed), arm, {"test": structures}, elements)

    def potential(self, arm: str, seed: int) -> Any:
        return _here(self.config.potentials[arm])

    def reference_seed(self, seed: int) -> int | None:
        return None if self.config.reference_potential is None else seed

    def reference_potential(self) -> Any:
        return _here(self.config.reference_potential)

    def reference_starts(self, label: str = "") -> list[Atoms]:
        return self.starts(label)[: self.settings.reference_structures]

    def test_structures(self) -> list[Atoms]:
        return list(self.config.structures)

    def starts(self, label: str = "") -> list[Atoms]:
        structures, chosen = list(self.config.structures), self.settings.md_structures
        if label:
            return structures[: self.settings.nve_structures]
        return [atoms for atoms in structures if chosen is None or atoms.info["structure_id"] in chosen]

    def simulation(self, arm: str, seed: int, label: str) -> dict[str, Any]:
        options = {"seed": seed, "compiled": self.settings.compiled, **self.settings.simulation(label)}
        if self.settings.trajectory_interval is not None and not label:
            frames = self.frames_folder(arm, seed)
            options |= {"trajectory_dir": frames, "trajectory_interval": self.settings.trajectory_interval}
        return options

    def conditions(self, label: str) -> dict[str, Any]:
        options = self.settings.simulation(label)
        liquid = {"lindemann_variant": LIQUID} if self.settings.limits.liquid else {}
        return {key: options[key] for key in CONDITIONS} | {"label": label or None} | liquid

    def limits(self, label: str) -> Limits:
        return self.settings.limits

    @property
    def has_references(self) -> bool:
        return bool(self.config.references)

    def references(self) -> dict[str, list[Atoms]]:
        return {name: list(frames) for name, frames in self.config.references.items()}

    def table_file(self, probe: Probe, kind: str, cell: Cell) -> str:
        arm, seed, _ = cell
        return f"seed-{seed}/evaluate/{arm}.{kind}.csv" if probe.applies_to == "frames" else super().table_file(
            probe, kind, cell
        )  # fmt: skip


def _here(potential: Any) -> Any:
    """A potential in this process."""
    return receive(potential) if isinstance(potential, SentPotential) else potential


def check_names(potentials: Mapping[str, Any]) -> None:
    """Refuse names that no file or table can have.

    Raises
    ------
    ConfigError
        Naming the first.
    """
    if not potentials:
        raise ConfigError("no potential to check")
    for name in potentials:
        if not re.fullmatch(NAME, name) or name == "reference" or name.lower() in NO_VALUE:
            raise ConfigError(
                f"a potential cannot be called {name!r}: at most 64 letters, digits and . + - _ only, and no "
                "'reference' or 'nan'"
            )
