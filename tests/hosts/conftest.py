"""Structures that the tests of both hosts train on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ase import Atoms

from mdl_physpretrain.structures import read_structures


@pytest.fixture(scope="session")
def demo_cells() -> Callable[[int, int], list[Atoms]]:
    """``demo_cells(count, max_atoms)``: Li-Mn-O cells of the shipped demo data, of all its parents."""
    small = [a for a in read_structures("demo") if set(a.symbols) <= {"Li", "Mn", "O"}]

    def choose(count: int, max_atoms: int) -> list[Atoms]:
        fitting = [a for a in small if len(a) <= max_atoms]
        step = len(fitting) // count
        return fitting[step // 2 :: step][:count]

    return choose
