"""Functions of distance written in quintic B-splines, of which six are non-zero at a time.

A layer that multiplies a distance's expansion ``e(r)`` by weights ``W`` has
``W e(r) = sum_m B_m(r) (P W^T)[k + m]`` once ``e(r) = sum_m B_m(r) P[k + m]``:
``P`` depends on the expansion alone, and the product with the weights is done
for the rows of the table instead of for every edge. The error of ``P`` bounds
that of everything behind it: it is ``|W|`` times the expansion's, whatever the
weights become in training.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.linalg import solveh_banded

__all__ = ["spline_coefficients"]

MARGIN = 48  # grid points beyond each end; what is wrong there is worth 0.43**48 inside


def spline_coefficients(function: Callable[[np.ndarray], np.ndarray], step: float, intervals: int) -> np.ndarray:
    """Rows ``P`` (intervals + 5, m) for which the spline meets a function on a uniform grid from zero.

    ``function`` takes points (n,) and returns values (n, m), smooth also a little beyond the grid. At ``x = (k + t)
    step`` the rows ``k`` to ``k + 5`` count. A Gaussian of standard deviation ``8 step`` is met to 5e-9, its slope to
    2e-7.
    """
    points = np.arange(-MARGIN, intervals + MARGIN + 1)
    bands = np.empty((3, len(points)))
    bands[0], bands[1], bands[2] = 1 / 120, 26 / 120, 66 / 120
    coefficients = solveh_banded(bands, function(points * step))
    return coefficients[MARGIN - 2 : MARGIN + intervals + 3]
