"""A further simulation does not stand for the main one."""

from __future__ import annotations

import pandas as pd
import pytest

from mdl_physpretrain.probes.physicality import Physicality, trajectory_counts
from mdl_physpretrain.report.conditions import main_conditions, with_outcomes


def table(labels: list, **columns) -> pd.DataFrame:
    n = len(labels)
    frame = pd.DataFrame({"label": labels, "structure_id": [f"s{k}" for k in range(n)], "arm": "net", "seed": 0})
    frame = frame.assign(
        steps=100, steps_done=100, first_unphysical_step=None, reason="", temperature=300.0, timestep=1.0
    )
    frame = frame.assign(ensemble=["nvt" if pd.isna(label) else label for label in labels])
    for name in ("overlap", "lindemann_violation", "nan", "exploded"):
        frame[name] = False
    frame["physical"] = True
    return frame.assign(**columns)


@pytest.mark.parametrize("nothing", [None, float("nan")])
def test_nve_is_not_shown_in_the_place_of_md(nothing):
    assert main_conditions(with_outcomes(table(["nve", "nve"]))) == []
    assert main_conditions(with_outcomes(table([nothing, "nve"]))) == ["NVT, 300 K, 1 fs, 100 steps"]
    assert main_conditions(with_outcomes(table([nothing]).drop(columns="label"))) == ["NVT, 300 K, 1 fs, 100 steps"]
    assert Physicality().answer({"physicality": table(["nve", "nve"])}) is None


def test_what_is_not_judged_counts_nowhere():
    verdicts = ["physical", "not judged", "unphysical"]
    frame = table(
        [None] * 3, verdict=verdicts, physical=[True, False, False], reason=["", "not judged: one frame", "nan"]
    )
    assert trajectory_counts(frame)["trajectories"] == 2
    assert trajectory_counts(frame)["unphysical"] == 1
    assert len(with_outcomes(frame.copy())) == 2
    answer, words = Physicality().answer({"physicality": frame})
    assert answer == "no"
    assert words.startswith("1 of 2 trajectories")
    answer, words = Physicality().answer({"physicality": frame[frame["verdict"] == "not judged"]})
    assert (answer, words[:13]) == ("not judged", "no trajectory")


def test_diffusing_elements_are_named():
    frame = table([None] * 2, verdict=["diffusing", "physical"], mobile=["Li, O", ""])
    assert Physicality().answer({"physicality": frame})[1].endswith("; Li, O diffuse")
