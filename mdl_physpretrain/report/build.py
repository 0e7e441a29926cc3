"""One self-contained HTML page, PNG figures and CSV/JSON tables from a run folder."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from mdl_physpretrain.errors import PhysPretrainError
from mdl_physpretrain.physicality.alignment import alignment_summary
from mdl_physpretrain.report import layout
from mdl_physpretrain.report.figures import MAX_PAIRS, all_figures
from mdl_physpretrain.report.read import RunData, read_run
from mdl_physpretrain.report.statistics import Comparison, PairedDifference
from mdl_physpretrain.report.style import arm_styles, draw
from mdl_physpretrain.report.tables import (
    accuracy_differences,
    comparisons,
    efs_table,
    main_split,
    physicality_per_seed,
    physicality_table,
    save_table,
    trajectory_table,
)
from mdl_physpretrain.report.text import (
    Sentence,
    accuracy_sentence,
    number,
    physicality_sentence,
    spread,
    teacher_sentence,
)

__all__ = ["write_report"]

# words in a stage's name that mark what only the method needs; the rest a baseline needs too (section 4.1)
METHOD_STAGES = {"teacher", "fit", "augment", "label", "pretrain"}


def write_report(run_dir: Path) -> Path:
    """Write the report of a run.

    Parameters
    ----------
    run_dir
        A run folder as ``physpretrain run`` writes it. Every file in it is
        optional: what is missing or unreadable drops its part of the page,
        with a note that says so.

    Returns
    -------
    pathlib.Path
        ``run_dir/report/index.html``; beside it ``figures/*.png`` and
        ``tables/*.csv`` and ``*.json``. The page needs none of them, no
        network and no other file.

    Raises
    ------
    PhysPretrainError
        If ``run_dir`` is not a folder or the report cannot be written into it.
    """
    run = read_run(Path(run_dir))
    out = run.path / "report"
    try:
        for name in ("figures", "tables"):
            folder = out / name
            folder.mkdir(parents=True, exist_ok=True)
            for old in folder.iterdir():  # a figure of an earlier state of the run would contradict the page
                if old.suffix in (".png", ".csv", ".json"):
                    old.unlink()
        html = _page(run, out)
        page = out / "index.html"
        unfinished = out / "index.html.tmp"
        unfinished.write_text(html, encoding="utf-8")
        os.replace(unfinished, page)
    except OSError as error:
        raise PhysPretrainError(f"cannot write the report into {out}: {error}") from error
    return page


def _page(run: RunData, out: Path) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mdl_physpretrain.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number}
    figures = draw(all_figures(run), out / "figures", run.notes)
    return environment.get_template("index.html.j2").render(
        run=run,
        arms={arm: style.variable for arm, style in arm_styles(run.arms).items()},
        figures=figures,
        generated=datetime.now().astimezone(),
        max_pairs=MAX_PAIRS,
        max_rows=layout.MAX_ROWS,
        notes=run.notes,
        version=_version(),
        facts=_facts(run),
        **_results(run, out / "tables"),
        **_pieces(run, out / "tables"),
    )


def _version() -> str:
    from mdl_physpretrain import __version__

    return __version__


def _results(run: RunData, folder: Path) -> dict[str, Any]:
    """Verdict, physicality, accuracy and trajectories; their tables are saved on the way."""
    counts, seeds, errors, each = (
        physicality_table(run),
        physicality_per_seed(run),
        efs_table(run),
        trajectory_table(run),
    )
    paired, differences = comparisons(run), accuracy_differences(run)
    for name, frame in (
        ("physicality", counts),
        ("physicality_per_seed", seeds),
        ("efs", errors),
        ("trajectories", each),
    ):
        if len(frame):
            save_table(frame, folder, name)
    if paired:
        save_table(pd.DataFrame([asdict(c) | {"verdict": c.verdict} for c in paired]), folder, "comparisons")
    if differences:
        save_table(pd.DataFrame([asdict(d) | {"verdict": d.verdict} for d in differences]), folder, "efs_differences")
    return {
        "sentences": _sentences(run, counts, errors, paired, differences),
        "cards": _cards(run, counts, errors),
        "conditions": list(dict.fromkeys(counts["condition"])) if len(counts) else [],
        "physicality": layout.physicality(counts) if len(counts) else None,
        "per_seed": layout.per_seed(seeds) if len(seeds) else None,
        "tests": _tests(paired),
        "unpaired": sum(c.n_unpaired for c in paired if c.criterion == "unphysical"),
        "efs": layout.efs(errors, run) if len(errors) else None,
        "efs_splits": list(dict.fromkeys(errors["split"])) if len(errors) else [],
        "trajectories": layout.trajectories(each) if len(each) else None,
        "n_trajectories": len(each),
        "n_failing": int((each["outcome"] != "physical").sum()) if len(each) else 0,
    }


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
        outcome = here.loc[
            (here["arm"] == row["arm"]) & (here["condition"] == row["condition"]), "outcome"
        ].value_counts()
        bar = [(key, label, int(outcome.get(key, 0))) for key, label in layout.OUTCOMES.items() if outcome.get(key, 0)]
        cards.append({**row, "bar": bar, "error": totals.get(row["arm"])})
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
        p = f"{c.p_value:.3f}" if c.p_value >= 0.0005 else f"{c.p_value:.0e}".replace("e-0", "e-").replace("-", "−")
        rows.append(
            [
                layout.Cell(f"{c.arm} vs {c.reference}", c.condition if several else ""),
                layout.Cell(names[c.criterion]),
                layout.Cell(str(c.n_pairs)),
                layout.Cell(str(c.only_reference)),
                layout.Cell(str(c.only_arm)),
                layout.Cell(p),
                layout.Cell(f"{c.seeds_better} / {c.seeds_equal} / {c.seeds_worse}"),
                layout.Cell(verdict.get(c.verdict, "not supported")),
            ]
        )
    return layout.HtmlTable(columns, rows, "comparisons")


def _pieces(run: RunData, folder: Path) -> dict[str, Any]:
    """The teacher's, the filter's, the angles' and the stages' tables."""
    pairs = layout.teacher_pairs(run.examination) if run.examination else None
    if pairs and run.examination:
        save_table(pd.DataFrame([p for p in run.examination["pairs"] if isinstance(p, dict)]), folder, "teacher_pairs")
    removed = layout.filtered(run.filter) if run.filter else None
    if removed and run.filter:
        save_table(pd.DataFrame(run.filter["counts"].items(), columns=["reason", "removed"]), folder, "filter")
    times = layout.timings(run.timings) if run.timings else None
    if run.timings:
        save_table(pd.DataFrame(run.timings), folder, "timings")
    angles = None
    if run.alignment is not None:
        summary = alignment_summary(run.alignment)
        save_table(summary.reset_index(), folder, "alignment")
        angles = layout.alignment(summary)
    return {
        "alignment": angles,
        "teacher_pairs": pairs,
        "filtered": removed,
        "timings": times,
        "overhead": _overhead(run.timings),
        "environment": list(_flat(run.environment)) if run.environment else [],
    }


def _overhead(timings: list[dict[str, Any]] | None) -> dict[str, str] | None:
    """Time that only the method costs (teacher, augmentation, labels, pretraining), as in section 4.1."""
    if not timings:
        return None
    method = [t for t in timings if METHOD_STAGES & set(re.split(r"[^a-z]+", t["stage"].lower()))]
    seconds, total = sum(t["seconds"] for t in method), sum(t["seconds"] for t in timings)
    if not method or not total > 0:
        return None
    return {
        "stages": ", ".join(dict.fromkeys(t["stage"] for t in method)),
        "time": layout.duration(seconds),
        "share": f"{seconds / total:.0%}",
    }


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested values as (dotted name, text)."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(inner, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list) and prefix and not any(isinstance(v, (dict, list)) for v in value):
        # a list of plain values is a command line or the seeds: one line
        yield prefix, (" " if all(isinstance(v, str) for v in value) else ", ").join(map(str, value))
    elif isinstance(value, list):
        for k, inner in enumerate(value):
            yield from _flat(inner, f"{prefix}[{k}]")
    else:
        yield prefix or "value", "–" if value is None else str(value)


def _facts(run: RunData) -> list[tuple[str, str]]:
    """The dataset in a few words."""
    facts: list[tuple[str, str]] = []
    s = run.summary or {}
    sizes = [(name, s.get(f"n_{name}")) for name in ("train", "val", "test")]
    if any(n is not None for _, n in sizes):
        facts.append(("structures", " · ".join(f"{n} {name}" for name, n in sizes if n is not None)))
    if isinstance(s.get("usage"), (int, float)):
        facts.append(
            ("share of the training data used", f"{s['usage']:.0%}" if s["usage"] >= 0.01 else f"{s['usage']:.2%}")
        )
    if s.get("elements"):
        facts.append(("elements", " ".join(map(str, s["elements"]))))
    atoms = s.get("n_atoms")
    if isinstance(atoms, dict):
        facts.append(
            (
                "atoms per structure",
                f"{atoms.get('min', '–')} to {atoms.get('max', '–')}, mean {number(atoms.get('mean'), 1)}",
            )
        )
    if s.get("source"):
        facts.append(("source", str(s["source"])))
    if s.get("label_note"):
        facts.append(("what the labels are", str(s["label_note"])))
    if run.seeds:
        facts.append(("seeds", ", ".join(map(str, run.seeds))))
    return facts
