"""What counts against a potential beside the reference potential."""

from __future__ import annotations

import io
import math

import pandas as pd
import pytest

from mdl_physpretrain.statistics.proportions import wilson_interval
from mdl_physpretrain.statistics.reference import (
    REFERENCE_POTENTIAL,
    beside_reference,
    compare_with_reference,
    has_reference,
)
from mdl_physpretrain.statistics.survival import length_caution

FATES = {
    "kept": {"physical": True},
    "melted": {"lindemann_violation": True},
    "overlapped": {"overlap": True},
    "exploded": {"exploded": True},
    "broken": {"nan": True, "lindemann_violation": True},
}


def table(**fates: tuple[str, int]) -> pd.DataFrame:
    """One trajectory for each structure: its fate, and the step of it (5,000 when it is kept)."""
    rows = []
    for name, (fate, step) in fates.items():
        nothing = dict.fromkeys(("overlap", "nan", "exploded", "lindemann_violation", "physical"), False)
        first = pd.NA if fate == "kept" else step
        done = 5000 if fate in ("kept", "melted") else step
        rows.append({"structure_id": name, **nothing, **FATES[fate], "first_unphysical_step": first,
                     "steps_done": done, "steps": 5000, "timestep": 2.0})  # fmt: skip
    return pd.DataFrame(rows).astype({"first_unphysical_step": "Int64"})


@pytest.mark.parametrize("fate", ["melted", "overlapped", "exploded", "broken"])
@pytest.mark.parametrize(
    ("reference", "held"),
    [
        ("kept", {"melted", "overlapped", "exploded", "broken"}),
        ("melted", {"overlapped", "exploded", "broken"}),  # melting excuses melting, not what falls together
        ("overlapped", set()),  # a reference that breaks says nothing
        ("broken", set()),
    ],
)
def test_what_is_held_against_a_potential(fate: str, reference: str, held: set[str]) -> None:
    for step in (10, 4900):  # neither how early nor how late matters
        found = beside_reference(table(a=(fate, 500)), table(a=(reference, step)))
        assert bool(found["held_against"].iloc[0]) == (fate in held)


def test_kept_trajectories_and_those_without_reference() -> None:
    found = beside_reference(
        table(a=("kept", 0), b=("melted", 7), c=("kept", 0)), table(b=("kept", 0), c=("melted", 9))
    )
    assert found["reference_verdict"].isna().tolist() == [True, False, False]
    assert found["held_against"].isna().tolist() == [True, False, False]
    assert found["held_against"].tolist()[1:] == [True, False]
    assert found["reference_step"].tolist()[1:] == [5000, 9]
    assert has_reference(found)
    assert not has_reference(beside_reference(table(a=("kept", 0)), table(z=("kept", 0))))
    assert not has_reference(table(a=("kept", 0)))
    assert not has_reference(None)


@pytest.fixture
def runs() -> pd.DataFrame:
    reference = table(a=("kept", 0), b=("kept", 0), c=("melted", 3000), d=("kept", 0))
    seeds = [
        table(a=("kept", 0), b=("overlapped", 100), c=("melted", 200), d=("kept", 0), e=("melted", 8)),
        table(a=("kept", 0), b=("melted", 400), c=("overlapped", 600), d=("kept", 0), e=("kept", 0)),
    ]
    parts = [beside_reference(t, reference).assign(seed=k, arm="net") for k, t in enumerate(seeds)]
    parts.append(reference.assign(seed=0, arm=REFERENCE_POTENTIAL))
    return pd.concat([part.astype(object) for part in parts], ignore_index=True).assign(condition="NVT")


def test_counts_of_an_arm(runs: pd.DataFrame) -> None:
    (row,) = compare_with_reference(runs, ["net", REFERENCE_POTENTIAL, "absent"])
    assert (row.arm, row.condition, row.total, row.without) == ("net", "NVT", 8, 2)
    assert (row.kept, row.lost, row.fell, row.excused, row.held) == (6, 2, 1, 1, 3)
    assert (row.low, row.high) == wilson_interval(2, 6)
    assert row.per_seed == ((0, 1), (1, 2))
    assert row.row["per_seed"] == "1 2"
    assert (row.only_reference, row.only_arm, row.p_value) == (0, 2, 0.5)
    # of 2 fs: a and d 0, b (100 + 400)/2 - 5000, c (200 + 600)/2 - 3000 steps
    assert row.n_structures == 4
    assert row.time == pytest.approx((-9.5 - 5.2) / 4)
    assert row.time_low < row.time < row.time_high
    low, high = -3.675 - 3.1824 * 4.5923 / 2, -3.675 + 3.1824 * 4.5923 / 2  # Student's t, 3 degrees of freedom
    assert (row.time_low, row.time_high) == (pytest.approx(low, abs=2e-3), pytest.approx(high, abs=2e-3))


def test_the_same_from_a_file(runs: pd.DataFrame) -> None:
    read = pd.read_csv(io.StringIO(runs.to_csv(index=False)))
    assert compare_with_reference(read, ["net"]) == compare_with_reference(runs, ["net"])


def test_no_reference_no_comparison_and_no_spread_no_interval(runs: pd.DataFrame) -> None:
    assert compare_with_reference(runs.drop(columns=["reference_verdict"]), ["net"]) == []
    (row,) = compare_with_reference(runs[runs["structure_id"].isin(["a", "d"])], ["net"])
    assert (row.kept, row.lost, row.time) == (4, 0, 0.0)
    assert math.isnan(row.time_low)


def test_simulations_that_are_too_short_for_a_claim() -> None:
    assert length_caution([(5000, 1.0), (5000, 2.0)]) == ""
    assert length_caution([(800, 1.0)]).startswith("800 steps (0.8 ps) are too short for a claim")
    assert "5,000 steps (2.5 ps)" in length_caution([(5000, 0.5)])
    assert "4,000 steps (8 ps)" in length_caution([(5000, 1.0), (4000, 2.0)])
    assert "4,000 steps are too short" in length_caution([(4000, math.nan)])
    assert length_caution([(5000, math.nan)]) == ""
