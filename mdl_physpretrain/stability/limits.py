"""Limits of what is physical."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase.data import atomic_numbers

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.stability.contacts import radii_of

__all__ = ["LIQUID", "POSSIBLE_OVERLAP", "VARIANTS", "Limits"]

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
