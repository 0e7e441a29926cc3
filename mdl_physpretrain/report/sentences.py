"""Sentences of the conclusions: each says what the numbers support and no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from mdl_physpretrain.report.formats import number, p_text, plural, share, spread
from mdl_physpretrain.statistics.paired import Comparison
from mdl_physpretrain.statistics.seeds import MIN_SEEDS, PairedDifference

__all__ = [
    "Sentence",
    "accuracy_sentence",
    "budget_sentence",
    "left_sentence",
    "physicality_sentence",
    "split_words",
    "teacher_sentence",
]


@dataclass(frozen=True)
class Sentence:
    """A sentence of the conclusions with its mood: ``good``, ``bad``, ``caution`` or ``neutral``."""

    mood: str
    label: str
    text: Markup


def physicality_sentence(
    comparison: Comparison, counts: pd.DataFrame, *, name_condition: bool, cut: str = ""
) -> Sentence:
    """Effect of pretraining on trajectories, whether the data support it; ``cut`` says of which trainings."""
    c = comparison
    rows = counts[counts["condition"] == c.condition].set_index("arm").to_dict("index")
    shares = [
        Markup("<strong>{}</strong> {}").format(
            arm, share(*(rows[arm][key] for key in ("unphysical", "total", "unphysical_low", "unphysical_high")))
        )
        for arm in (c.arm, c.reference)
        if arm in rows
    ]
    start = Markup("{}Unphysical trajectories: {}. ").format(
        f"{c.condition}. " if name_condition else "", Markup(", ").join(shares)
    )
    if not c.n_pairs:
        nothing = "No trajectory is shared by the two arms, so nothing is compared."
        return Sentence("neutral", f"{c.arm}: no comparison", start + nothing)
    trajectories = "1 paired trajectory" if c.n_pairs == 1 else f"{c.n_pairs} paired trajectories"
    fails = "1 fails" if c.only_reference == 1 else f"{c.only_reference} fail"
    start += (
        f"Of {trajectories} (same structure and seed), {fails} only with {c.reference} and {c.only_arm} only with "
        f"{c.arm} (exact McNemar {p_text(c.p_value)}); {c.arm} fails less often in {c.seeds_better} of "
        f"{plural(c.n_seeds, 'seed')}{f', more often in {c.seeds_worse}' if c.seeds_worse else ''}. "
    )
    of_cut = f", of {cut}," if cut else ""
    if c.conclusion == "supported":
        mood = "good" if c.direction == "fewer" else "bad"
        return Sentence(mood, f"{c.arm}: {c.direction} unphysical", start + f"The difference{of_cut} is supported.")
    if c.conclusion == "indicated":
        why = (
            f"{plural(c.n_seeds, 'seed')} cannot show the spread between trainings"
            if c.n_seeds < MIN_SEEDS
            else "the seeds do not all agree"
        )
        text = f"This points to {c.direction} failures{of_cut or ','} but {why}: not established."
        return Sentence("caution", f"{c.arm}: {c.direction} unphysical?", start + text)
    return Sentence("neutral", f"{c.arm}: no difference shown", start + "A difference is not supported.")


def accuracy_sentence(difference: PairedDifference, errors: pd.DataFrame, *, split: str, cut: str = "") -> Sentence:
    """Effect of pretraining on the total error of a split; ``errors`` has ``total`` and ``total_std`` by arm.

    ``cut`` says how a budget shortened the trainings: what they would become in full is not shown.
    """
    d = difference
    start = Markup(
        "Total error on the {} data: <strong>{}</strong> {} against {} {}, mean ± standard deviation over seeds. "
    ).format(
        split,
        d.arm,
        spread(errors["total"][d.arm], errors["total_std"][d.arm]),
        d.reference,
        spread(errors["total"][d.reference], errors["total_std"][d.reference]),
    )
    seeds = plural(d.n_seeds, "seed")
    if d.n_seeds < MIN_SEEDS:
        text = f"{seeds} in common: too few to tell a difference from the spread between seeds."
        return Sentence("neutral", f"{d.arm}: accuracy, too few seeds", start + text)
    start += f"Difference within a seed: {'+' if d.mean >= 0 else ''}{number(d.mean)} "
    start += f"(95% interval {number(d.low)} to {number(d.high)}, {seeds}): "
    if d.conclusion == "unsupported":
        label = f"{d.arm}: accuracy, no difference shown"
        return Sentence("neutral", label, start + "a difference is not supported.")
    mood, word = ("good", "more") if d.conclusion == "lower" else ("bad", "less")
    if cut:
        text = f"{d.conclusion}, and supported, of {cut}; whole trainings may differ."
        return Sentence("caution", f"{d.arm}: {word} accurate, trainings cut", start + text)
    return Sentence(mood, f"{d.arm}: {word} accurate", start + f"{d.conclusion}, and supported.")


def teacher_sentence(examination: dict[str, Any]) -> Sentence:
    """Whether the teacher was fit to teach."""
    pairs = examination.get("pairs") or []
    if examination.get("passed"):
        passed = sum(bool(pair.get("passed")) for pair in pairs if isinstance(pair, dict))
        words = "; ".join(examination.get("words") or [])
        text = Markup("The teacher passed its examination ({} of {} pairs).").format(passed, len(pairs))
        if words:
            text += Markup(" {}.").format(words[0].upper() + words[1:])
        if beyond := examination.get("n_extrapolated"):
            text += Markup(" The data never show {} further pairs of elements together.").format(beyond)
        return Sentence("good", "teacher passed", text)
    failures = "; ".join(str(failure) for failure in examination.get("failures") or []) or "no reason was stored"
    text = Markup("The teacher failed its examination and was used all the same: {}.").format(failures)
    return Sentence("bad", "teacher failed", text)


def left_sentence(left: Sequence[str]) -> Sentence | None:
    """That tasks of the present configuration are not done, so that numbers are missing, or of an earlier one."""
    if not left:
        return None
    more = f" and {len(left) - 3} more" if len(left) > 3 else ""
    text = Markup(
        "Not done, or not as this configuration and this version do it: {}{}. What hangs on them is missing here, or "
        "as an earlier call left it; physpretrain run does what is left."
    )
    return Sentence("caution", "not complete", text.format(", ".join(left[:3]), more))


def budget_sentence(plan: Mapping[str, Any] | None) -> Sentence | None:
    """What was cut down to keep a budget of time, from ``plan.json``."""
    changes = (plan or {}).get("changes")
    if plan is None or not isinstance(changes, Mapping) or not changes:
        return None
    pairs = [(key, value) for key, value in changes.items() if isinstance(value, (list, tuple)) and len(value) == 2]
    words = ", ".join(f"{key} {before} → {now}" for key, (before, now) in pairs)
    text = Markup("Fitted to {}: {}. The recipe asks for more; without the budget it is done as it stands.")
    return Sentence("caution", "fitted to a budget", text.format(plan.get("limits") or "a budget", words))


def split_words(summary: Mapping[str, Any]) -> str:
    """How the data were split and how many groups each part has, from ``data/summary.json``; older ones do not say."""
    by, groups, share = (summary.get(key) for key in ("split_by", "n_groups", "test_composition_in_train"))
    words = []
    if by and isinstance(groups, Mapping):
        counts = " · ".join(f"{n} {part}" for part, n in groups.items())
        words.append("by structure" if by == "structure" else f"by {by}, groups kept whole: {counts}")
    if isinstance(share, (int, float)):
        words.append(f"{share:.0%} of the test structures have a composition that occurs in training")
    return "; ".join(words)
