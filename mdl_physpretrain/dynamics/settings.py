"""Options that decide a trajectory, checked."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ase import units

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.recipe import MD, MolecularDynamics
from mdl_physpretrain.stability.limits import Limits
from mdl_physpretrain.stability.monitor import STOPS

__all__ = ["WATER_COMPRESSIBILITY", "MDSettings", "simulation_options"]

ENSEMBLES = ("nvt", "npt", "nve")
BAROSTATS = ("berendsen", "cell_rescaling")
VELOCITIES = ("maxwell", "keep")
TRAJECTORY_FORMATS = ("extxyz", "traj")
SIMULATED = (
    "ensemble", "temperature", "timestep", "steps", "friction", "pressure", "barostat", "taut", "taup",
    "npt_evaluations", "engine", "interval", "trace_interval", "skin", "compiled",
)  # fmt: skip
WATER_COMPRESSIBILITY = 4.57e-5 / (1e5 * units.Pascal)  # Å³/eV; 4.57e-5 per bar, customary in ASE and GROMACS

FAST = 0.15  # Å³/eV; the variance of the volume of a material of 1 eV/Å³ (160 GPa) is 8 % too large there
MAX_STEPS, MAX_POINTS = 10**10, 10**7  # of a trajectory, and of its traces in memory
#: Name, unit, and what is usual.
USUAL = (
    ("temperature", "K", 1.0, 2e4),
    ("timestep", "fs", 0.01, 10.0),
    ("friction", "1/fs", 1e-5, 0.2),
    ("pressure", "eV/Å³", 1e-8, 3.0),
    ("taut", "fs", 10.0, 1e5),
    ("taup", "fs", 50.0, 1e6),
)


@dataclass(frozen=True)
class MDSettings:
    """Options of :func:`mdl_physpretrain.dynamics.simulate`; see there for units.

    Raises
    ------
    ConfigError
        If an option is out of range.
    """

    ensemble: str = MD.ensemble
    temperature: float = MD.temperature
    timestep: float = MD.timestep
    steps: int = MD.steps
    friction: float = MD.friction
    pressure: float = MD.pressure
    taut: float = MD.taut
    taup: float = MD.taup
    compressibility: float = WATER_COMPRESSIBILITY
    seed: int = 0
    initial_velocities: str = "maxwell"
    stop_on: tuple[str, ...] = STOPS
    interval: int = MD.interval
    trace_interval: int = MD.trace_interval
    limits: Limits = field(default_factory=Limits)
    npt_evaluations: int = MD.npt_evaluations
    barostat: str = MD.barostat

    def __post_init__(self) -> None:
        _one_of("ensemble", self.ensemble, ENSEMBLES)
        _one_of("initial_velocities", self.initial_velocities, VELOCITIES)
        _one_of("barostat", self.barostat, BAROSTATS)
        for event in self.stop_on:
            _one_of("stop_on", event, STOPS)
        for name in ("temperature", "timestep", "friction", "pressure", "taut", "taup", "compressibility"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not math.isfinite(value):
                raise ConfigError(f"{name} must be a finite number, not {value!r}")
        for name in ("timestep", "taut", "taup", "compressibility"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("temperature", "friction"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, not {getattr(self, name)}")
        used = self.coupling
        if "friction" in used and self.friction * self.timestep > 1:
            raise ConfigError(
                f"friction {self.friction:g}/fs is too strong for steps of {self.timestep:g} fs: the Langevin "
                "integrator reaches its temperature up to 1/step only; the unit is 1/fs (10/ps is 0.01)"
            )
        short = [name for name in ("taut", "taup") if name in used and getattr(self, name) < self.timestep]
        if short:
            raise ConfigError(f"{' and '.join(short)} must be at least one step of {self.timestep:g} fs, unit fs")
        if self.ensemble == "npt" and not self.temperature > 0:
            raise ConfigError("ensemble 'npt' needs a temperature above 0 K")
        if self.ensemble == "npt" and "friction" in used and not self.friction > 0:
            raise ConfigError("barostat 'cell_rescaling' needs a friction above 0, unit 1/fs: it is its thermostat")
        if self.npt_evaluations not in (1, 2) or isinstance(self.npt_evaluations, bool):
            raise ConfigError(f"npt_evaluations must be 1 or 2, not {self.npt_evaluations!r}")
        for name, least in (("steps", 0), ("seed", 0), ("interval", 1), ("trace_interval", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"{name} must be an integer of at least {least}, not {value!r}")
        if self.steps > MAX_STEPS or self.steps // self.trace_interval > MAX_POINTS:
            raise ConfigError(
                f"steps must be at most {MAX_STEPS:.0e}, and at most {MAX_POINTS:.0e} times trace_interval, "
                f"not {self.steps} and {self.trace_interval}"
            )

    def doubts(self) -> list[str]:
        """Values that are possible, but look like those of another unit."""
        seldom = f"interval {self.interval}: what happens between two looks is not seen, so a verdict can depend on it"
        speed = self.compressibility * self.timestep / self.taup
        wide = (
            f"compressibility * timestep / taup is {speed:.2g} Å³/eV: with barostat 'cell_rescaling' the volume of a "
            f"stiff material will fluctuate too much; a longer taup brings it below {FAST:g}"
        )
        rescaled = self.ensemble == "npt" and self.barostat == "cell_rescaling"
        return (
            [seldom] * (self.interval > 1)
            + [wide] * (rescaled and speed > FAST)
            + [
                f"{name} {getattr(self, name):g} {unit} is unusual ({low:g} to {high:g}): is the unit right?"
                for name, unit, low, high in USUAL
                if name in {"temperature", "timestep", *self.coupling}
                and getattr(self, name)
                and not low <= abs(getattr(self, name)) <= high
            ]
        )

    @property
    def coupling(self) -> tuple[str, ...]:
        """Options of the thermostat and barostat that the ensemble has."""
        if self.ensemble == "npt":
            return ("pressure", "friction" if self.barostat == "cell_rescaling" else "taut", "taup")
        return ("friction",) if self.ensemble == "nvt" else ()

    @property
    def look_interval(self) -> int:
        """Steps between two looks; a mean of fewer than 20 says nothing."""
        return max(min(self.interval, self.steps // self.limits.min_frames), 1)

    @property
    def dt(self) -> float:
        """Time step in ASE units."""
        return self.timestep * units.fs

    def fingerprint(self, potential: str) -> str:
        """Hash of these settings and the fingerprint of the potential."""
        settings = asdict(self)
        for name in ("npt_evaluations", "barostat"):  # results of versions without these options stay valid
            if settings[name] == getattr(MD, name):
                del settings[name]
        if self.limits.liquid:  # the same trajectories, looked at in the same way
            settings["limits"]["variant"] = Limits.variant
        text = json.dumps({"settings": settings, "potential": potential}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def simulation_options(md: MolecularDynamics, trajectories: Path) -> dict[str, Any]:
    """Keyword arguments of :func:`mdl_physpretrain.dynamics.simulate`, but for seed and progress.

    Parameters
    ----------
    md
        Section ``md`` of a run, or one with its options.
    trajectories
        Folder of the frames, if any are to be written.
    """
    options = {name: getattr(md, name) for name in SIMULATED}
    options |= {"stop_on": tuple(md.stop_on), "limits": Limits(variant=md.lindemann_variant)}
    if md.compressibility is not None:
        options["compressibility"] = md.compressibility
    if md.trajectory_interval is not None:
        options |= {"trajectory_dir": trajectories, "trajectory_interval": md.trajectory_interval}
    return options


def _one_of(name: str, value: object, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(allowed)}, not {value!r}")
