"""The network of a run that its results recommend, and how it is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mdl_physpretrain.files import file_hash
from mdl_physpretrain.report.conditions import main_conditions
from mdl_physpretrain.report.formats import number, plural
from mdl_physpretrain.report.parse import attempt, read_json
from mdl_physpretrain.report.read import RunData

__all__ = ["Recommendation", "recommended_network"]


@dataclass(frozen=True)
class Recommendation:
    """A network; ``file`` is relative to the run folder, ``tested`` says on what, ``chosen`` why this one."""

    arm: str
    seed: int
    file: str
    chosen: str
    tested: str
    flagged_pairs: str

    @property
    def code(self) -> str:
        """Its use in ASE, from within the run folder."""
        return (
            "import mdl_physpretrain as pp\n"
            "from ase.io import read\n"
            'atoms = read("start.xyz")\n'
            f'atoms.calc = pp.ASECalculator(pp.load_model("{self.file}"))\n'
            "print(atoms.get_potential_energy(), atoms.get_forces())"
        )


def recommended_network(run: RunData) -> Recommendation | None:
    """The network to use of a run.

    Parameters
    ----------
    run
        A run folder, not that of a check.

    Returns
    -------
    Recommendation or None
        Of the arm with the smallest share of unphysical trajectories in the main
        MD (of equal ones, or without MD, that with the lowest mean validation
        total) the seed with the lowest validation total, of the networks that
        are trained and judged as the configuration says. ``None`` without
        validation errors, or where the file is not there.
    """
    efs = run.efs
    if run.is_check or efs is None or "split" not in efs or "total" not in efs:
        return None
    val = efs[(efs["split"] == "val") & efs["arm"].isin(run.judged)]
    val = val.assign(total=pd.to_numeric(val["total"], errors="coerce")).dropna(subset="total")
    trained = zip(val["arm"].astype(str), val["seed"].astype(int), strict=True)
    present = [(run.path / _file(run, arm, seed)).is_file() and not _is_left(run, arm, seed) for arm, seed in trained]
    val = val[np.array(present, dtype=bool)]
    if not len(val):
        return None
    shares = _unphysical(run)
    totals = val.groupby("arm")["total"].mean()
    arm = min(totals.index, key=lambda name: (shares.get(name, (2, 1, 0))[0], totals[name], name))
    of_arm = val[val["arm"] == arm]
    best = of_arm.loc[of_arm["total"].idxmin()]
    seed, seeds = int(best["seed"]), len(of_arm)
    of = f" of the {seeds} seeds of {arm}" if seeds > 1 else f", arm {arm}"
    chosen = f"lowest validation total{of}, {number(best['total'])}; test data took no part"
    if arm in shares and len(totals) > 1:
        chosen += f"; {arm} is the arm with the fewest unphysical trajectories, {shares[arm][1]} of {shares[arm][2]}"
    return Recommendation(arm, seed, _file(run, arm, seed), chosen, _tested(run), _flagged(run, arm, seed))


def _file(run: RunData, arm: str, seed: int) -> str:
    """The finished network: of the arm's closed loop where it has one."""
    config = run.config or {}
    arms = config.get("arms")
    options = arms.get(arm) if isinstance(arms, Mapping) else None
    rounds = options.get("loop") if isinstance(options, Mapping) else None
    if rounds is None:
        rounds = (config.get("loop") or {}).get("rounds") if isinstance(config.get("loop"), Mapping) else 0
    looped = f"seed-{seed}/{arm}/loop/best.pt"
    return looped if rounds and (run.path / looped).is_file() else f"seed-{seed}/{arm}/best.pt"


def _is_left(run: RunData, arm: str, seed: int) -> bool:
    """Whether the network, or its verdict, is not what the configuration says: the tables are those of before."""
    for task, table, own in (("evaluate", "efs.csv", f"{arm}.efs.csv"), ("md", "physicality.csv", f"{arm}.csv")):
        collected = task in run.left and (run.path / table).is_file()
        if collected and not _is_collected(run, task, f"seed-{seed}/{task}/{own}"):
            return True
    names = [f"{stage} seed {seed} {arm}" for stage in ("finetune", "loop", "evaluate", "md")]
    return any(left == name or left.startswith(f"{name} ") for left in run.left for name in names)


def _is_collected(run: RunData, task: str, file: str) -> bool:
    """Whether a table of all seeds, to which others are still to be added, holds this one as it is."""
    record, _ = attempt(run.path / ".stages" / f"{task}.json", task, read_json)
    try:
        return bool(record["parts"]["inputs"][file] == file_hash(run.path / file))
    except (KeyError, TypeError, OSError):
        return False


def _unphysical(run: RunData) -> dict[Any, tuple[float, int, int]]:
    """Share, number and total of unphysical trajectories of the main MD by arm."""
    if run.physicality is None:
        return {}
    table = run.physicality[run.physicality["condition"].isin(main_conditions(run.physicality))]
    done = [not _is_left(run, str(a), int(s)) for a, s in zip(table["arm"], table["seed"], strict=True)]
    table = table[np.array(done, dtype=bool)]
    lost = (~table["physical"].astype(bool)).groupby(table["arm"])
    return {arm: (float(group.mean()), int(group.sum()), len(group)) for arm, group in lost}


def _tested(run: RunData) -> str:
    """Elements and simulations."""
    elements = " ".join(map(str, (run.summary or {}).get("elements") or []))
    conditions = [] if run.physicality is None else list(dict.fromkeys(run.physicality["condition"]))
    return "; ".join(words for words in (elements, *conditions) if words)


def _flagged(run: RunData, arm: str, seed: int) -> str:
    """``"10 of 10 pairs"`` whose curve of two atoms alone is flagged; empty: none, or not known."""
    table = run.tables.get("diatomic_flags")
    if table is None:
        return ""
    rows = table[(table["arm"] == arm) & (table["seed"] == seed)]
    n = int((~rows["ok"].astype(bool)).sum())
    return f"{n} of {plural(len(rows), 'pair')}" if n else ""
