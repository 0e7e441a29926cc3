"""Numbers and verdicts in words; every sentence says what the numbers support and no more."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from mdl_physpretrain.statistics.paired import Comparison
from mdl_physpretrain.statistics.seeds import MIN_SEEDS, PairedDifference

__all__ = ["DASH", "Sentence", "accuracy_sentence", "number", "p_text", "p_value", "physicality_sentence", "plural",
           "share", "spread", "teacher_sentence"]  # fmt: skip

DASH = "–"


@dataclass(frozen=True)
class Sentence:
    """A sentence of the verdict with its mood: ``good``, ``bad``, ``caution`` or ``neutral``."""

    mood: str
    label: str
    text: Markup


def number(value: Any, digits: int = 3) -> str:
    """A number with fixed decimals, a dash for what is missing; huge ones in powers of ten."""
    try:
        value = float(value)
    except (TypeError, ValueError):
        return DASH
    if not math.isfinite(value):
        return DASH if math.isnan(value) else ("∞" if value > 0 else "−∞")
    text = f"{value:.2e}" if abs(value) >= 1e6 else f"{value:.{digits}f}"
    return text.replace("-", "−")


def spread(mean: float, std: float, digits: int = 3) -> str:
    """Mean ± standard deviation; the mean alone where there is only one value."""
    return f"{number(mean, digits)} ± {number(std, digits)}" if math.isfinite(std) else number(mean, digits)


def p_text(p: float) -> str:
    """A p-value, in powers of ten where small: ``p = 0.021``, ``p = 3·10⁻⁷``."""
    found = p_value(p)
    return f"p {found}" if found.startswith("<") else f"p = {found}"


def p_value(p: float) -> str:
    """The number of :func:`p_text`: ``0.021``, ``3·10⁻⁷``."""
    if p >= 0.0005 or p <= 0:
        return f"{p:.3f}" if p > 0 else "< 10⁻³⁰⁰"
    mantissa, exponent = f"{p:.0e}".split("e")
    power = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa}·10{power}"


def plural(n: int, noun: str) -> str:
    """``1 seed``, ``2 seeds``."""
    return f"{n} {noun}" + ("" if n == 1 else "s")


def share(count: int, total: int, low: float, high: float) -> str:
    """``4 of 60 (7 %, 95 % interval 3–16 %)``."""
    if not total:
        return "0 of 0"
    return f"{count} of {total} ({count / total:.0%}, 95% interval {100 * low:.0f}–{100 * high:.0f}%)"


def physicality_sentence(comparison: Comparison, counts: pd.DataFrame, *, name_condition: bool) -> Sentence:
    """What pretraining did to the trajectories, and whether the data support saying so.

    Parameters
    ----------
    comparison
        Of the criterion ``unphysical``.
    counts
        Rows of the physicality table (both arms, one condition), with ``unphysical`` counts.
    name_condition
        Whether the reader must be told which condition is meant.
    """
    c = comparison
    rows = {row["arm"]: row for row in counts.to_dict("records") if row["condition"] == c.condition}
    both = [
        Markup("<strong>{}</strong> {}").format(
            arm, share(r["unphysical"], r["total"], r["unphysical_low"], r["unphysical_high"])
        )
        for arm in (c.arm, c.reference)
        if (r := rows.get(arm)) is not None
    ]
    start = Markup("{}Unphysical trajectories: {}. ").format(
        f"{c.condition}. " if name_condition else "", Markup(", ").join(both)
    )
    if not c.n_pairs:
        return Sentence(
            "neutral",
            f"{c.arm}: no comparison",
            start + "No trajectory is shared by the two arms, so nothing is compared.",
        )
    evidence = Markup("Of {} (same structure and seed), {} only with {} and {} only with {} (exact McNemar {})").format(
        plural(c.n_pairs, "paired trajectory").replace("trajectorys", "trajectories"),
        f"{c.only_reference} fail" if c.only_reference != 1 else "1 fails",
        c.reference,
        c.only_arm,
        c.arm,
        p_text(c.p_value),
    )
    seeds = _seed_words(c)
    if c.verdict == "supported":
        good = c.direction == "fewer"
        label = f"{c.arm}: {c.direction} unphysical"
        return Sentence(
            "good" if good else "bad",
            label,
            start + Markup("{}; {}. The difference is supported.").format(evidence, seeds),
        )
    if c.verdict == "indicated":
        why = (
            f"{plural(c.n_seeds, 'seed')} cannot show the spread between trainings"
            if c.n_seeds < MIN_SEEDS
            else "the seeds do not all agree"
        )
        text = Markup("{}; {}. This points to {} failures, but {}: not established.").format(
            evidence, seeds, c.direction, why
        )
        return Sentence("caution", f"{c.arm}: {c.direction} unphysical?", start + text)
    return Sentence(
        "neutral",
        f"{c.arm}: no difference shown",
        start + Markup("{}; {}. A difference is not supported.").format(evidence, seeds),
    )


def _seed_words(c: Comparison) -> str:
    better = f"{c.arm} fails less often in {c.seeds_better} of {plural(c.n_seeds, 'seed')}"
    if c.seeds_worse:
        return f"{better}, more often in {c.seeds_worse}"
    return better


def accuracy_sentence(
    difference: PairedDifference, means: dict[str, tuple[float, float, int]], *, split: str
) -> Sentence:
    """What pretraining did to the total error.

    Parameters
    ----------
    difference
        Arm minus reference over the seeds.
    means
        Mean, standard deviation and number of seeds by arm.
    split
        Which data the error belongs to.
    """
    d = difference
    values = Markup("Total error on the {} data: {} {} against {} {}, mean ± standard deviation over seeds. ").format(
        split,
        Markup("<strong>{}</strong>").format(d.arm),
        spread(*means[d.arm][:2]),
        d.reference,
        spread(*means[d.reference][:2]),
    )
    if d.n_seeds < MIN_SEEDS:
        text = f"{plural(d.n_seeds, 'seed')} in common: too few to tell a difference from the spread between seeds."
        return Sentence("neutral", f"{d.arm}: accuracy, too few seeds", values + text)
    sign = "+" if d.mean >= 0 else ""
    text = (
        f"Difference within a seed: {sign}{number(d.mean)} "
        f"(95% interval {number(d.low)} to {number(d.high)}, {plural(d.n_seeds, 'seed')})"
    )
    if d.verdict == "lower":
        return Sentence("good", f"{d.arm}: more accurate", values + f"{text}: lower, and supported.")
    if d.verdict == "higher":
        return Sentence("bad", f"{d.arm}: less accurate", values + f"{text}: higher, and supported.")
    return Sentence(
        "neutral", f"{d.arm}: accuracy, no difference shown", values + f"{text}: a difference is not supported."
    )


def teacher_sentence(examination: dict[str, Any]) -> Sentence:
    """Whether the teacher was fit to teach."""
    pairs = examination.get("pairs") or []
    good = sum(bool(p.get("passed")) for p in pairs if isinstance(p, dict))
    if examination.get("passed"):
        return Sentence(
            "good",
            "teacher passed",
            Markup("The teacher passed its examination ({} of {} pairs).").format(good, len(pairs)),
        )
    failures = "; ".join(str(f) for f in examination.get("failures") or []) or "no reason was stored"
    return Sentence(
        "bad",
        "teacher failed",
        Markup("The teacher failed its examination and was used all the same: {}.").format(failures),
    )
