"""Energies and forces of any potential on a list of structures."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from ase.calculators.calculator import BaseCalculator

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.calculator import ASECalculator
from mdl_physpretrain.teacher.values import energies_and_forces

__all__ = ["Potential", "as_calculator", "energies_and_forces"]

Potential: TypeAlias = EnergyModel | BaseCalculator | Callable[[], BaseCalculator]


def as_calculator(potential: Potential) -> BaseCalculator:
    """Any potential as an ASE calculator.

    Parameters
    ----------
    potential
        An :class:`EnergyModel`, an ASE calculator (returned as it is), or a
        function without arguments that makes one (called once).

    Raises
    ------
    ConfigError
        If it is none of these.
    """
    if isinstance(potential, EnergyModel):
        return ASECalculator(potential)
    if _calculates(potential):
        return potential  # type: ignore[return-value]
    calculator = potential() if callable(potential) else potential
    if not _calculates(calculator):
        raise ConfigError(f"not an EnergyModel, an ASE calculator or a function that makes one: {calculator!r}")
    return calculator


def _calculates(potential: object) -> bool:
    return not isinstance(potential, type) and hasattr(potential, "get_potential_energy")
