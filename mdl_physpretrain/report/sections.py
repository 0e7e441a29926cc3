"""Contents of the page's sections; their tables are saved as files, too."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pandas as pd
from markupsafe import Markup

from mdl_physpretrain.probes.force_alignment import alignment_summary
from mdl_physpretrain.report import html_tables, probes, teacher_tables
from mdl_physpretrain.report.check import answer_table, check_comparisons, check_sentences, check_tests
from mdl_physpretrain.report.conclusions import paired_tests, run_sentences, summary_cards
from mdl_physpretrain.report.conditions import too_short
from mdl_physpretrain.report.downloads import Downloads
from mdl_physpretrain.report.formats import duration, number
from mdl_physpretrain.report.liquids import liquid_sentences
from mdl_physpretrain.report.parity import parity_caption
from mdl_physpretrain.report.read import RunData
from mdl_physpretrain.report.recommendation import recommended_network
from mdl_physpretrain.report.reference import compared_with_reference, reference_sentences, reference_table
from mdl_physpretrain.report.sentences import Sentence, budget_sentence, left_sentence, split_words
from mdl_physpretrain.report.tables import (
    accuracy_differences,
    comparisons,
    efs_table,
    physicality_per_seed,
    physicality_table,
    still_physical_table,
    survival_table,
    trajectory_table,
)
from mdl_physpretrain.stability.limits import Limits

__all__ = ["section_values"]

# words in a stage's name that mark what only the method needs; the rest a baseline needs too (section 4.1)
METHOD_STAGES = {"teacher", "fit", "augment", "label", "pretrain", "loop"}

OVERLAP_RULES = (  # of the paper's verdict, and of the default
    "atoms closer than half the smallest distance of the first frame",
    "atoms closer than half the sum of their covalent radii (or than half the smallest distance of the first frame, "
    "where that is less than 0.7 of this sum)",
)


def section_values(run: RunData, downloads: Downloads) -> dict[str, Any]:
    """Everything that the template needs beside figures and frames; tables are ``None`` where there is nothing."""
    return {"facts": _facts(run), **_results(run, downloads), **_method(run, downloads)}


def _results(run: RunData, downloads: Downloads) -> dict[str, Any]:
    """Conclusions, physicality, accuracy, survival and trajectories."""
    heading = "Potential" if run.is_check else "Arm"
    counts = downloads.save(physicality_table(run), "physicality")
    seeds = downloads.save(physicality_per_seed(run), "physicality_per_seed")
    errors = downloads.save(efs_table(run), "efs")
    trajectories = downloads.save(trajectory_table(run), "trajectories")
    still, ends = _survival(run, downloads)
    unpaired = 0
    if run.is_check:
        if run.answers is not None:
            downloads.save(run.answers, "verdicts")
        pairs = check_comparisons(run)
        rows = [asdict(pair) | {"condition": condition, "verdict": pair.conclusion} for condition, pair in pairs]
        sentences, tests = check_sentences(run, counts, pairs), check_tests(pairs)
    else:
        paired, differences = comparisons(run), accuracy_differences(run)
        rows = [asdict(c) | {"verdict": c.conclusion} for c in paired]
        downloads.save(pd.DataFrame([asdict(d) | {"verdict": d.conclusion} for d in differences]), "efs_differences")
        sentences, tests = run_sentences(run, counts, errors, paired, differences), paired_tests(paired)
        unpaired = sum(c.n_unpaired for c in paired if c.criterion == "unphysical")
    downloads.save(pd.DataFrame(rows), "comparisons")
    beside = compared_with_reference(run)
    downloads.save(pd.DataFrame([row.row for row in beside]), "beside_reference")
    short = "" if run.physicality is None else too_short(run.physicality)
    caution = [Sentence("caution", "too short for a claim", Markup.escape(short))] if short else []
    fitted, left = budget_sentence(run.plan), left_sentence(run.left)
    sentences = [
        *([left] if left else []),
        *reference_sentences(run, beside),
        *caution,
        *liquid_sentences(run),
        *sentences,
        *([fitted] if fitted else []),
    ]
    training = not run.is_check
    return {
        "sentences": sentences,
        "recommended": recommended_network(run),
        "cards": summary_cards(run, counts, errors),
        "conditions": list(counts["condition"].unique()) if len(counts) else [],
        "physicality": html_tables.physicality(counts, heading, seeds=training, still=still) if len(counts) else None,
        "melting_judged": not Limits(variant=run.variant).liquid,
        "overlap_rule": OVERLAP_RULES[not Limits(variant=run.variant).paper],
        "still_physical": len(still) > 0 and bool((still["total"] > 0).any()),
        "per_seed": html_tables.per_seed(seeds, heading) if len(seeds) and (len(run.seeds) > 1 or training) else None,
        "beside_reference": reference_table(beside, heading, seeds=training),
        "tests": tests,
        "unpaired": unpaired,
        "verdicts": answer_table(run) if run.is_check else None,
        "efs": html_tables.efs(errors, run) if len(errors) else None,
        "parity_caption": parity_caption(run),
        "efs_splits": list(errors["split"].unique()) if len(errors) else [],
        "survival": probes.survival(ends, heading) if len(ends) else None,
        "trajectories": html_tables.trajectories(trajectories, heading) if len(trajectories) else None,
        "n_trajectories": len(trajectories),
        "n_failing": int((trajectories["outcome"] != "physical").sum()) if len(trajectories) else 0,
    }


def _survival(run: RunData, downloads: Downloads) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Shares still physical at given times, and what the survival curves end with."""
    try:
        still, (curves, ends) = still_physical_table(run), survival_table(run)
    # as for figures: odd values in a column must not cost the whole report
    except Exception as error:
        run.notes["survival"] = f"The time to failure could not be judged: {error or type(error).__name__}"
        return pd.DataFrame(), pd.DataFrame()
    downloads.save(curves, "survival_curves")
    return downloads.save(still, "still_physical"), downloads.save(ends, "survival")


