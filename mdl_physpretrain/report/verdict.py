"""What the page says first, and the tables behind it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pandas as pd
from markupsafe import Markup

from mdl_physpretrain.report import layout, probes
from mdl_physpretrain.report.check import answer_table, check_comparisons, check_sentences, check_tests
from mdl_physpretrain.report.conditions import main_conditions
from mdl_physpretrain.report.downloads import Downloads
from mdl_physpretrain.report.read import RunData
from mdl_physpretrain.report.survival import survival_table
from mdl_physpretrain.report.tables import (
    accuracy_differences,
    comparisons,
    efs_table,
    main_split,
    physicality_per_seed,
    physicality_table,
    trajectory_table,
)
from mdl_physpretrain.report.text import (
    Sentence,
    accuracy_sentence,
    p_value,
    physicality_sentence,
    spread,
    teacher_sentence,
)
from mdl_physpretrain.statistics.paired import Comparison
from mdl_physpretrain.statistics.seeds import PairedDifference

__all__ = ["results"]


def results(run: RunData, downloads: Downloads) -> dict[str, Any]:
    """Verdict, physicality, accuracy, survival and trajectories as the template needs them."""
    who = "Potential" if run.is_check else "Arm"
    counts, seeds, errors, each = (
        physicality_table(run),
        physicality_per_seed(run),
        efs_table(run),
        trajectory_table(run),
    )
    curves, ends = _survival(run)
    for name, frame in (
        ("physicality", counts),
        ("physicality_per_seed", seeds),
        ("efs", errors),
        ("trajectories", each),
        ("survival_curves", curves),
        ("survival", ends),
    ):
        downloads.save(frame, name)
    unpaired = 0
    if run.is_check:
        if run.verdicts is not None:
            downloads.save(run.verdicts, "verdicts")
        pairs = check_comparisons(run)
        downloads.save(
            pd.DataFrame([asdict(c) | {"condition": w, "verdict": c.verdict} for w, c in pairs]), "comparisons"
        )
        sentences, tests = check_sentences(run, counts, pairs), check_tests(pairs)
    else:
        paired, differences = comparisons(run), accuracy_differences(run)
        downloads.save(pd.DataFrame([asdict(c) | {"verdict": c.verdict} for c in paired]), "comparisons")
        downloads.save(pd.DataFrame([asdict(d) | {"verdict": d.verdict} for d in differences]), "efs_differences")
        sentences, tests = _sentences(run, counts, errors, paired, differences), _tests(paired)
        unpaired = sum(c.n_unpaired for c in paired if c.criterion == "unphysical")
    return {
        "sentences": sentences,
        "cards": _cards(run, counts, errors),
        "conditions": list(dict.fromkeys(counts["condition"])) if len(counts) else [],
        "physicality": layout.physicality(counts, who, seeds=not run.is_check) if len(counts) else None,
        "per_seed": layout.per_seed(seeds, who) if len(seeds) and (len(run.seeds) > 1 or not run.is_check) else None,
        "tests": tests,
        "unpaired": unpaired,
        "verdicts": answer_table(run) if run.is_check else None,
        "efs": layout.efs(errors, run) if len(errors) else None,
        "efs_splits": list(dict.fromkeys(errors["split"])) if len(errors) else [],
        "survival": probes.survival(ends, who) if len(ends) else None,
        "trajectories": layout.trajectories(each, who) if len(each) else None,
        "n_trajectories": len(each),
        "n_failing": int((each["outcome"] != "physical").sum()) if len(each) else 0,
    }


def _survival(run: RunData) -> tuple[pd.DataFrame, pd.DataFrame]:
    try:
        return survival_table(run)
    # as for figures: odd values in a column must not cost the whole report
    except Exception as error:
        run.notes["survival"] = f"The time to failure could not be judged: {error or type(error).__name__}"
        return pd.DataFrame(), pd.DataFrame()


def _sentences(
    run: RunData,
    counts: pd.DataFrame,
    errors: pd.DataFrame,
    paired: list[Comparison],
    differences: list[PairedDifference],
) -> list[Sentence]:
    several = len(counts) > 0 and counts["condition"].nunique() > 1
    found = [physicality_sentence(c, counts, name_condition=several) for c in paired if c.criterion == "unphysical"]
    if len(counts) and not found:
        found.append(
            Sentence(
                "neutral", "one arm only", Markup("Trajectories of one arm only: there is nothing to compare with.")
            )
        )
    if run.efs is not None and differences:
        split = main_split(errors)
        means = {
            row["arm"]: (row["total"], row["total_std"], row["seeds"])
            for row in errors[errors["split"] == split].to_dict("records")
        }
        found += [accuracy_sentence(d, means, split=split) for d in differences]
    if run.examination is not None:
        found.append(teacher_sentence(run.examination))
    return found


def _cards(run: RunData, counts: pd.DataFrame, errors: pd.DataFrame) -> list[dict[str, Any]]:
    """Per condition and arm: the numbers at a glance. What happened first gives the bar its colours."""
    cards: list[dict[str, Any]] = []
    split = main_split(errors) if len(errors) else None
    totals = {r["arm"]: spread(r["total"], r["total_std"]) for r in errors.to_dict("records") if r["split"] == split}
    for row in counts.to_dict("records"):
        here = run.physicality
        assert here is not None  # counts come from it
        if run.is_check and row["condition"] not in main_conditions(here):
            continue
        outcome = here.loc[
            (here["arm"] == row["arm"]) & (here["condition"] == row["condition"]), "outcome"
        ].value_counts()
        bar = [(key, label, int(outcome.get(key, 0))) for key, label in layout.OUTCOMES.items() if outcome.get(key, 0)]
        interval = f"{100 * row['physical_low']:.0f}–{100 * row['physical_high']:.0f}%"
        cards.append({**row, "bar": bar, "error": totals.get(row["arm"]), "interval": interval})
    if not cards:
        cards = [{"arm": arm, "condition": "", "total": 0, "bar": [], "error": error} for arm, error in totals.items()]
    return cards


def _tests(paired: list[Comparison]) -> layout.HtmlTable | None:
    """The paired tests behind the verdict."""
    if not paired:
        return None
    several = len({c.condition for c in paired}) > 1
    names = {"unphysical": "unphysical (any)", "overlap": "atom overlap", "lindemann_violation": "Lindemann"}
    columns = [
        layout.Column("Comparison", numeric=False),
        layout.Column("Criterion", numeric=False),
        layout.Column("Pairs"),
        layout.Column("Only reference fails"),
        layout.Column("Only arm fails"),
        layout.Column("McNemar p"),
        layout.Column("Seeds fewer / equal / more"),
        layout.Column("Difference", numeric=False),
    ]
    rows = []
    for c in paired:
        verdict = {"supported": f"{c.direction}, supported", "indicated": f"{c.direction}, not established"}
        rows.append(
            [
                layout.Cell(f"{c.arm} vs {c.reference}", c.condition if several else ""),
                layout.Cell(names[c.criterion]),
                layout.Cell(str(c.n_pairs)),
                layout.Cell(str(c.only_reference)),
                layout.Cell(str(c.only_arm)),
                layout.Cell(p_value(c.p_value)),
                layout.Cell(f"{c.seeds_better} / {c.seeds_equal} / {c.seeds_worse}"),
                layout.Cell(verdict.get(c.verdict, "not supported")),
            ]
        )
    return layout.HtmlTable(columns, rows, "comparisons")
