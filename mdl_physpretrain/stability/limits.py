"""Limits of what is physical, and the verdict on one trajectory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.stability.lindemann import VARIANTS

__all__ = ["Limits", "Verdict"]


@dataclass(frozen=True)
class Limits:
    """Thresholds beyond which a trajectory is unphysical.

    Attributes
    ----------
    overlap_fraction
        Overlap when two atoms come as close as this fraction of the first
        frame's smallest distance (paper: 0.5).
    lindemann_local, lindemann_global
        Largest local index of any atom, and global index (paper: 0.25, 0.2).
        Above 1,000 atoms they are estimates, see
        :mod:`mdl_physpretrain.stability.lindemann`.
    variant
        ``"literature"`` or ``"printed"``, see
        :mod:`mdl_physpretrain.stability.lindemann`.
    temperature
        Instantaneous temperature in K that counts as an explosion. Default:
        20 times the target temperature, but at least 10 000 K.
    volume_change
        Factor by which the cell volume may grow or shrink before it counts as
        an explosion.
    min_frames
        Frames before the *running* Lindemann indices are looked at: the mean
        of a handful of frames says nothing. It only decides at which step a
        violation is dated; the verdict uses the whole trajectory.
    check_interval
        Frames between two looks at the running indices.
    """

    overlap_fraction: float = 0.5
    lindemann_local: float = 0.25
    lindemann_global: float = 0.2
    variant: str = "literature"
    temperature: float | None = None
    volume_change: float = 10.0
    min_frames: int = 20
    check_interval: int = 10

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ConfigError(f"variant must be one of {', '.join(VARIANTS)}, not {self.variant!r}")
        if not 0 < self.overlap_fraction < 1:
            raise ConfigError(f"overlap_fraction must lie between 0 and 1, not {self.overlap_fraction}")
        for name in ("lindemann_local", "lindemann_global"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, not {getattr(self, name)}")
        if self.temperature is not None and not self.temperature > 0:
            raise ConfigError(f"the explosion temperature must be positive (K), not {self.temperature}")
        if not self.volume_change > 1:
            raise ConfigError(f"volume_change must be above 1, not {self.volume_change}")
        if self.min_frames < 2 or self.check_interval < 1:
            raise ConfigError("min_frames must be at least 2 and check_interval at least 1")

    def explosion_temperature(self, target: float | None) -> float:
        """Explosion limit in K for a run at ``target`` K."""
        return self.temperature if self.temperature is not None else max(20.0 * (target or 0.0), 10_000.0)


@dataclass
class Verdict:
    """What was found in one trajectory.

    Attributes
    ----------
    frames
        Frames looked at, the first included.
    overlap_step, nan_step, explosion_step
        First step at which it happened, or ``None``.
    lindemann_step
        First step at which the running Lindemann indices were over the limits,
        or ``None``.
    min_distance
        Smallest distance seen, in Å.
    overlap_threshold
        In Å; zero for an isolated atom, which cannot overlap.
    closest_pair
        Elements of the closest pair ever seen, such as ``"Mn-O"``.
    lindemann, lindemann_printed
        Local indices, shape (n,), in both variants.
    """

    frames: int
    overlap_step: int | None
    nan_step: int | None
    explosion_step: int | None
    lindemann_step: int | None
    min_distance: float
    overlap_threshold: float
    closest_pair: str
    lindemann: np.ndarray = field(repr=False)
    lindemann_printed: np.ndarray = field(repr=False)

    def row(self, limits: Limits, last_step: int) -> dict[str, Any]:
        """The physicality columns of the table of :func:`assess`."""
        local = self.lindemann if limits.variant == "literature" else self.lindemann_printed
        largest, average = float(local.max(initial=0.0)), float(local.mean()) if len(local) else 0.0
        violated = largest > limits.lindemann_local or average > limits.lindemann_global
        steps: dict[str, int | None] = {
            "overlap": self.overlap_step,
            "nan": self.nan_step,
            "explosion": self.explosion_step,
            "lindemann": (last_step if self.lindemann_step is None else self.lindemann_step) if violated else None,
        }
        events = [(step, name) for name, step in steps.items() if step is not None]
        events.sort(key=lambda event: event[0])
        return {
            "overlap": self.overlap_step is not None,
            "lindemann_local": largest,
            "lindemann_global": average,
            "lindemann_violation": violated,
            "nan": self.nan_step is not None,
            "exploded": self.explosion_step is not None,
            "physical": not events,
            "first_unphysical_step": events[0][0] if events else None,
            "reason": ", ".join(name for _, name in events),
            "min_distance": self.min_distance,
            "overlap_threshold": self.overlap_threshold,
            "closest_pair": self.closest_pair,
        }
