"""Known potentials whose weights come with a package of PyPI: functions without arguments, for a survey and a check."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

__all__ = ["KNOWN"]


def chgnet_030() -> Any:
    """CHGNet 0.3.0 (MPtrj, PBE+U)."""
    return _chgnet("0.3.0")


def chgnet_020() -> Any:
    """CHGNet 0.2.0 (MPtrj, PBE+U)."""
    return _chgnet("0.2.0")


def chgnet_r2scan() -> Any:
    """CHGNet fine-tuned to r2SCAN (MatPES)."""
    return _chgnet("r2scan")


def sevennet_0() -> Any:
    """SevenNet-0 of 11 July 2024 (MPtrj)."""
    return _sevennet("7net-0")


def sevennet_0_may() -> Any:
    """SevenNet-0 of 22 May 2024 (MPtrj)."""
    return _sevennet("7net-0_22May2024")


def sevennet_l3i5() -> Any:
    """SevenNet-l3i5 (MPtrj)."""
    return _sevennet("7net-l3i5")


def sevennet_mf_0() -> Any:
    """SevenNet-MF-0, its PBE channel."""
    return _sevennet("7net-mf-0", modal="PBE")


def diep() -> Any:
    """DIEP, MatPES r2SCAN."""
    from diep.pretrained import make_calculator

    return make_calculator()


def emt() -> Any:
    """ASE's effective medium theory (Al, Cu, Ag, Au, Ni, Pd, Pt and a few more)."""
    return EMT()


def lennard_jones() -> Any:
    """A Lennard-Jones potential (2.3 Å, 0.4 eV) for all elements: smooth, repulsive, and of no material."""
    return LennardJones(sigma=2.3, epsilon=0.4, rc=6.0, smooth=True)


def _chgnet(version: str) -> Any:
    from chgnet.model.dynamics import CHGNetCalculator
    from chgnet.model.model import CHGNet

    class OnlyWhatIsAsked(CHGNetCalculator):  # type: ignore[misc]
        """Stress is a second pass backward: without it a step of MD takes two thirds of the time."""

        __module__ = CHGNetCalculator.__module__  # the package whose version counts

        def calculate(
            self, atoms: Any = None, properties: Any = None, system_changes: Any = None, task: str = "efsm"
        ) -> None:
            if properties and set(properties) <= {"energy", "free_energy", "forces"}:
                task = "ef"
            super().calculate(atoms, properties, system_changes, task=task)

    return OnlyWhatIsAsked(model=CHGNet.load(model_name=version, verbose=False), use_device="cpu")


def _sevennet(name: str, **options: Any) -> Any:
    from sevenn.calculator import SevenNetCalculator

    return SevenNetCalculator(name, device="cpu", **options)


#: By name: the package that must be there, and the function.
KNOWN: dict[str, tuple[str, Callable[[], Any]]] = {
    "CHGNet-0.3.0": ("chgnet", chgnet_030),
    "CHGNet-0.2.0": ("chgnet", chgnet_020),
    "CHGNet-r2SCAN": ("chgnet", chgnet_r2scan),
    "SevenNet-0": ("sevenn", sevennet_0),
    "SevenNet-0-May2024": ("sevenn", sevennet_0_may),
    "SevenNet-l3i5": ("sevenn", sevennet_l3i5),
    "SevenNet-MF-0": ("sevenn", sevennet_mf_0),
    "DIEP": ("diep", diep),
    "EMT": ("ase", emt),
    "Lennard-Jones": ("ase", lennard_jones),
}
