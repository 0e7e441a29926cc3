"""Confusion table of the judge of trajectories, on trajectories whose truth is known by construction.

.venv/bin/python scripts/bench_judge.py [--all]

The paper's verdict, which was the only one before, stands beside it. The script
runs with an older version of the package, too: PYTHONPATH=OLD OLD/.venv/bin/python scripts/bench_judge.py
"""

from __future__ import annotations

import collections
import sys
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "stability"))

from constructed_trajectories import CASES, Case

import mdl_physpretrain
from mdl_physpretrain import assess

BROKEN, NOTHING = "unphysical", "not judged"


def judged(case: Case) -> tuple[str, str, str]:
    """Verdict, the paper's verdict, and why."""
    frames = case.make(np.random.default_rng(0))
    try:
        row = assess([frames], **case.options).iloc[0]
    except Exception as error:  # a refusal is a verdict, too
        return f"refused ({type(error).__name__})", BROKEN, str(error)[:90]
    verdict = row.get("verdict", "physical" if row["physical"] else BROKEN)
    paper = "physical" if row.get("physical_paper", row["physical"]) else BROKEN
    return verdict, paper, " ".join(str(row.get(k, "")) for k in ("reason", "detail", "mobile")).strip()


def right(truth: str, verdict: str) -> bool:
    """Whether a verdict is true; a file that cannot be one trajectory may be refused."""
    if truth == BROKEN:
        return verdict == BROKEN or verdict.startswith("refused (StructureError")
    return verdict == truth or (truth == "physical" and verdict == "diffusing")


def main() -> int:
    """Print the table; the exit code is the number of wrong verdicts."""
    warnings.simplefilter("ignore")
    print(f"{Path(mdl_physpretrain.__file__).parents[1]}: {len(CASES)} trajectories")
    counts: collections.Counter = collections.Counter()
    wrong, wrong_paper = [], 0
    for case in CASES:
        verdict, paper, why = judged(case)
        counts[case.truth, verdict] += 1
        counts["paper", case.truth, paper] += 1
        wrong_paper += not right(case.truth, paper)
        if not right(case.truth, verdict):
            wrong.append(case.name)
        if "--all" in sys.argv or not right(case.truth, verdict):
            mark = "" if right(case.truth, verdict) else "  WRONG"
            print(f"  {case.name:48s} {case.truth:11s} {verdict:11s} {why}{mark}", flush=True)
    for title, prefix in (("verdict", ()), ("the paper's verdict", ("paper",))):
        print(f"\n{'truth':12s} {title}")
        for truth in ("physical", BROKEN, NOTHING):
            keys = [k for k in counts if k[: len(prefix) + 1] == (*prefix, truth) and len(k) == len(prefix) + 2]
            print(f"{truth:12s} " + ", ".join(f"{counts[k]} {k[-1]}" for k in sorted(keys)))
    print(f"\nwrong: {len(wrong)} of {len(CASES)} (the paper's verdict: {wrong_paper})")
    return len(wrong)


if __name__ == "__main__":
    raise SystemExit(main())
