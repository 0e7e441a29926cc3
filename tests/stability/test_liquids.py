"""Liquids: with ``variant="liquid"`` melting is no failure, everything else is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ase import Atoms
from trajectory_makers import crystal, melting

from mdl_physpretrain.dynamics.assessment import assess
from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.report.conditions import with_outcomes
from mdl_physpretrain.report.liquids import liquid_sentences
from mdl_physpretrain.stability.limits import Limits
from mdl_physpretrain.statistics.reference import REFERENCE_POTENTIAL
from mdl_physpretrain.workflow.check_suite import CheckSettings
from mdl_physpretrain.workflow.config import RunConfig
from mdl_physpretrain.workflow.run_suite import RunSuite

LIQUID = Limits(variant="liquid")


@pytest.fixture(scope="module")
def melt() -> list[Atoms]:
    return melting(crystal(repeat=1), np.random.default_rng(3))


def test_a_melt_is_lost_as_a_crystal_and_kept_as_a_liquid(melt: list[Atoms]) -> None:
    solid, liquid = (assess(melt, limits=limits).iloc[0] for limits in (Limits(), LIQUID))
    assert (solid.verdict, solid.reason) == ("unphysical", "lindemann")
    assert (liquid.verdict, liquid.reason, liquid.mobile) == ("physical", "", "")
    assert not liquid.lindemann_violation
    assert liquid.first_unphysical_step is pd.NA
    same = ["lindemann_local", "lindemann_global", "start_deviation", "min_distance", "physical_paper", "reason_paper"]
    assert list(liquid[same]) == list(solid[same])
    assert not liquid.physical_paper


@pytest.mark.parametrize("what", ["overlap", "nan", "explosion"])
def test_what_is_no_melting_is_a_failure_of_a_liquid(melt: list[Atoms], what: str) -> None:
    frames = [atoms.copy() for atoms in melt]
    if what == "overlap":
        frames[100].positions[1] = frames[100].positions[0] + [0.4, 0, 0]
    elif what == "nan":
        frames[100].positions[1, 2] = np.nan
    else:
        frames[100].set_cell(frames[100].cell * 1.5, scale_atoms=True)
    row = assess(frames, limits=LIQUID).iloc[0]
    assert not row.physical
    assert row.reason.split(", ")[0] == what
    assert row.first_unphysical_step == 100


def test_a_check_has_the_option() -> None:
    settings = CheckSettings(lindemann_variant="liquid")
    assert settings.limits == LIQUID
    assert settings.simulation("")["limits"] == LIQUID
    with pytest.raises(ConfigError, match="variant must be one of literature, liquid, printed, paper"):
        CheckSettings(lindemann_variant="fluid")


class _Run:
    """What the sentences ask a run for."""

    is_check = False

    def __init__(self, table: pd.DataFrame, variant: str) -> None:
        self.physicality, self.variant = with_outcomes(table), variant


def _table(reasons: list[str]) -> pd.DataFrame:
    frame = pd.DataFrame({"structure_id": range(len(reasons)), "arm": "net", "seed": 0, "reason": reasons})
    conditions = {"ensemble": "nvt", "temperature": 300.0, "timestep": 1.0, "steps": 100, "steps_done": 100}
    frame = frame.assign(**conditions, first_unphysical_step=50, nan=False, exploded=False)
    return frame.assign(
        overlap=frame["reason"] == "overlap", lindemann_violation=frame["reason"] == "lindemann",
        physical=frame["reason"] == "",
    )  # fmt: skip


def test_the_report_asks_where_all_melt() -> None:
    (asked,) = liquid_sentences(_Run(_table(["lindemann"] * 3), "literature"))
    assert "All 3 trajectories" in asked.text
    assert "md.lindemann_variant: liquid" in asked.text
    assert liquid_sentences(_Run(_table(["lindemann", "overlap"]), "literature")) == []
    assert liquid_sentences(_Run(_table(["lindemann", ""]), "literature")) == []
    kept = _table(["lindemann"] * 3).assign(reference_verdict=["kept", "lindemann", "lindemann"])
    assert liquid_sentences(_Run(kept, "literature")) == []
    fell = _table(["lindemann"] * 3).assign(
        overlap=[True, False, False], reason=["lindemann, overlap"] + ["lindemann"] * 2
    )
    assert liquid_sentences(_Run(fell, "literature")) == []
    assert liquid_sentences(_Run(_table(["lindemann"] * 3), "paper")) == []  # to which diffusing ions have melted
    beside = pd.concat([_table(["lindemann"] * 3), _table(["lindemann"]).assign(arm=REFERENCE_POTENTIAL)])
    assert "All 3 trajectories" in liquid_sentences(_Run(beside, "literature"))[0].text
    (said,) = liquid_sentences(_Run(_table(["", "overlap"]).assign(lindemann_variant="liquid"), "liquid"))
    assert said.label == "melting not judged"
    assert "at NVT, 300 K, 1 fs, 100 steps (md.lindemann_variant" in said.text


def test_a_condition_has_its_own_verdict(tmp_path: Path) -> None:
    md = {"temperature": 300, "also": [{"temperature": 3000, "lindemann_variant": "liquid"}]}
    config = RunConfig.model_validate({"data": {"source": "demo"}, "md": md})
    suite = RunSuite(config, tmp_path)
    assert suite.limits("") == Limits()
    assert suite.limits("nvt-3000K") == LIQUID
    rows = [suite.conditions(label) | {"label": label or None} for label in ("", "nvt-3000K")]
    solid, liquid = with_outcomes(pd.DataFrame(rows).assign(structure_id="a", arm="net", seed=0))["condition"]
    assert "melting" not in solid
    assert liquid.endswith(", melting not judged")
