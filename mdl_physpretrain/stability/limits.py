"""Limits of what is physical, and the verdict on one trajectory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ase.data import atomic_numbers

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.stability.contacts import radii_of
from mdl_physpretrain.stability.sublattices import Sublattices, framework

__all__ = ["LIQUID", "POSSIBLE_OVERLAP", "VARIANTS", "Limits", "Verdict", "apart_words"]

LIQUID = "liquid"
VARIANTS = ("literature", LIQUID, "printed", "paper")
POSSIBLE_OVERLAP = 0.7  # of the sum of covalent radii: atoms of a gas that meet are not closer
PAPER_VOLUME_CHANGE = 10.0


@dataclass(frozen=True)
class Limits:
    """Thresholds beyond which a trajectory is unphysical.

    Attributes
    ----------
    overlap_fraction
        Overlap when two atoms come as close as this fraction of the first
        frame's smallest distance (paper: 0.5), if that is also less than 0.7
        of the sum of their covalent radii: atoms of a gas may meet.
    pair_fraction
        Overlap, from the first frame on, of two atoms closer than this fraction
        of the sum of their covalent radii. The shortest bonds of the elements
        (N2, CO, HF) are 0.77 of it.
    lindemann_local, lindemann_global
        Largest local index of any atom, and global index (paper: 0.25, 0.2), of
        the sublattice that stays (:mod:`~mdl_physpretrain.stability.sublattices`).
        Above 1,000 atoms they are estimates, see
        :mod:`mdl_physpretrain.stability.lindemann`.
    start_deviation
        Root mean square of the relative deviation of the distances from those
        of the first frame, over the pairs of that sublattice. Crystals close to
        their melting point have 0.1, one that melted a moment ago 0.3, a glass 0.5.
    energy
        Change of the potential energy since the first frame in eV per atom that
        counts as an explosion: no bond is that strong.
    force
        Force on an atom in eV/Å that does.
    variant
        ``"literature"``: all of this, with the Lindemann index of the
        literature. ``"liquid"``: the same, but atoms may leave their places:
        the Lindemann indices and the deviation from the start decide nothing.
        ``"paper"``: the paper's verdict, which knows only
        ``overlap_fraction``, the two Lindemann limits over all pairs of atoms,
        NaN, and explosions by temperature or tenfold volume. ``"printed"``: that
        with the index as the paper prints it, see
        :mod:`mdl_physpretrain.stability.lindemann`.
    temperature
        Instantaneous temperature in K that counts as an explosion. Default:
        20 times the target temperature, but at least 10 000 K.
    volume_change
        Factor by which the cell volume (of a slab the area, of a wire the
        length, by the same linear factor) may grow or shrink before it counts as an explosion.
        Default: 2; of the paper's verdict 10.
    min_frames
        Frames before the *running* Lindemann indices are looked at: the mean
        of a handful of frames says nothing. It only decides at which step a
        violation is dated; the verdict uses the whole trajectory.
    check_interval
        Frames between two looks at the running indices and the deviation from the start.
    """

    overlap_fraction: float = 0.5
    pair_fraction: float = 0.5
    lindemann_local: float = 0.25
    lindemann_global: float = 0.2
    start_deviation: float = 0.25
    energy: float = 10.0
    force: float = 100.0
    variant: str = "literature"
    temperature: float | None = None
    volume_change: float | None = None
    min_frames: int = 20
    check_interval: int = 10

    def __post_init__(self) -> None:
        if self.variant not in VARIANTS:
            raise ConfigError(f"variant must be one of {', '.join(VARIANTS)}, not {self.variant!r}")
        for name in ("overlap_fraction", "pair_fraction"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(f"{name} must lie between 0 and 1, not {getattr(self, name)}")
        for name in ("lindemann_local", "lindemann_global", "start_deviation", "energy", "force"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, not {getattr(self, name)}")
        if self.temperature is not None and not self.temperature > 0:
            raise ConfigError(f"the explosion temperature must be positive (K), not {self.temperature}")
        if self.volume_change is not None and not self.volume_change > 1:
            raise ConfigError(f"volume_change must be above 1, not {self.volume_change}")
        if self.min_frames < 2 or self.check_interval < 1:
            raise ConfigError("min_frames must be at least 2 and check_interval at least 1")

    @property
    def paper(self) -> bool:
        """Whether the verdict is the paper's."""
        return self.variant in ("printed", "paper")

    @property
    def liquid(self) -> bool:
        """Whether melting is no failure."""
        return self.variant == LIQUID

    @property
    def volume_bound(self) -> float:
        """Factor of the volume beyond which an engine does not go on in any case."""
        return max(self.volume_change or 0.0, PAPER_VOLUME_CHANGE)

    @property
    def volume_factor(self) -> float:
        """Factor of the volume that is an explosion."""
        return self.volume_change or (PAPER_VOLUME_CHANGE if self.paper else 2.0)

    def explosion_temperature(self, target: float | None) -> float:
        """Explosion limit in K for a run at ``target`` K."""
        return self.temperature if self.temperature is not None else max(20.0 * (target or 0.0), 10_000.0)

    def overlap_distance(self, pair: str, start: float) -> float:
        """Distance at which two atoms of a running trajectory overlap.

        Parameters
        ----------
        pair
            Two symbols, ``"Mn-O"``; empty for none.
        start
            ``overlap_fraction`` of the first frame's smallest distance, Å.

        Returns
        -------
        float
            In Å: the larger of ``pair_fraction`` of the sum of covalent radii
            and of ``start``, as far as that can be an overlap of these elements;
            of the paper's verdict ``start``.
        """
        symbols = [symbol for symbol in pair.split("-") if symbol in atomic_numbers]
        if self.paper or len(symbols) != 2:
            return start
        reach = float(radii_of(np.array([atomic_numbers[symbol] for symbol in symbols])).sum())
        return max(self.pair_fraction * reach, min(start, POSSIBLE_OVERLAP * reach))

    def holds(self, local: np.ndarray, deviation: float = 0.0) -> bool:
        """Whether local indices, their mean, and the deviation from the start are within the limits."""
        largest, average = float(local.max(initial=0.0)), float(local.mean()) if len(local) else 0.0
        within = largest <= self.lindemann_local and average <= self.lindemann_global
        return within and deviation <= self.start_deviation


