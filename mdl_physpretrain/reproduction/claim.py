"""The claim "more stable at no cost in accuracy", tested with the numbers of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mdl_physpretrain.report.read import read_run
from mdl_physpretrain.report.tables import accuracy_differences, comparisons
from mdl_physpretrain.statistics.paired import Comparison
from mdl_physpretrain.statistics.seeds import MIN_SEEDS, PairedDifference

__all__ = ["MARGIN", "claims"]

MARGIN = 0.05  # share of the baseline's error: a cost below it is none


def claims(runs: Mapping[tuple[str, str], Path]) -> pd.DataFrame:
    """The claim for every system, backbone, condition and setup against the baseline.

    Stability is compared over paired trajectories (exact McNemar, all seeds)
    and counts as improved or worse when p < 0.05, there are three seeds and
    none points the other way. Accuracy is the difference of total errors
    within seeds with its 95 % t interval: ``"lower"`` and ``"higher"`` exclude
    zero; ``"no cost"`` means that a cost of 5 % of the baseline's error is
    excluded; otherwise ``"undecided"``.

    Parameters
    ----------
    runs
        Run folders by system and backbone.

    Returns
    -------
    pandas.DataFrame
        ``system, backbone, condition, setup, pairs, only_baseline,
        only_setup, p, stability, difference, low, high, accuracy, claim``.
    """
    rows: list[dict[str, Any]] = []
    for (system, backbone), folder in runs.items():
        run = read_run(folder)
        errors = {d.arm: d for d in accuracy_differences(run)}
        for c in comparisons(run):
            if c.criterion != "unphysical":
                continue
            d = errors.get(c.arm)
            stable, cost = stability_words(c), accuracy_words(d)
            rows.append(
                {
                    "system": system,
                    "backbone": backbone,
                    "condition": c.condition,
                    "setup": c.arm,
                    "pairs": c.n_pairs,
                    "only_baseline": c.only_reference,
                    "only_setup": c.only_arm,
                    "p": c.p_value,
                    "stability": stable,
                    "difference": d.mean if d else float("nan"),
                    "low": d.low if d else float("nan"),
                    "high": d.high if d else float("nan"),
                    "accuracy": cost,
                    "claim": claim_outcome(stable, cost),
                }
            )
    return pd.DataFrame(rows)


def stability_words(c: Comparison) -> str:
    """``improved`` or ``worse``, questioned where the seeds do not carry it, else ``no difference shown``."""
    if c.conclusion == "unsupported":
        return "no difference shown"
    word = "improved" if c.direction == "fewer" else "worse"
    return word if c.conclusion == "supported" else f"{word}?"


def accuracy_words(d: PairedDifference | None) -> str:
    """``lower``, ``no cost``, ``higher`` or ``undecided``, of the error."""
    if d is None or d.n_seeds < MIN_SEEDS:
        return "undecided"
    if d.conclusion in ("lower", "higher"):
        return d.conclusion
    return "no cost" if d.high < MARGIN * d.scale else "undecided"


def claim_outcome(stable: str, cost: str) -> str:
    """Whether "more stable at no cost in accuracy" holds."""
    if cost == "higher":
        return "no: costs accuracy" + ("" if stable != "improved" else ", though more stable")
    if stable == "improved":
        return "holds" if cost in ("lower", "no cost") else "more stable; cost undecided"
    if stable == "worse":
        return "no: less stable"
    return "not shown"
