import numpy as np
import pytest
import scipy.stats

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.statistics.proportions import wilson_interval
from mdl_physpretrain.statistics.survival import kaplan_meier, logrank, share_at

# Remission of leukaemia in weeks (E. J. Freireich et al., Blood 21, 699 (1963)), "+" is censored
DRUG = "6 6 6 6+ 7 9+ 10 10+ 11+ 13 16 17+ 19+ 20+ 22 23 25+ 32+ 32+ 34+ 35+"
PLACEBO = "1 1 2 2 3 4 4 5 5 8 8 8 8 11 11 12 12 15 17 22 23"


def times(text):
    words = text.split()
    return np.array([int(w.strip("+")) for w in words]), np.array(["+" not in w for w in words])


def test_published_survival_with_the_numbers_of_lifelines():
    found = kaplan_meier(*times(DRUG)).set_index("step")
    expected = {  # survival, and lifelines 0.30.3's log-log interval
        6: (0.857143, 0.619718, 0.951552),
        7: (0.806723, 0.563147, 0.922809),
        10: (0.752941, 0.503200, 0.889362),
        13: (0.690196, 0.431610, 0.849066),
        16: (0.627451, 0.367511, 0.804912),
        22: (0.537815, 0.267779, 0.746791),
        23: (0.448179, 0.188052, 0.680143),
        35: (0.448179, 0.188052, 0.680143),
    }
    for step, numbers in expected.items():
        np.testing.assert_allclose(found.loc[step, ["survival", "low", "high"]].astype(float), numbers, atol=1e-6)
    assert found.loc[6, ["at_risk", "failed", "censored"]].tolist() == [21, 3, 1]
    assert found.loc[32, ["at_risk", "failed", "censored"]].tolist() == [4, 0, 2]


def test_published_logrank():
    steps, failed = (np.concatenate(x) for x in zip(times(DRUG), times(PLACEBO), strict=True))
    statistic, p = logrank(steps, failed, ["drug"] * 21 + ["placebo"] * 21)
    assert statistic == pytest.approx(16.792941, abs=1e-6)
    assert p == pytest.approx(4.168809e-05, rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_two_groups_are_scipys(seed):
    rng = np.random.default_rng(seed)
    steps, failed = rng.integers(0, 20, 30), rng.random(30) < 0.6
    sides = [
        scipy.stats.CensoredData.right_censored(steps[part], ~failed[part]) for part in (slice(12), slice(12, None))
    ]
    expected = scipy.stats.logrank(*sides)
    statistic, p = logrank(steps, failed, ["a"] * 12 + ["b"] * 18)
    assert (statistic, p) == pytest.approx((expected.statistic**2, expected.pvalue))


def test_three_groups_by_hand():
    # one failure at 1 (at risk 2, 1, 1) and one at 2 (1, 1, 1)
    statistic, p = logrank([1, 3, 2, 3], [True, False, True, False], ["a", "a", "b", "c"])
    excess = np.array([1 - 1 / 2 - 1 / 3, 1 - 1 / 4 - 1 / 3])
    covariance = np.array([[1 / 4 + 2 / 9, -1 / 8 - 1 / 9], [-1 / 8 - 1 / 9, 3 / 16 + 2 / 9]])
    assert statistic == pytest.approx(excess @ np.linalg.solve(covariance, excess))
    assert p == pytest.approx(np.exp(-statistic / 2))  # two degrees of freedom


@pytest.mark.parametrize("seed", range(10))
def test_without_censoring_it_is_the_share_that_is_left(seed):
    rng = np.random.default_rng(seed)
    steps = rng.integers(0, 30, rng.integers(1, 40))
    found = kaplan_meier(steps, np.ones(len(steps), dtype=bool))
    np.testing.assert_allclose(found["survival"], [(steps > s).mean() for s in found["step"]], atol=1e-12)
    assert (found["low"] <= found["survival"] + 1e-12).all()
    assert (found["survival"] <= found["high"] + 1e-12).all()


def test_no_failure_is_no_certainty():
    found = kaplan_meier([100] * 10, [False] * 10).iloc[0]
    assert (found["low"], found["high"]) == wilson_interval(10, 10)
    everybody = kaplan_meier([1, 2, 3, 4], [False, True, True, True]).iloc[-1]
    assert everybody["survival"] == 0
    assert (everybody["low"], everybody["high"]) == wilson_interval(0, 3)


def test_order_does_not_matter_and_equal_groups_do_not_differ():
    steps, failed = times(DRUG)
    order = np.random.default_rng(0).permutation(len(steps))
    assert kaplan_meier(steps[order], failed[order]).equals(kaplan_meier(steps, failed))
    statistic, p = logrank(np.tile(steps, 2), np.tile(failed, 2), np.repeat([0, 1], len(steps)))
    assert (statistic, p) == (pytest.approx(0, abs=1e-12), pytest.approx(1))


def test_nothing_failed():
    assert logrank([5, 5, 5], [False] * 3, ["a", "a", "b"]) == (0.0, 1.0)


def test_group_that_was_gone_before_the_first_failure_does_not_count():
    steps, failed, group = [1, 5, 6, 7, 8], [0, 1, 1, 0, 1], ["gone", "a", "a", "b", "b"]
    assert logrank(steps, failed, group) == pytest.approx(logrank(steps[1:], failed[1:], group[1:]))


def test_share_still_physical_at_given_times():
    steps, failed = times("1 2 2+ 3 5+ 5+ 5")
    found = share_at(steps, failed, [0.5, 2, 3, 5, 6])
    # at 2 its failure is lost, the one that ended there is not; from 3 on nobody knows about that one
    assert found["physical"].tolist() == [7, 5, 3, 2, 0]
    assert found["total"].tolist() == [7, 7, 6, 6, 4]
    assert found["share"].tolist() == pytest.approx([1, 5 / 7, 0.5, 2 / 6, 0])
    assert found.loc[2, ["low", "high"]].tolist() == pytest.approx(wilson_interval(3, 6))
    assert np.isnan(share_at([1], [False], [2])["share"].iloc[0])


@pytest.mark.parametrize("seed", range(5))
def test_share_without_censoring_is_kaplan_meiers(seed):
    rng = np.random.default_rng(seed)
    steps = rng.integers(1, 30, 25)
    curve = kaplan_meier(steps, np.ones(25, dtype=bool))
    np.testing.assert_allclose(share_at(steps, np.ones(25, dtype=bool), curve["step"])["share"], curve["survival"])


@pytest.mark.parametrize(
    ("steps", "failed"), [([], []), ([1, 2], [True]), ([np.nan], [True]), ([-1], [True]), ([1], [2]), ([[1]], [[True]])]
)
def test_nonsense_is_refused(steps, failed):
    with pytest.raises(ConfigError):
        kaplan_meier(steps, failed)


def test_logrank_needs_groups():
    with pytest.raises(ConfigError, match="two or more"):
        logrank([1, 2], [True, True], ["a", "a"])
    with pytest.raises(ConfigError, match="labels"):
        logrank([1, 2], [True, True], ["a"])
