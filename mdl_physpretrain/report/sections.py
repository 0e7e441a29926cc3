"""The parts of the page beside the verdict: teacher, filter, angles, stages, environment, facts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pandas as pd

from mdl_physpretrain.probes.force_alignment import alignment_summary
from mdl_physpretrain.report import layout, probes
from mdl_physpretrain.report.downloads import Downloads
from mdl_physpretrain.report.read import RunData
from mdl_physpretrain.report.text import number

__all__ = ["facts", "pieces"]

# words in a stage's name that mark what only the method needs; the rest a baseline needs too (section 4.1)
METHOD_STAGES = {"teacher", "fit", "augment", "label", "pretrain"}


def pieces(run: RunData, downloads: Downloads) -> dict[str, Any]:
    """Tables of the teacher, the filter, the angles and the stages, for the template."""
    teacher = layout.teacher_pairs(run.examination) if run.examination else None
    if teacher and run.examination:
        downloads.save(pd.DataFrame([p for p in run.examination["pairs"] if isinstance(p, dict)]), "teacher_pairs")
    removed = layout.filtered(run.filter) if run.filter else None
    if removed and run.filter:
        downloads.save(pd.DataFrame(run.filter["counts"].items(), columns=["reason", "removed"]), "filter")
    if run.timings:
        downloads.save(pd.DataFrame(run.timings), "timings")
    angles = None
    if "alignment" in run.tables:
        summary = alignment_summary(run.tables["alignment"])
        downloads.save(summary.reset_index(), "alignment")
        angles = layout.alignment(summary)
    if run.decomposition is not None:
        downloads.save(run.decomposition, "decomposition")
    return {
        "alignment": angles,
        "decomposition": None if run.decomposition is None else probes.decomposition(run.decomposition),
        "teacher_pairs": teacher,
        "filtered": removed,
        "timings": layout.timings(run.timings) if run.timings else None,
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


def facts(run: RunData) -> list[tuple[str, str]]:
    """The dataset in a few words."""
    told: list[tuple[str, str]] = []
    potentials = (run.check or {}).get("potentials") or {}
    told += [(f"potential {name}", text) for name, text in potentials.items()]
    s = run.summary or {}
    sizes = [(name, s.get(f"n_{name}")) for name in ("train", "val", "test")]
    if any(n is not None for _, n in sizes):
        told.append(("structures", " · ".join(f"{n} {name}" for name, n in sizes if n is not None)))
    if isinstance(s.get("usage"), (int, float)):
        told.append(
            ("share of the training data used", f"{s['usage']:.0%}" if s["usage"] >= 0.01 else f"{s['usage']:.2%}")
        )
    if s.get("elements"):
        told.append(("elements", " ".join(map(str, s["elements"]))))
    atoms = s.get("n_atoms")
    if isinstance(atoms, dict):
        told.append(
            (
                "atoms per structure",
                f"{atoms.get('min', '–')} to {atoms.get('max', '–')}, mean {number(atoms.get('mean'), 1)}",
            )
        )
    if s.get("source"):
        told.append(("source", str(s["source"])))
    if s.get("label_note"):
        told.append(("what the labels are", str(s["label_note"])))
    if run.seeds and not (run.is_check and len(run.seeds) == 1):
        told.append(("seeds", ", ".join(map(str, run.seeds))))
    return told