def _method(run: RunData, downloads: Downloads) -> dict[str, Any]:
    """Teacher, label filter, force alignment, stages and environment."""
    names = (
        "alignment",
        "decomposition",
        "teacher_pairs",
        "comparison",
        "change_errors",
        "filtered",
        "coverage",
        "replay",
        "rounds",
        "timings",
        "expected",
    )
    values: dict[str, Any] = dict.fromkeys((*names, "overhead"))
    if run.examination:
        downloads.save(pd.DataFrame(run.examination["pairs"]), "teacher_pairs")
        values["teacher_pairs"] = teacher_tables.teacher_pairs(run.examination)
    if run.filter:
        downloads.save(pd.DataFrame(run.filter["counts"].items(), columns=["reason", "removed"]), "filter")
        values["filtered"] = teacher_tables.filtered(run.filter)
    if run.coverage is not None:
        values["coverage"] = teacher_tables.coverage(downloads.save(run.coverage, "coverage"))
    if run.comparison is not None:
        values["comparison"] = teacher_tables.comparison(downloads.save(run.comparison, "comparison"))
    if run.change_errors is not None and (len(run.change_errors) > 1 or "labelled_by" in run.change_errors):
        values["change_errors"] = teacher_tables.change_errors(downloads.save(run.change_errors, "change_errors"))
        values["n_compositions"] = len(run.change_errors)
    if run.replay is not None:
        values["replay"] = html_tables.replay(downloads.save(run.replay, "replay"))
    if run.rounds is not None:
        values["rounds"] = html_tables.rounds(downloads.save(run.rounds, "rounds"))
    if run.timings:
        downloads.save(pd.DataFrame(run.timings), "timings")
        values |= {"timings": html_tables.timings(run.timings), "overhead": _overhead(run.timings)}
    if "alignment" in run.tables:
        summary = alignment_summary(run.tables["alignment"])
        downloads.save(summary.reset_index(), "alignment")
        values["alignment"] = html_tables.alignment(summary)
    if run.decomposition is not None:
        values["decomposition"] = probes.decomposition(downloads.save(run.decomposition, "decomposition"))
    seconds, jobs = ((run.plan or {}).get(key) for key in ("seconds", "jobs"))
    total = seconds.get("total") if isinstance(seconds, dict) else None
    if isinstance(total, (int, float)):
        values["expected"] = duration(total) + (
            f" with {jobs} tasks at a time" if isinstance(jobs, int) and jobs > 1 else ""
        )
    parts = ("test", "val", "train")  # as the teacher's stage takes them
    values["decomposed"] = next((part for part in parts if (run.summary or {}).get(f"n_{part}")), "training")
    return {**values, "environment": list(_flat(run.environment)) if run.environment else []}


def _overhead(timings: list[dict[str, Any]]) -> dict[str, str] | None:
    """Time that only the method costs (teacher, augmentation, labels, pretraining), as in section 4.1."""
    method = [t for t in timings if METHOD_STAGES & set(re.split(r"[^a-z]+", t["stage"].lower()))]
    seconds, total = sum(t["seconds"] for t in method), sum(t["seconds"] for t in timings)
    if not method or not total > 0:
        return None
    stages = ", ".join(dict.fromkeys(t["stage"] for t in method))
    return {"stages": stages, "time": duration(seconds), "share": f"{seconds / total:.0%}"}


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
    """Potentials and dataset in a few words."""
    summary = run.summary or {}
    facts = [(f"potential {name}", text) for name, text in ((run.check or {}).get("potentials") or {}).items()]
    facts.append(("reference potential", run.reference_words))
    sizes = [f"{summary[f'n_{s}']} {s}" for s in ("train", "val", "test") if summary.get(f"n_{s}") is not None]
    usage, atoms = summary.get("usage"), summary.get("n_atoms")
    if isinstance(usage, (int, float)):
        usage = f"{usage:.0%}" if usage >= 0.01 else f"{usage:.2%}"
    if isinstance(atoms, dict):
        atoms = f"{atoms.get('min', '–')} to {atoms.get('max', '–')}, mean {number(atoms.get('mean'), 1)}"
    facts += [
        ("structures", " · ".join(sizes)),
        ("split", split_words(summary)),
        ("share of the training data used", usage if isinstance(usage, str) else ""),
        ("elements", " ".join(map(str, summary.get("elements") or []))),
        ("atoms per structure", atoms if isinstance(atoms, str) else ""),
        ("source", str(summary.get("source") or "")),
        ("what the labels are", str(summary.get("label_note") or "")),
        ("seeds", "" if run.is_check and len(run.seeds) == 1 else ", ".join(map(str, run.seeds))),
    ]
    return [(fact, text) for fact, text in facts if text]
