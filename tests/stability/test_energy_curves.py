"""Steps of a force along a curve: jumps, and what only looks like one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import expit

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.stability.energy_curves import lasting_jump, standing_out

GRID = np.linspace(1.0, 3.0, 51)


def rising(width: float) -> Callable[[np.ndarray], np.ndarray]:
    """A force that grows by 6 eV/Å within some widths (Å) around 2.03073 Å."""
    return lambda r: 6 * expit((2.03073 - r) / width) + 0.1 * (3 - r)


@pytest.mark.parametrize(("width", "jump"), [(1e-7, 6.0), (2e-3, 0.0), (0.3, 0.0)])
def test_only_a_jump_stays_with_nearer_points(width: float, jump: float) -> None:
    force = rising(width)
    found = lasting_jump(force(GRID), GRID, 0.5, force)
    assert found == pytest.approx(jump, abs=0.1)


def test_steps_below_the_limit_are_not_looked_at_again() -> None:
    force = rising(2e-3)(GRID)
    found = lasting_jump(force, GRID, 10.0, lambda r: pytest.fail("looked"))
    assert found == standing_out(np.diff(force)) > 5


def nothing(r: np.ndarray) -> np.ndarray:
    return np.full(len(r), np.nan)


def refusing(r: np.ndarray) -> np.ndarray:
    raise StructureError("no energy there")


@pytest.mark.parametrize("fails", [nothing, refusing])
def test_a_step_that_cannot_be_looked_at_stays(fails: Callable[[np.ndarray], np.ndarray]) -> None:
    assert lasting_jump(rising(2e-3)(GRID), GRID, 0.5, fails) > 5


def test_a_jump_beside_steep_slopes_is_found() -> None:
    """The largest step is a slope; the jump is another one."""

    def force(r: np.ndarray) -> np.ndarray:
        return 9 * expit((1.43 - r) / 2e-3) + 2 * (r < 2.51)

    assert lasting_jump(force(GRID), GRID, 0.5, force) == pytest.approx(2, abs=0.1)
