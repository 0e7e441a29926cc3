"""Paired comparisons, of two arms over seeds and of two finished potentials over structures."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from scipy.stats import binomtest

from mdl_physpretrain.statistics.paired import compare_counts, compare_potentials, mcnemar_exact


@pytest.mark.parametrize(("b", "c"), [(0, 1), (1, 1), (5, 0), (3, 9), (20, 20), (50, 2), (0, 49), (400, 380)])
def test_mcnemar_is_the_exact_binomial_test(b, c):
    total = b + c
    tail = sum(math.comb(total, k) for k in range(min(b, c) + 1))
    assert mcnemar_exact(b, c) == pytest.approx(min(1.0, 2 * tail / 2**total), rel=1e-10)
    assert mcnemar_exact(c, b) == mcnemar_exact(b, c)


def test_mcnemar_without_discordant_pairs_and_with_nonsense():
    assert mcnemar_exact(0, 0) == 1.0
    with pytest.raises(ValueError, match="negative"):
        mcnemar_exact(-1, 3)


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
    assert clear.conclusion == "supported"
    assert clear.direction == "fewer"

    # the same number of pairs from one seed only: small p, but no repeats
    single = compare_counts(_table({"a": [[True] * 12], "b": [[False] * 12]}), "a", "b", "unphysical", "MD")
    assert single.p_value == clear.p_value
    assert single.conclusion == "indicated"

    torn = {"a": [[True] * 8, [True] * 8, [False] * 8], "b": [[False] * 8, [False] * 8, [True, True] + [False] * 6]}
    disagreeing = compare_counts(_table(torn), "a", "b", "unphysical", "MD")
    assert disagreeing.p_value < 0.05
    assert disagreeing.conclusion == "indicated"

    same = compare_counts(_table({"a": [[True, False]] * 3, "b": [[False, True]] * 3}), "a", "b", "unphysical", "MD")
    assert (same.direction, same.conclusion, same.p_value) == ("equal", "unsupported", 1.0)


def test_only_what_both_arms_have_is_paired():
    table = _table({"a": [[True, True, False]], "b": [[False, False]]})
    c = compare_counts(table, "a", "b", "unphysical", "MD")
    assert (c.n_pairs, c.n_unpaired) == (2, 1)
    doubled = pd.concat([table, table])  # repeats pair one to one, not each with each
    assert compare_counts(doubled, "a", "b", "unphysical", "MD").n_pairs == 4


def table(**failed: list[tuple[int, int]]) -> pd.DataFrame:
    """Ten structures and three seeds; the (structure, seed) that fail, by potential."""
    rows = [
        {"structure_id": f"s{k}", "seed": seed, "arm": arm, "physical": (k, seed) not in bad}
        for arm, bad in failed.items()
        for k in range(10)
        for seed in range(3)
    ]
    return pd.DataFrame(rows)


def test_one_seed_is_mcnemar() -> None:
    rows = table(A=[(k, 0) for k in range(8)], B=[(9, 0)])
    found = compare_potentials(rows[rows["seed"] == 0], "A", "B")
    assert (found.n_pairs, found.only_reference, found.only_potential) == (10, 8, 1)
    assert found.p_pairs == pytest.approx(binomtest(1, 9).pvalue)
    assert found.p_structures == found.p_pairs
    assert (found.conclusion, found.direction) == ("supported", "fewer")
    text = found.sentence()
    assert "That B fails less often is supported" in text
    assert "velocities and noise were drawn once, trainings were not" in text


def test_the_other_way_round_says_more() -> None:
    rows = table(A=[(k, 0) for k in range(8)], B=[])
    found = compare_potentials(rows, "B", "A")
    assert (found.conclusion, found.direction) == ("supported", "more")
    assert "That A fails more often is supported" in found.sentence()


def test_repeats_of_few_structures_do_not_establish_a_difference() -> None:
    """Nine pairs point one way (p = 0.004), but they are three structures (p = 0.25)."""
    found = compare_potentials(table(A=[(k, s) for k in range(3) for s in range(3)], B=[]), "A", "B")
    assert found.p_pairs == pytest.approx(binomtest(0, 9).pvalue)
    assert found.p_structures == pytest.approx(binomtest(0, 3).pvalue)
    assert found.conclusion == "indicated"
    assert "not established" in found.sentence()
    assert "velocities and noise were repeated" in found.sentence()


def test_equal_and_few() -> None:
    rows = table(A=[(0, 0)], B=[(1, 0)])
    found = compare_potentials(rows, "A", "B")
    assert (found.conclusion, found.direction) == ("unsupported", "equal")
    assert "A difference is not supported." in found.sentence()
    few = compare_potentials(rows[rows["structure_id"].isin(["s0", "s2"])], "A", "B")
    assert "too few structures" in few.sentence()


def test_what_is_not_shared_does_not_count() -> None:
    rows = table(A=[(0, 0)], B=[])
    rows = rows[(rows["arm"] == "A") | (rows["structure_id"] != "s0")]
    assert compare_potentials(rows, "A", "B").n_pairs == 27
    assert compare_potentials(rows, "A", "gone").n_pairs == 0
    assert "share no trajectory" in compare_potentials(rows, "A", "gone").sentence()
