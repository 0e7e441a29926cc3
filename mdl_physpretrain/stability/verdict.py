"""The verdict on one trajectory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mdl_physpretrain.stability.limits import Limits
from mdl_physpretrain.stability.sublattices import Sublattices, framework

__all__ = ["Verdict", "apart_words"]


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
