"""What a check asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from mdl_physpretrain.dynamics.settings import MDSettings
from mdl_physpretrain.errors import ConfigError

__all__ = ["MD", "PARTS", "CheckSettings"]

PARTS = ("errors", "diatomics", "compression", "nve", "rdf")
MD = ("ensemble", "temperature", "timestep", "steps", "friction", "pressure", "engine", "trajectory_interval")


@dataclass(frozen=True)
class CheckSettings:
    """What is asked of every potential.

    Attributes
    ----------
    seeds
        Of velocities and noise: one simulation of every structure for each.
    ensemble, temperature, timestep, steps, friction, pressure, engine
        Of the simulation, see :func:`mdl_physpretrain.dynamics.simulate`.
    trajectory_interval
        Steps between two frames on disk; ``None``: no trajectories, and no RDFs.
    nve_structures, nve_steps
        How many structures (the first ones) are simulated without thermostat,
        and for how long, to see whether energy is conserved.
    compressed
        How many structures (the first ones) are compressed.
    r_max
        Of the RDFs, Å.
    skip
        Parts of :data:`PARTS` that are not asked.

    Raises
    ------
    ConfigError
        If an option is out of range.
    """

    seeds: tuple[int, ...] = (0,)
    ensemble: str = "nvt"
    temperature: float = 300.0
    timestep: float = 1.0
    steps: int = 1000
    friction: float = 0.01
    pressure: float = 0.0
    engine: str = "auto"
    trajectory_interval: int | None = 10
    nve_structures: int = 3
    nve_steps: int = 1000
    compressed: int = 8
    r_max: float = 6.0
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError(f"seeds must be different numbers, at least one, not {list(self.seeds)}")
        for seed in self.seeds:
            MDSettings(self.ensemble, self.temperature, self.timestep, self.steps, self.friction, self.pressure,
                       seed=seed)  # fmt: skip
        for name, least in (("nve_structures", 1), ("nve_steps", 20), ("compressed", 1), ("trajectory_interval", 1)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ConfigError(f"{name} must be an integer of at least {least}, not {value!r}")
        if not self.r_max > 0:
            raise ConfigError(f"r_max must be positive (Å), not {self.r_max}")
        for part in self.skip:
            if part not in PARTS:
                raise ConfigError(f"skip must be among {', '.join(PARTS)}, not {part!r}")

    def asks(self, part: str) -> bool:
        """Whether a part of :data:`PARTS` is wanted."""
        return part not in self.skip and not (part == "rdf" and self.trajectory_interval is None)

    def simulation(self) -> dict[str, Any]:
        """Keyword arguments of ``simulate``, but for seed, files and progress."""
        return {key: getattr(self, key) for key in MD if key != "trajectory_interval"}

    @property
    def nve_label(self) -> str:
        """Label of the NVE simulation's files."""
        return f"nve-{self.temperature:g}K"
