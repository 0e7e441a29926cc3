from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, ttest_rel

from mdl_physpretrain.statistics.arms import compare_counts, mcnemar_exact, mean_std, paired_difference, wilson


@pytest.mark.parametrize(("b", "c"), [(0, 1), (1, 1), (5, 0), (3, 9), (20, 20), (50, 2), (0, 49), (400, 380)])
def test_mcnemar_is_the_exact_binomial_test(b, c):
    assert mcnemar_exact(b, c) == pytest.approx(binomtest(b, b + c, 0.5).pvalue, rel=1e-10)
    assert mcnemar_exact(c, b) == mcnemar_exact(b, c)


def test_mcnemar_without_discordant_pairs_and_with_nonsense():
    assert mcnemar_exact(0, 0) == 1.0
    with pytest.raises(ValueError, match="negative"):
        mcnemar_exact(-1, 3)


@pytest.mark.parametrize(("k", "n"), [(0, 12), (3, 60), (60, 60)])
def test_wilson_is_scipys(k, n):
    interval = binomtest(k, n).proportion_ci(method="wilson")
    assert wilson(k, n) == pytest.approx((interval.low, interval.high), abs=1e-9)


def test_wilson_of_nothing_is_unknown():
    assert all(math.isnan(bound) for bound in wilson(0, 0))


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
    assert d.verdict == "lower"
    assert paired_difference(first[:2], second[:2], reference="a", arm="b", quantity="t").verdict == "unsupported"


def _table(outcomes: dict[str, list[list[bool]]]) -> pd.DataFrame:
    """Rows from ``{arm: [[fails of the structures] per seed]}``."""
    return pd.DataFrame(
        [
            {"arm": arm, "seed": seed, "structure_id": f"s{k}", "condition": "MD", "unphysical": fails}
            for arm, seeds in outcomes.items()
            for seed, structures in enumerate(seeds)
            for k, fails in enumerate(structures)
        ]
    )


def test_a_difference_is_supported_only_when_the_seeds_agree():
    clear = compare_counts(_table({"a": [[True] * 4] * 3, "b": [[False] * 4] * 3}), "a", "b", "unphysical", "MD")
    assert (clear.only_reference, clear.only_arm, clear.seeds_better) == (12, 0, 3)
    assert clear.verdict == "supported"
    assert clear.direction == "fewer"

    # the same number of pairs from one seed only: small p, but no repeats
    single = compare_counts(_table({"a": [[True] * 12], "b": [[False] * 12]}), "a", "b", "unphysical", "MD")
    assert single.p_value == clear.p_value
    assert single.verdict == "indicated"

    torn = {"a": [[True] * 8, [True] * 8, [False] * 8], "b": [[False] * 8, [False] * 8, [True, True] + [False] * 6]}
    disagreeing = compare_counts(_table(torn), "a", "b", "unphysical", "MD")
    assert disagreeing.p_value < 0.05
    assert disagreeing.verdict == "indicated"

    same = compare_counts(_table({"a": [[True, False]] * 3, "b": [[False, True]] * 3}), "a", "b", "unphysical", "MD")
    assert (same.direction, same.verdict, same.p_value) == ("equal", "unsupported", 1.0)


def test_only_what_both_arms_have_is_paired():
    table = _table({"a": [[True, True, False]], "b": [[False, False]]})
    c = compare_counts(table, "a", "b", "unphysical", "MD")
    assert (c.n_pairs, c.n_unpaired) == (2, 1)
    doubled = pd.concat([table, table])  # repeats pair one to one, not each with each
    assert compare_counts(doubled, "a", "b", "unphysical", "MD").n_pairs == 4


def test_a_negligible_difference_is_none():
    import pandas as pd

    from mdl_physpretrain.statistics.arms import paired_difference

    reference = pd.Series([10.0, 10.2, 10.1, 9.9])
    names = {"reference": "a", "arm": "b", "quantity": "total"}
    assert paired_difference(reference, reference - 1e-4, **names).verdict == "unsupported"
    assert paired_difference(reference, reference - 0.1, **names).verdict == "lower"
