"""Means and differences over seeds."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_rel

from mdl_physpretrain.statistics.seeds import mean_std, paired_difference


def test_mean_std_leaves_out_what_is_not_finite():
    mean, std, n = mean_std([1.0, np.nan, 3.0, np.inf])
    assert (mean, n) == (2.0, 2)
    assert std == pytest.approx(math.sqrt(2))
    assert math.isnan(mean_std([5.0])[1])


def test_paired_difference_is_the_paired_t_interval():
    rng = np.random.default_rng(0)
    first = pd.Series(rng.normal(4.5, 0.1, 6), index=range(6))
    second = pd.Series(first.to_numpy()[:5] - rng.normal(0.1, 0.02, 5), index=range(5))  # seed 5 has no partner
    d = paired_difference(first, second, reference="a", arm="b", quantity="total")
    expected = ttest_rel(second, first[:5]).confidence_interval(0.95)
    assert d.n_seeds == 5
    assert (d.low, d.high) == pytest.approx((expected.low, expected.high))
    assert d.conclusion == "lower"
    assert paired_difference(first[:2], second[:2], reference="a", arm="b", quantity="t").conclusion == "unsupported"


def test_a_negligible_difference_is_none():
    reference = pd.Series([10.0, 10.2, 10.1, 9.9])
    names = {"reference": "a", "arm": "b", "quantity": "total"}
    assert paired_difference(reference, reference - 1e-4, **names).conclusion == "unsupported"
    assert paired_difference(reference, reference - 0.1, **names).conclusion == "lower"
