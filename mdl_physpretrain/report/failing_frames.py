"""Trajectories of the earliest failures of a run, for the page's viewer."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from itertools import combinations_with_replacement, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from ase.data import atomic_numbers, chemical_symbols, covalent_radii

from mdl_physpretrain.dynamics.records import RunRecord, Runs
from mdl_physpretrain.errors import CheckpointError, StructureError
from mdl_physpretrain.graphs.neighbour_lists import neighbour_list
from mdl_physpretrain.report.conditions import condition_words
from mdl_physpretrain.report.motion import Motion, PageRoom, recorded_motion, wrapped
from mdl_physpretrain.report.read import RunData, md_files
from mdl_physpretrain.report.tables import failure_steps
from mdl_physpretrain.stability.limits import Limits
from mdl_physpretrain.stability.overlap import closest_pair
from mdl_physpretrain.stability.verdict import apart_words

__all__ = ["Beside", "Frame", "earliest_failures", "element_colour"]

MAX_FRAMES = 12
MAX_ATOMS = 1500
COLOURS = {  # of the elements met most; red is kept for what is wrong
    "H": "#cfd6db", "Li": "#b58bd6", "C": "#6b747c", "N": "#5b7fe0", "O": "#5db7d8", "F": "#9ad36a",
    "Na": "#8f6fd0", "Mg": "#6fc28a", "Al": "#a9b3bd", "Si": "#d9b36c", "P": "#f0a03c", "S": "#e3cf3f",
    "Cl": "#4fb56a", "K": "#6d5bb8", "Ca": "#7fae9a", "Ti": "#8796a5", "V": "#7a8fc4", "Cr": "#5f86b8",
    "Mn": "#3f9e8c", "Fe": "#c98a52", "Co": "#4f6fc9", "Ni": "#62a86f", "Cu": "#c9834b", "Zn": "#7d8fae",
    "Ga": "#bb9a8c", "As": "#a58bc0", "Se": "#d2a63a", "In": "#9c8a7e",
}  # fmt: skip


@dataclass(frozen=True)
class Beside:
    """A trajectory of the same structure that stays physical: its last frame and those before it."""

    arm: str
    seed: int
    shown: int
    positions: list[list[float]]
    cell: list[list[float]]
    motion: Motion


@dataclass(frozen=True)
class Frame:
    """The last frame of a trajectory that became unphysical, the cause in it, and the frames before it."""

    arm: str
    seed: int
    structure: str
    condition: str
    formula: str
    outcome: str
    step: int  # of the failure
    shown: int  # step of the frame
    text: str
    symbols: list[str]
    radii: list[float]  # Å
    positions: list[list[float]]  # (n, 3), Å, wrapped into the cell
    cell: list[list[float]]  # (3, 3), Å; zero rows where there is no vector
    pair: dict[str, Any] | None  # the closest two atoms, the vector between them, its length (Å); None: Lindemann only
    mark: int | None  # atom with the largest local Lindemann index, where that was violated
    timestep: float | None = None  # fs
    motion: Motion | None = None
    beside: Beside | None = None

    def plain(self) -> dict[str, Any]:
        """Values for JSON."""
        return asdict(self)


def element_colour(symbol: str) -> str:
    """Colour of an element; those without one of their own get a hue that is not red."""
    if symbol in COLOURS:
        return COLOURS[symbol]
    number = atomic_numbers.get(symbol, 0)
    hue, light = (30 + (number * 137.508) % 300) / 360, 0.5 + 0.04 * (number % 5)
    return "#" + "".join(f"{round(255 * c):02x}" for c in colorsys.hls_to_rgb(hue, light, 0.45))


def earliest_failures(run: RunData) -> list[Frame]:
    """At most twelve failing frames: the earliest failures of each arm in turn, other structures first.

    Files that are damaged are named in ``run.notes["worst"]``; what has no
    file is left out.
    """
    files: dict[tuple[int, str], list[tuple[str, Path]]] = {}
    for seed, arm, label, path in md_files(run.path, ".runs.npz"):
        files.setdefault((seed, arm), []).append((label, path))
    if run.physicality is None or not files:
        return []
    failed = failure_steps(run.physicality[~run.physicality["physical"]]).sort_values("failure_step", kind="stable")
    # every structure once before any is met again
    failed["again"] = failed.groupby(["arm", "condition", "structure_id"]).cumcount()
    failed = failed.sort_values(["again", "failure_step"], kind="stable")
    kept = run.physicality[run.physicality["physical"]]
    room = PageRoom()
    queues = [failed[failed["arm"] == arm].to_dict("records") for arm in run.arms]
    loaded: dict[Path, Runs | None] = {}
    frames: list[Frame] = []
    several = run.physicality["condition"].nunique() > 1
    for row in (r for rank in zip_longest(*queues) for r in rank if r is not None):
        if len(frames) == MAX_FRAMES:
            break
        record, settings = _record(run, row, files.get((row["seed"], row["arm"]), []), loaded)
        if record is None or len(record.numbers) > MAX_ATOMS:
            continue
        try:
            frame = _frame(row, record, settings, name_condition=several)
        except (StructureError, ValueError, IndexError) as error:  # an impossible cell, arrays that do not fit
            run.notes["worst"] = f"The last frame of {row['structure_id']} could not be shown: {error}"
            continue
        try:
            motion, beside = recorded_motion(record, room), None
            for other in _same_start(kept, row) if motion is not None else ():
                partner, _ = _record(run, other, files.get((other["seed"], other["arm"]), []), loaded)
                if partner is not None and np.array_equal(partner.numbers, record.numbers):
                    beside = _beside(other, partner, room)
                    break
            frame = replace(frame, motion=motion, beside=beside)
        except (StructureError, ValueError, np.linalg.LinAlgError) as error:
            run.notes["worst"] = f"The trajectory of {row['structure_id']} could not be shown: {error}"
        frames.append(frame)
    if room.crowded:
        run.notes["motion"] = (
            f"To keep the page small, {room.crowded} of these trajectories {'has' if room.crowded == 1 else 'have'} "
            "fewer frames here than are stored, or none."
        )
    return frames


def _same_start(kept: pd.DataFrame, row: dict[Any, Any]) -> list[dict[Any, Any]]:
    """Physical trajectories of other arms from the same structure under the same condition, those of its seed first."""
    same = kept[(kept["structure_id"] == row["structure_id"]) & (kept["condition"] == row["condition"])]
    same = same[same["arm"] != row["arm"]]
    return same.assign(far=(same["seed"] != row["seed"])).sort_values("far", kind="stable").to_dict("records")


def _beside(row: dict[Any, Any], record: RunRecord, room: PageRoom) -> Beside | None:
    motion = recorded_motion(record, room)
    if motion is None or not np.isfinite(record.positions).all():
        return None
    positions = wrapped(record.positions, record.cell, record.pbc.astype(bool))
    return Beside(
        row["arm"], int(row["seed"]), int(record.steps_done), _rounded(positions), _rounded(record.cell), motion
    )


def _rounded(values: np.ndarray) -> Any:
    return np.round(values, 3).tolist()


def _record(
    run: RunData, row: dict[Any, Any], files: list[tuple[str, Path]], loaded: dict[Path, Runs | None]
) -> tuple[RunRecord | None, dict[str, Any]]:
    """The record of a trajectory, from the file whose label and settings are those of its simulation."""
    for label, path in files:
        if path not in loaded:
            try:
                loaded[path] = Runs.load(path)
            except CheckpointError as error:
                loaded[path] = None
                run.notes["worst"] = str(error)
        runs = loaded[path]
        if runs is None:
            continue
        if "label" in row:
            matching = label == ("" if pd.isna(row["label"]) else row["label"])
        else:
            matching = len(files) == 1 or row["md"] in (condition_words(runs.settings), label)
        for record in runs if matching else ():
            if record.structure_id == row["structure_id"]:
                return record, runs.settings
    return None, {}


def _frame(row: dict[Any, Any], record: RunRecord, settings: dict[str, Any], *, name_condition: bool) -> Frame:
    numbers, pbc = record.numbers.astype(int), record.pbc.astype(bool)
    cell = np.where(np.isfinite(record.cell), record.cell, 0.0)
    if not len(numbers) or record.positions.shape != (len(numbers), 3) or not np.isfinite(record.positions).all():
        raise ValueError("positions are missing or not finite")
    positions = wrapped(record.positions, cell, pbc)
    symbols = [chemical_symbols[n] for n in numbers]
    wandering = row["lindemann_violation"] and not (row["overlap"] or row["broken"])  # no pair is to blame
    limits = _limits(settings)
    thresholds = partial(limits.overlap_distance, start=record.verdict.overlap_threshold)
    pair = None if wandering else _pair(positions, cell, pbc, symbols, thresholds if row["overlap"] else None)
    local = record.verdict.lindemann
    mark = int(np.argmax(local)) if row["lindemann_violation"] and len(local) == len(numbers) else None
    limit = (settings.get("limits") or {}).get("lindemann_local")
    start = f"{row['condition']}. " if name_condition else ""
    return Frame(
        arm=row["arm"],
        seed=int(row["seed"]),
        structure=row["structure_id"],
        condition=row["condition"],
        formula=record.formula,
        outcome=row["outcome"],
        step=int(row["failure_step"]),
        shown=int(record.steps_done),
        text=start + _description(row, record, symbols, pair, mark, limit, thresholds),
        symbols=symbols,
        radii=[round(float(covalent_radii[n]), 2) for n in numbers],
        positions=_rounded(positions),
        cell=_rounded(cell),
        pair=pair,
        mark=mark,
        timestep=_positive(settings.get("timestep")),
    )


def _positive(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and 0 < value < np.inf else None


def _limits(settings: dict[str, Any]) -> Limits:
    """The limits that a simulation was watched with, as its file stores them."""
    stored = settings.get("limits") or {}
    return Limits(**{f.name: stored[f.name] for f in fields(Limits) if f.name in stored})


def _pair(
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
    symbols: list[str],
    thresholds: Callable[[str], float] | None,
) -> dict[str, Any] | None:
    """The closest pair with the vector to the partner's nearest image (which may be one of the atom's own).

    With ``thresholds`` (Å) of pairs of elements: the one that is closest for its elements, as with bonds to hydrogen
    other pairs overlap than the closest.
    """
    distance, first, _ = closest_pair(positions, cell, pbc)
    if first < 0:
        return None
    kinds = [f"{a}-{b}" for a, b in combinations_with_replacement(sorted(set(symbols)), 2)] if thresholds else []
    reach = max([distance, *(thresholds(kind) for kind in kinds)] if thresholds else [distance])
    (i, j), shifts = neighbour_list(positions, cell, pbc, 1.0001 * reach + 1e-6)
    vectors = positions[j] - positions[i] + shifts @ cell
    lengths = np.linalg.norm(vectors, axis=1)
    scale = np.ones(len(lengths))
    if thresholds:
        scale = np.array([thresholds(f"{symbols[a]}-{symbols[b]}") or 1.0 for a, b in zip(i, j, strict=True)])
    k = int(np.argmin(lengths / scale))
    return {
        "i": int(i[k]),
        "j": int(j[k]),
        "vector": np.round(vectors[k], 3).tolist(),
        "distance": round(float(lengths[k]), 6),
    }


def _description(
    row: dict[Any, Any],
    record: RunRecord,
    symbols: list[str],
    pair: dict[str, Any] | None,
    mark: int | None,
    limit: float | None,
    thresholds: Callable[[str], float],
) -> str:
    names = {"overlap": "Atoms overlap", "lindemann": "Lindemann limit passed", "broken": "NaN or explosion"}
    failure = int(row["failure_step"])
    words = f"{names.get(row['outcome'], 'Unphysical')} at step {failure}"
    if record.steps_done != failure:
        words += f" (shown: the {'last usable' if row['broken'] else 'last'} frame, step {record.steps_done})"
    words += ". "
    if mark is not None:
        allowed = f", limit {limit:g}" if limit else ""
        index = float(record.verdict.lindemann[mark])
        words += (
            f"Ringed in yellow: {symbols[mark]} {mark}, which wandered most (Lindemann index {index:.2f}{allowed}). "
        )
    if pair is not None:
        first, second = (f"{symbols[pair[k]]} {pair[k]}" for k in ("i", "j"))
        second = second if pair["i"] != pair["j"] else "its own image"
        threshold = thresholds(f"{symbols[pair['i']]}-{symbols[pair['j']]}")
        words += f"Red: {first} and {second}, {apart_words(pair['distance'], threshold)}."
    return words.strip()
