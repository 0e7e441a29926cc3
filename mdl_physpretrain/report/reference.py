"""Verdicts beside the reference potential: what the others lose of the trajectories that it keeps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup

from mdl_physpretrain.probes.stiffness import FEWEST_PAIRS
from mdl_physpretrain.report.conditions import main_conditions
from mdl_physpretrain.report.formats import DASH, number, percent_range, plural, share
from mdl_physpretrain.report.html_tables import Cell, HtmlTable, column, count, html_table
from mdl_physpretrain.report.read import RunData
from mdl_physpretrain.report.sentences import Sentence
from mdl_physpretrain.statistics.reference import REFERENCE_POTENTIAL, BesideReference, compare_with_reference

__all__ = [
    "compared_with_reference",
    "error_sentences",
    "held_against",
    "of_kept",
    "reference_sentences",
    "reference_table",
]

#: Error of changes of force, as a share of them, from which a reference potential is called a poor one.
POOR_CHANGES = 0.5
#: eV/Å: below it, forces of relaxed cells say nothing about a potential.
SMALL_FORCES = 0.1
RULE = (
    "A trajectory that the reference loses, too, at any time, is not held against a potential, unless the potential "
    "overlaps or explodes where the reference does no more than pass the Lindemann limits."
)


def compared_with_reference(run: RunData) -> list[BesideReference]:
    """Every arm beside the reference potential, under every main condition."""
    table = run.physicality
    if table is None:
        return []
    return compare_with_reference(table[table["condition"].isin(main_conditions(table))], run.judged)


def held_against(table: pd.DataFrame) -> int:
    """How many trajectories count against their potential: without a reference, all that are lost."""
    lost = ~table["physical"].astype(bool)
    if "held_against" not in table:
        return int(lost.sum())
    return int(table["held_against"].astype("boolean").fillna(lost).sum())


def of_kept(row: BesideReference) -> str:
    """``2 of 21``, and what overlaps where the reference melts."""
    return f"{row.lost} of {row.kept}" + (f" + {row.fell}" if row.fell else "")


def reference_sentences(run: RunData, rows: Sequence[BesideReference]) -> list[Sentence]:
    """What the reference potential keeps, by condition, and what each arm loses of that."""
    table, sentences = run.physicality, []
    if table is None or not rows:
        return []
    several = len({row.condition for row in rows}) > 1
    for condition in dict.fromkeys(row.condition for row in rows):
        start = f"{condition}. " if several else ""
        theirs = table[(table["arm"] == REFERENCE_POTENTIAL) & (table["condition"] == condition)]
        here = [row for row in rows if row.condition == condition]
        sentences.append(_of_reference(theirs, run.reference_words, start, any(row.without for row in here)))
        sentences += [_of_arm(row, start) for row in here]
    return [*sentences, *error_sentences(run.reference_errors)]


def _of_reference(table: pd.DataFrame, words: str, start: str, part_only: bool) -> Sentence:
    kept, total = int(table["physical"].sum()), len(table)
    name = Markup(" ({})").format(words) if words else ""
    text = Markup(
        "{}The <strong>reference potential</strong>{} keeps {} of {} trajectories to their end, from the same starts "
        "with the same velocities and noise. {}"
    ).format(start, name, kept, total, RULE)
    if part_only:
        text += Markup(
            " It was run from the first {} only: what is said beside it is about these alone, the other "
            "trajectories count in the absolute numbers."
        ).format(plural(table["structure_id"].nunique(), "start"))
    return Sentence("neutral" if kept else "caution", f"reference potential: keeps {kept} of {total}", text)


def error_sentences(errors: Mapping[str, Any] | None) -> list[Sentence]:
    """How well the reference potential knows the test structures: whether its word counts for this material."""
    if not errors:
        return []
    if errors.get("failed"):
        text = Markup("The reference potential gives no forces of the test structures: {}").format(errors["failed"])
        return [Sentence("caution", "reference potential: errors not known", text)]
    forces, trivial = _finite(errors, "forces"), _finite(errors, "trivial")
    if forces is None or trivial is None:
        return []
    poor = forces >= trivial > SMALL_FORCES  # of relaxed cells predicting zero looks best
    words = [f"forces are wrong by {number(forces, 3)} eV/Å (predicting zero: {number(trivial, 3)})"]
    changes = errors.get("changes")
    changes = changes if isinstance(changes, Mapping) else {}
    wrong, none, pairs = (_finite(changes, key) for key in ("error", "trivial", "pairs"))
    if wrong is not None and none and pairs and pairs >= FEWEST_PAIRS:
        poor = wrong / none >= POOR_CHANGES
        words.append(
            f"changes of force between frames of the same atoms by {wrong / none:.0%} of them "
            f"({plural(int(pairs), 'pair')}; stiffness {number(changes.get('stiffness'), 2)})"
        )
    start = f"On {plural(int(_finite(errors, 'answered') or 0), 'test structure')} the reference potential’s "
    text = Markup("{}{}.").format(start, " and ".join(words))
    if not poor:
        return [Sentence("neutral", f"reference potential: forces wrong by {number(forces, 3)} eV/Å", text)]
    text += " It knows this material poorly, so what it keeps and loses says little."
    return [Sentence("caution", "reference potential: knows this material poorly", text)]


def _finite(values: Mapping[str, Any], key: str) -> float | None:
    value = values.get(key)
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None


def _of_arm(row: BesideReference, start: str) -> Sentence:
    if not row.kept and not row.fell:
        text = Markup("{}The reference potential keeps none of the trajectories of <strong>{}</strong>.")
        return Sentence("neutral", f"{row.arm}: no trajectory to keep", text.format(start, row.arm))
    text = Markup("{}Of the trajectories that the reference potential keeps, <strong>{}</strong> loses {}").format(
        start, row.arm, share(row.lost, row.kept, row.low, row.high)
    )
    if row.fell:
        text += f", and {row.fell} overlap or explode where the reference only passes the Lindemann limits"
    if len(row.per_seed) > 1:
        text += f"; held against it per seed: {', '.join(str(n) for _, n in row.per_seed)}"
    text += f". {row.excused} that the reference loses, too, are not held against it." if row.excused else "."
    if math.isfinite(row.time_low):
        text += f" Its trajectories stay physical {_difference(row)} than the reference’s."
    if row.held:
        return Sentence("bad", f"{row.arm}: loses {of_kept(row)} that the reference keeps", text)
    return Sentence("good", f"{row.arm}: loses none that the reference keeps", text)


def _difference(row: BesideReference) -> str:
    interval = f"95% interval of the difference {number(row.time_low, 2)} to {number(row.time_high, 2)} ps"
    word = "shorter" if row.time < 0 else "longer"
    return f"{number(abs(row.time), 2)} ps {word} on average ({interval}, {plural(row.n_structures, 'structure')})"


def reference_table(rows: Sequence[BesideReference], who: str, *, seeds: bool) -> HtmlTable | None:
    """What every arm loses of the trajectories that the reference potential keeps.

    Parameters
    ----------
    rows
        Of :func:`compared_with_reference`.
    who
        Heading of the first column.
    seeds
        Whether seeds repeat a training.
    """
    if not rows:
        return None
    several = len({row.condition for row in rows}) > 1

    def kept(row: Mapping[Any, Any]) -> Cell:
        without = f"{row['without']} more without reference" if row["without"] else ""
        return Cell(f"{row['kept']} of {row['total']}", without)

    def lost(row: Mapping[Any, Any]) -> Cell:
        css = "bad" if row["lost"] else "zero"
        return Cell(str(row["lost"]), percent_range(row["low"], row["high"]), css=css)

    def held(row: Mapping[Any, Any]) -> Cell:
        per_seed = f"per seed {row['per_seed']}" if seeds and " " in row["per_seed"] else ""
        return Cell(str(row["held"]), per_seed, css="bad" if row["held"] else "zero")

    def time(row: Mapping[Any, Any]) -> Cell:
        if not math.isfinite(row["time"]):
            return Cell(DASH)
        known = math.isfinite(row["time_low"])
        return Cell(
            number(row["time"], 2), f"{number(row['time_low'], 2)} to {number(row['time_high'], 2)}" if known else ""
        )

    columns = [
        column(
            who,
            numeric=False,
            cell=lambda row: Cell(row["arm"], row["condition"] if several else "", arm=row["arm"]),
        ),
        column("Kept by the reference", cell=kept),
        column("Of these lost", cell=lost),
        count("Overlap, explosion where it melts", "fell"),
        column("Held against", cell=held),
        count("Lost by both, not held against", "excused"),
        column("Physical longer than the reference", "ps", cell=time),
    ]
    return html_table([row.row for row in rows], columns, "beside_reference")
