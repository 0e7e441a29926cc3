"""Number formats: decimals, spreads, p-values, shares, durations."""

from __future__ import annotations

import math
from typing import Any

from mdl_physpretrain.probes.page import DASH, number, plural, spread

__all__ = [
    "DASH",
    "duration",
    "markdown_table",
    "number",
    "p_text",
    "p_value",
    "percent_range",
    "plain_number",
    "plain_spread",
    "plural",
    "share",
    "spread",
]  # fmt: skip


def p_text(p: float) -> str:
    """A p-value, in powers of ten where small: ``p = 0.021``, ``p = 3·10⁻⁷``."""
    return f"p {p_value(p)}" if p <= 0 else f"p = {p_value(p)}"


def p_value(p: float) -> str:
    """The number of :func:`p_text`: ``0.021``, ``3·10⁻⁷``."""
    if p >= 0.0005 or p <= 0:
        return f"{p:.3f}" if p > 0 else "< 10⁻³⁰⁰"
    mantissa, exponent = f"{p:.0e}".split("e")
    power = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa}·10{power}"


def percent_range(low: float, high: float) -> str:
    """Bounds of a share: ``3–16%``; nothing where they are not known."""
    return f"{100 * low:.0f}–{100 * high:.0f}%" if math.isfinite(low) and math.isfinite(high) else ""


def share(count: int, total: int, low: float, high: float) -> str:
    """``4 of 60 (7%, 95% interval 3–16%)``."""
    return f"{count} of {total} ({count / total:.0%}, 95% interval {percent_range(low, high)})" if total else "0 of 0"


def duration(seconds: float) -> str:
    """``0.4 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if not math.isfinite(seconds):
        return DASH
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def plain_number(value: float, form: str = ".3g", *, missing: str = "") -> str:
    """A number for Markdown, ``missing`` for NaN."""
    return missing if math.isnan(value) else format(value, form)


def plain_spread(mean: float, std: float, *, missing: str = "") -> str:
    """Mean ± standard deviation for Markdown; the mean alone where there is only one value."""
    return plain_number(mean, missing=missing) if math.isnan(std) else f"{mean:.3g} ± {std:.1g}"


def markdown_table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table of the values; the keys are the headings."""
    if not rows:
        return ""
    lines = ["| " + " | ".join(map(str, cells)) + " |\n" for cells in (rows[0], *(row.values() for row in rows))]
    return "".join([lines[0], "|---" * len(rows[0]) + "|\n", *lines[1:]])
