"""The closed loop: rounds until the examination on training structures finds nothing, or their number is used up."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from ase import Atoms

from mdl_physpretrain.loop.rounds import LoopData, run_round, validation_total
from mdl_physpretrain.potentials.base import EnergyModel

__all__ = ["LoopResult", "close_loop", "round_table"]


class LoopResult(NamedTuple):
    """What :func:`close_loop` makes.

    Attributes
    ----------
    potential
        The network.
    labelled
        All structures that the loop labelled.
    rounds
        See :func:`round_table`.
    """

    potential: EnergyModel
    labelled: list[Atoms]
    rounds: pd.DataFrame


def close_loop(
    data: LoopData, potential: EnergyModel, *, directory: str | Path | None = None, progress: bool = False
) -> LoopResult:
    """Examine, label and train on, until nothing fails or ``data.options.rounds`` are done.

    Parameters
    ----------
    data
        See :class:`LoopData`.
    potential
        Finetuned.
    directory
        ``round-1``, ``round-2``, ... are made there; after an interruption
        the same call goes on.
    progress
        Show progress bars.

    Raises
    ------
    CheckpointError
        If ``directory`` holds the loop of another network, other data or options.
    """
    gathered: list[Atoms] = []
    facts: list[dict[str, Any]] = []
    start = validation_total(data, potential)
    folder = None if directory is None else Path(directory)
    for number in range(1, data.options.rounds + 2):
        done = run_round(
            data,
            potential,
            gathered,
            number=number,
            start_total=start,
            train=number <= data.options.rounds,
            directory=folder and folder / f"round-{number}",
            progress=progress,
        )
        potential, gathered = done.potential, [*gathered, *done.labelled]
        facts.append(done.facts | _seconds(folder, number))
        if done.facts["passed"]:
            break
    return LoopResult(potential, gathered, round_table(facts))


def round_table(facts: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """A row per network of the loop: the finetuned one (round 0), and that after each round.

    Parameters
    ----------
    facts
        Of :func:`mdl_physpretrain.loop.rounds.run_round`, in order; each examines the
        network that the round before left.

    Returns
    -------
    pandas.DataFrame
        Columns ``round``, ``n_trajectories``, ``n_lost``, ``first_loss_fs``,
        ``physical_at_<t>ps``, ``holes``, ``collapsed``, ``n_new``, ``n_removed``,
        ``val_total``, ``accepted``, ``seconds``.
    """
    rows = []
    for k, now in enumerate(facts):
        before: Mapping[str, Any] = facts[k - 1] if k else {}
        row: dict[str, Any] = {
            "round": k,
            **{
                c: now[c]
                for c in now
                if c in ("n_trajectories", "n_lost", "first_loss_fs") or c.startswith("physical_at")
            },
            "holes": "; ".join(now["holes"]),
            "collapsed": len(now["collapsed"]),
            "n_new": before.get("n_new", 0),
            "n_removed": before.get("n_removed", 0),
            "val_total": before.get("total_after", now["total_before"]),
            "accepted": before.get("accepted"),
            "seconds": round(now.get("examination", 0.0) + before.get("training", 0.0), 1),
        }
        rows.append(row)
    return pd.DataFrame(rows)


def _seconds(directory: Path | None, number: int) -> dict[str, float]:
    file = None if directory is None else directory / f"round-{number}" / "seconds.json"
    return json.loads(file.read_text(encoding="utf-8")) if file is not None and file.is_file() else {}
