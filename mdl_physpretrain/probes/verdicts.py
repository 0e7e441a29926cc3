"""The answers of a check in a few words per potential and question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from mdl_physpretrain.statistics.proportions import wilson_interval

__all__ = ["MAX_DRIFT", "QUESTIONS", "verdict_table"]

MAX_DRIFT = 1.0  # meV/atom/ps, which heats or cools a solid by 4 K a picosecond
QUESTIONS = {  # part -> question
    "md": "MD stays physical",
    "nve": "energy is conserved",
    "diatomics": "two atoms repel",
    "compression": "compression costs energy",
    "errors": "errors",
    "rdf": "structure as in the reference",
}


def verdict_table(
    tables: Mapping[str, pd.DataFrame],
    names: Sequence[str],
    unanswered: Mapping[tuple[str, str], str] | None = None,
) -> pd.DataFrame:
    """One row per potential and question.

    Parameters
    ----------
    tables
        CSV tables of the folder by their stem.
    names
        Potentials in order.
    unanswered
        Reasons by potential and part.

    Returns
    -------
    DataFrame
        ``arm, question, verdict`` (``yes``, ``no``, ``value``: a number without
        a limit, ``unanswered``) and ``finding``. The answer is ``yes`` when no
        trajectory is unphysical, no pair and no compressed structure has a
        flag, and no total energy drifts by more than :data:`MAX_DRIFT` and by
        more than twice its fluctuation over the run (less is no drift).
    """
    rows = []
    for name in names:
        mine = {kind: t[t["arm"] == name] for kind, t in tables.items() if "arm" in t}
        for part, question in QUESTIONS.items():
            reason = (unanswered or {}).get((name, part))
            if reason is not None:
                rows.append({"arm": name, "question": question, "verdict": "unanswered", "finding": reason})
                continue
            found = ANSWERS[part](mine)
            if found is not None:
                rows.append({"arm": name, "question": question, "verdict": found[0], "finding": found[1]})
    return pd.DataFrame(rows, columns=["arm", "question", "verdict", "finding"])


Answer = tuple[str, str] | None
Tables = Mapping[str, "pd.DataFrame"]


def _md(tables: Tables) -> Answer:
    table = tables.get("physicality")
    if table is None:
        return None
    table = table[table["label"].isna()]
    if not len(table):
        return None
    bad = table[~table["physical"]]
    low, high = wilson_interval(len(bad), len(table))
    words = f"{len(bad)} of {len(table)} trajectories unphysical (95 % interval {100 * low:.0f}-{100 * high:.0f} %)"
    if not len(bad):
        return "yes", words
    first = bad["reason"].str.split(",").str[0].value_counts()
    return "no", f"{words}: " + ", ".join(f"{reason} {n}" for reason, n in first.items())


def _nve(tables: Tables) -> Answer:
    table = tables.get("nve")
    if table is None or not len(table):
        return None
    worst = table.loc[table["drift"].abs().idxmax()] if table["drift"].notna().any() else None
    if worst is None:
        return "no", "no trajectory lasted long enough to measure a drift"
    size = table["drift"].abs()
    over = int(((size > MAX_DRIFT) & (size * table["ps"] > 2 * table["fluctuation"])).sum())
    lost = int(table["drift"].isna().sum())
    words = f"largest drift {worst['drift']:.3g} meV/atom/ps ({worst['structure_id']}, {worst['ps']:.3g} ps)"
    if over or lost:
        told = [f"{over} of {len(table)} drift"] * bool(over) + [f"{lost} ended too early"] * bool(lost)
        return "no", f"{words}; {', '.join(told)}"
    return "yes", words


def _diatomics(tables: Tables) -> Answer:
    return _flags(tables.get("diatomic_flags"), "pair", "pairs")


def _compression(tables: Tables) -> Answer:
    return _flags(tables.get("compression_flags"), "structure_id", "structures")


def _flags(table: pd.DataFrame | None, what: str, many: str) -> Answer:
    if table is None or not len(table):
        return None
    bad = table[~table["ok"].astype(bool)]
    words = f"{len(table) - len(bad)} of {len(table)} {many} without a flag"
    if not len(bad):
        return "yes", words
    kinds = [c for c in FLAGS if c in bad]
    told = []
    for row in bad.to_dict("records")[:4]:
        reasons = [c.replace("_", " ") for c in kinds if row[c]]
        told.append(f"{row[what]} ({', '.join(reasons)})")
    more = f" and {len(bad) - 4} more" if len(bad) > 4 else ""
    return "no", f"{words}; {', '.join(told)}{more}"


FLAGS = ("hole", "missing_repulsion", "spurious_minima", "collapse", "discontinuity")


def _errors(tables: Tables) -> Answer:
    table = tables.get("efs")
    if table is None or not len(table):
        return None
    row = table.iloc[0]
    units = {"energy_per_atom_mae": "eV/atom", "forces_mae": "eV/Å", "stress_mae_gpa": "GPa"}
    letters = dict(zip(units, "EFS", strict=True))
    known = [f"{letters[k]} {row[k]:.4g} {unit}" for k, unit in units.items() if row[k] == row[k]]
    return "value", f"{', '.join(known)} ({int(row['n_structures'])} structures)"


def _rdf(tables: Tables) -> Answer:
    table = tables.get("rdf_errors")
    if table is None or not len(table):
        return None
    every = table[table["pair"] == "all"]["error"]
    return "value", f"RDF error {every.mean():.3g} (mean of {len(every)} trajectories)"


ANSWERS = {
    "md": _md,
    "nve": _nve,
    "diatomics": _diatomics,
    "compression": _compression,
    "errors": _errors,
    "rdf": _rdf,
}
