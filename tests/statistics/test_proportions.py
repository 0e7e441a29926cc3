"""Counts with their uncertainty."""

from __future__ import annotations

import math
from statistics import NormalDist

import pandas as pd
import pytest

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.statistics.proportions import summarize, wilson_interval


@pytest.mark.parametrize(("count", "total"), [(0, 12), (1, 12), (6, 12), (12, 12), (37, 100)])
@pytest.mark.parametrize("confidence", [0.68, 0.95])
def test_is_the_score_interval(count, total, confidence):
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, scale = count / total, 1 + z**2 / total
    half = z * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    bounds = [(share + z**2 / (2 * total) + sign * half) / scale for sign in (-1, 1)]
    assert wilson_interval(count, total, confidence) == pytest.approx(bounds, abs=1e-12)


def test_none_and_all_are_bounded_by_zero_and_one():
    assert wilson_interval(0, 12)[0] == 0.0
    assert wilson_interval(12, 12)[1] == 1.0


def test_no_trials_and_nonsense():
    assert wilson_interval(0, 0) == (0.0, 1.0)
    with pytest.raises(ConfigError):
        wilson_interval(3, 2)
    with pytest.raises(ConfigError):
        wilson_interval(1, 2, confidence=1.0)


def test_summary_by_groups():
    table = pd.DataFrame(
        {
            "arm": ["baseline"] * 3 + ["pretrained"] * 2,
            "overlap": [True, True, False, False, False],
            "lindemann_violation": [False, True, False, False, False],
            "nan": False,
            "exploded": False,
            "physical": [False, False, True, True, True],
        }
    )
    summary = summarize(table, by="arm")
    assert summary.arm.tolist() == ["baseline", "pretrained"]
    assert summary.n.tolist() == [3, 2]
    assert summary.overlap.tolist() == [2, 0]
    assert summary.physical.tolist() == [1, 2]
    assert summary.overlap_fraction.tolist() == pytest.approx([2 / 3, 0])
    assert (summary.overlap_low[0], summary.overlap_high[0]) == pytest.approx(wilson_interval(2, 3))
    assert summarize(table).n.tolist() == [5]
    assert summarize(table, by=["arm", "physical"]).n.tolist() == [2, 1, 2]
    with pytest.raises(ConfigError, match="no column seed"):
        summarize(table, by="seed")
