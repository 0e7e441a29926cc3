"""Paired comparison of two finished potentials: repeats of a structure are not structures."""

from __future__ import annotations

import pandas as pd
import pytest
from scipy.stats import binomtest

from mdl_physpretrain.statistics.pairwise import compare_potentials


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
    assert (found.verdict, found.direction) == ("supported", "fewer")
    text = found.sentence()
    assert "That B fails less often is supported" in text
    assert "velocities and noise were drawn once, trainings were not" in text


def test_the_other_way_round_says_more() -> None:
    rows = table(A=[(k, 0) for k in range(8)], B=[])
    found = compare_potentials(rows, "B", "A")
    assert (found.verdict, found.direction) == ("supported", "more")
    assert "That A fails more often is supported" in found.sentence()


def test_repeats_of_few_structures_do_not_establish_a_difference() -> None:
    """Nine pairs point one way (p = 0.004), but they are three structures (p = 0.25)."""
    found = compare_potentials(table(A=[(k, s) for k in range(3) for s in range(3)], B=[]), "A", "B")
    assert found.p_pairs == pytest.approx(binomtest(0, 9).pvalue)
    assert found.p_structures == pytest.approx(binomtest(0, 3).pvalue)
    assert found.verdict == "indicated"
    assert "not established" in found.sentence()
    assert "velocities and noise were repeated" in found.sentence()


def test_equal_and_few() -> None:
    rows = table(A=[(0, 0)], B=[(1, 0)])
    found = compare_potentials(rows, "A", "B")
    assert (found.verdict, found.direction) == ("unsupported", "equal")
    assert "A difference is not supported." in found.sentence()
    few = compare_potentials(rows[rows["structure_id"].isin(["s0", "s2"])], "A", "B")
    assert "too few structures" in few.sentence()


def test_what_is_not_shared_does_not_count() -> None:
    rows = table(A=[(0, 0)], B=[])
    rows = rows[(rows["arm"] == "A") | (rows["structure_id"] != "s0")]
    assert compare_potentials(rows, "A", "B").n_pairs == 27
    assert compare_potentials(rows, "A", "gone").n_pairs == 0
    assert "share no trajectory" in compare_potentials(rows, "A", "gone").sentence()