@dataclass
class Verdict:
    """What was seen in one trajectory.

    Attributes
    ----------
    frames
        Frames looked at, the first included.
    overlap_step, nan_step, explosion_step
        First step at which it happened, or ``None``.
    lindemann_step
        First step at which the running Lindemann indices, or the deviation
        from the start, were over the limits, or ``None``.
    min_distance
        Smallest distance seen, in Å.
    overlap_threshold
        That of the first frame, in Å; zero for an isolated atom, which cannot
        overlap. What decides about a pair is :meth:`Limits.overlap_distance`.
    closest_pair
        Elements of the closest pair ever seen, such as ``"Mn-O"``.
    lindemann, lindemann_printed
        Local indices over all pairs, shape (n,), in both variants.
    overlap_step_paper, explosion_step_paper, lindemann_step_paper
        Of the paper's verdict.
    cause
        Of the explosion: ``"volume"``, ``"temperature"``, ``"energy"``,
        ``"force"``, ``"out of bounds"``.
    overlap_pair, overlap_distance
        The first pair that overlapped, and its distance then (Å); empty and 0 without.
    elements
        Symbols of the elements, in the order of ``sublattices``.
    element, compared, fluctuations, deviations
        Of :class:`~mdl_physpretrain.stability.sublattices.Sublattices`, the
        deviations at their largest; empty in records of earlier versions.
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
    overlap_step_paper: int | None = None
    explosion_step_paper: int | None = None
    lindemann_step_paper: int | None = None
    cause: str = ""
    overlap_pair: str = ""
    overlap_distance: float = 0.0
    elements: Sequence[str] = ()
    element: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64), repr=False)
    compared: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)), repr=False)
    fluctuations: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)), repr=False)
    deviations: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)), repr=False)

    @classmethod
    def stored(cls, values: Mapping[str, Any]) -> Verdict:
        """From a file; one of an earlier version has the paper's verdict alone."""
        old = {f"{name}_step_paper": values[f"{name}_step"] for name in ("overlap", "explosion", "lindemann")}
        return cls(**(old | dict(values)))

    def row(self, limits: Limits, last_step: int) -> dict[str, Any]:
        """The physicality columns of the table of :func:`assess`."""
        local = self.lindemann_printed if limits.variant == "printed" else self.lindemann
        paper = _events(
            overlap=self.overlap_step_paper,
            nan=self.nan_step,
            explosion=self.explosion_step_paper,
            lindemann=None if limits.holds(local) else _first(self.lindemann_step_paper, last_step),
        )
        staying, deviation = self._framework(limits)
        events = paper
        if not limits.paper:
            kept = staying is not None or limits.liquid
            lost = None if kept else _first(self.lindemann_step, last_step)
            events = _events(
                overlap=self.overlap_step, nan=self.nan_step, explosion=self.explosion_step, lindemann=lost
            )
        judged = bool(events) or (self.frames > 1 and self._moved())
        diffusing = [] if staying is None else [s for s, stays in zip(self.elements, staying, strict=True) if not stays]
        mobile = "" if events or limits.paper or limits.liquid else ", ".join(diffusing)
        names = [name for name, _ in events]
        unjudged = "one frame" if self.frames <= 1 else "nothing moved"
        return {
            "overlap": "overlap" in names,
            "lindemann_local": float(local.max(initial=0.0)),
            "lindemann_global": float(local.mean()) if len(local) else 0.0,
            "lindemann_violation": "lindemann" in names,
            "nan": "nan" in names,
            "exploded": "explosion" in names,
            "physical": judged and not events,
            "verdict": "unphysical"
            if events
            else "not judged"
            if not judged
            else "diffusing"
            if mobile
            else "physical",
            "first_unphysical_step": events[0][1] if events else None,
            "reason": ", ".join(names) if judged else f"not judged: {unjudged}",
            "min_distance": self.min_distance,
            "overlap_threshold": limits.overlap_distance(self.closest_pair, self.overlap_threshold),
            "closest_pair": self.closest_pair,
            "mobile": mobile,
            "start_deviation": deviation,
            "detail": self._detail(limits, names),
            "physical_paper": not paper,
            "reason_paper": ", ".join(name for name, _ in paper),
        }

    def _framework(self, limits: Limits) -> tuple[np.ndarray | None, float]:
        """The elements that stay (``None``: lost), and the deviation of all pairs from the start."""
        if not len(self.element):  # of an earlier version, or a first frame that cannot be followed
            holds = limits.holds(self.lindemann)
            return (np.ones(len(self.elements), dtype=bool) if holds else None), float("nan")
        sums = Sublattices(self.element, self.compared, self.fluctuations, self.deviations)
        return framework(sums, limits), sums.indices(np.ones(self.compared.shape[1], dtype=bool))[1]

    def _moved(self) -> bool:
        """Whether any distance changed; what does not move at all cannot be judged."""
        return len(self.lindemann) < 2 or bool(self.lindemann.any())

    def _detail(self, limits: Limits, names: Sequence[str]) -> str:
        """What happened, in words."""
        if limits.paper:
            return ""
        words = []
        if "overlap" in names and self.overlap_pair:
            threshold = limits.overlap_distance(self.overlap_pair, self.overlap_threshold)
            words.append(f"{self.overlap_pair} {apart_words(self.overlap_distance, threshold)}")
        if "explosion" in names and self.cause:
            words.append(self.cause if self.cause == "out of bounds" else f"{self.cause} out of bounds")
        return ", ".join(words)


def apart_words(distance: float, threshold: float) -> str:
    """``"1.66 Å apart, overlap below 1.70 Å"``; with more decimals where they would look the same."""
    digits = 3 if abs(distance - threshold) < 0.01 else 2
    while digits < 6 and f"{distance:.{digits}f}" == f"{threshold:.{digits}f}":
        digits += 1
    return f"{distance:.{digits}f} Å apart" + (f", overlap below {threshold:.{digits}f} Å" if threshold else "")


def _first(step: int | None, last_step: int) -> int:
    return last_step if step is None else step


def _events(**steps: int | None) -> list[tuple[str, int]]:
    """Events that happened, in the order of time."""
    return sorted(((name, step) for name, step in steps.items() if step is not None), key=lambda event: event[1])
