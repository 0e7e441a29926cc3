"""The judge on trajectories whose truth is known by construction; ``scripts/bench_judge.py`` prints the table."""

from __future__ import annotations

import numpy as np
import pytest
from constructed_trajectories import CASES

from mdl_physpretrain import assess
from mdl_physpretrain.errors import StructureError

TRUE = {
    "physical": {"physical", "diffusing"},
    "unphysical": {"unphysical", "refused"},
    "not judged": {"not judged"},
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_verdict(case):
    try:
        row = assess([case.make(np.random.default_rng(1))], **case.options).iloc[0]
        verdict = row.verdict
    except StructureError:  # frames that are no trajectory of one structure
        verdict = "refused"
    else:
        assert row.physical == (verdict in TRUE["physical"])
        assert bool(row.reason) == (not row.physical)
    assert verdict in TRUE[case.truth]
    if "hop" in case.name and case.truth == "physical" and not {"few", "order,"} & set(case.name.split()):
        assert verdict == "diffusing"


def test_there_are_enough():
    assert len(CASES) >= 60
