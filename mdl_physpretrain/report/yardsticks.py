"""What a run's numbers have to be held against: the trivial predictor, trainings cut by a budget, two atoms alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from markupsafe import Markup

from mdl_physpretrain.probes.registry import probe_classes
from mdl_physpretrain.report.read import RunData
from mdl_physpretrain.report.sentences import Sentence
from mdl_physpretrain.report.tables import efs_table, main_split

__all__ = ["cut_trainings", "pair_sentences", "trivial_findings", "trivial_sentences"]

QUANTITIES = (  # name, verb, column, factor to the unit, unit, what the trivial predictor is
    ("energies", "are", "energy_per_atom_mae", 1000, "meV/atom", "one energy per element"),
    ("forces", "are", "forces_mae", 1000, "meV/Å", "zero forces"),
    ("stresses", "are", "stress_mae_gpa", 1, "GPa", "zero stress"),
)
FLAGS = {"hole": "hole", "missing_repulsion": "missing repulsion", "discontinuity": "discontinuity",
         "spurious_minima": "spurious minima", "failed_points": "not finite"}  # fmt: skip


def trivial_findings(run: RunData) -> list[tuple[str, str, str]]:
    """Errors that are no better than the trivial predictor's: arm, quantity, and a sentence without a full stop."""
    errors, trivial = efs_table(run), (run.summary or {}).get("trivial")
    if run.is_check or not len(errors) or not isinstance(trivial, Mapping):
        return []
    findings = []
    errors = errors[(errors["split"] == main_split(errors)) & errors["arm"].isin(run.judged)]
    for row in errors.to_dict("records"):
        for name, verb, key, factor, unit, yardstick in QUANTITIES:
            bound = trivial.get(key)
            if not isinstance(bound, (int, float)) or not row[key] >= bound:  # NaN: no such labels
                continue
            error, limit = (_rounded(factor * value) for value in (row[key], bound))
            words = f"{name} of {row['arm']} ({error} {unit}) {verb} no better than {yardstick} ({limit})"
            findings.append((str(row["arm"]), name, words))
    return findings


def _rounded(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"


def trivial_sentences(run: RunData) -> list[Sentence]:
    """What :func:`trivial_findings` says, for the verdict of the page."""
    return [
        Sentence("bad", f"{arm}: {name} no better than trivial", Markup.escape(f"{words[0].upper()}{words[1:]}."))
        for arm, name, words in trivial_findings(run)
    ]


def cut_trainings(plan: Mapping[str, Any] | None) -> str:
    """``"trainings cut to 30 of 200 epochs (pretraining to 8 of 50)"``; empty where no budget cut any."""
    changes = (plan or {}).get("changes")
    pairs = {}
    for key, value in changes.items() if isinstance(changes, Mapping) else ():
        if str(key).endswith("epochs") and isinstance(value, (list, tuple)) and len(value) == 2:
            pairs[str(key).removesuffix(".epochs").removeprefix("arms.")] = f"{value[1]} of {value[0]}"
    names = {"finetune": "", "pretrain": "pretraining", "loop": "each round of the closed loop"}
    words = [(names.get(key, key), text) for key, text in sorted(pairs.items(), key=lambda pair: pair[0] != "finetune")]
    if not words:
        return ""
    (name, text), *others = words
    start = f"trainings cut to {text} epochs" + (f" of {name}" if name else "")
    return start + (f" ({', '.join(f'{name} to {text}' for name, text in others)})" if others else "")


def pair_sentences(run: RunData) -> list[Sentence]:
    """For each arm the answer to the question of the diatomic curves, over its seeds."""
    table = run.tables.get("diatomic_flags")
    question = probe_classes()["diatomics"].question
    sentences = []
    for arm in run.judged if table is not None else ():
        rows = table[table["arm"] == arm] if table is not None else pd.DataFrame()
        if not len(rows):
            continue
        pairs, seeds = rows["pair"].nunique(), rows["seed"].nunique()
        flagged = rows[~rows["ok"].astype(bool)]
        n = flagged["pair"].nunique()
        several = f" in at least one of {seeds} seeds" if seeds > 1 else ""
        text = Markup("Two atoms of <strong>{}</strong> alone: ").format(arm)
        if not n:
            text += f"none of {pairs} pairs of elements has a flag."
            sentences.append(Sentence("good", f"{arm}: {question}: yes", text))
            continue
        counts = {}
        for key, words in FLAGS.items():
            values = pd.to_numeric(flagged[key], errors="coerce") if key in flagged else pd.Series(dtype=float)
            counts[words] = flagged.loc[values[values.fillna(0) > 0].index, "pair"].nunique()
        kinds = ", ".join(f"{words} {count}" for words, count in counts.items() if count)
        text += f"{n} of {pairs} pairs of elements have a flag{several}{f' ({kinds})' if kinds else ''}. "
        text += "Where atoms come that close, MD may fail."
        sentences.append(Sentence("caution", f"{arm}: {question}: no", text))
    return sentences
