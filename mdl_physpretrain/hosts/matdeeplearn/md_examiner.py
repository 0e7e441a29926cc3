"""MD inside MatDeepLearn's loop with the network as it is now, and the weights of the most physical epoch."""

from __future__ import annotations

import copy
import logging
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from ase import Atoms

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.hosts.matdeeplearn.data import label_index, structures_of
from mdl_physpretrain.hosts.matdeeplearn.potential import potential_of
from mdl_physpretrain.hosts.training_md import start_structures, trajectory_table
from mdl_physpretrain.probes.physicality import trajectory_counts

__all__ = ["MDExaminer"]

log = logging.getLogger(__name__)

TABLE, EPOCHS = "physicality.csv", "physicality_epochs.csv"


class MDExaminer:
    """Examines a trainer's networks by MD; raises ConfigError without structures, or if two share an identifier.

    ``train_results/physicality.csv`` has one row per trajectory of the latest examination, ``physicality_epochs.csv``
    one per examination.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer, self.options = trainer, trainer.settings.md
        if self.options.select and not self.options.every:
            raise ConfigError("physpretrain.md.select chooses among examined epochs: set physpretrain.md.every")
        self.structures = self._structures()
        self.rows: list[dict[str, Any]] = []
        self.best: tuple[tuple[int, float], int, list[Any]] | None = None

    @property
    def folder(self) -> Path:
        """Where MatDeepLearn writes its own tables."""
        return self.trainer.results / "train_results"

    def _structures(self) -> list[Atoms]:
        index, dataset = label_index(self.trainer.config["dataset"]), self.trainer.dataset or {}
        parts = {name: partial(structures_of, dataset.get(name, []), index) for name in ("train", "val", "test")}
        structures = start_structures(self.options, parts, "physpretrain.md", self.options.seed)
        names = [a.info["structure_id"] for a in structures]
        twice = next((n for n in names if names.count(n) > 1), None)
        if twice is not None:
            raise ConfigError(f"physpretrain.md: two structures to simulate have the structure_id {twice!r}")
        return structures

    def examine(self, epoch: int | None, metric: float) -> dict[str, Any]:
        """Simulate, assess, write and log; ``epoch`` is ``None`` at the end of the job."""
        options = self.options
        potential, kind = potential_of(self.trainer, self.structures, options.potential)
        trajectories = self.folder / "trajectories" / ("end" if epoch is None else f"epoch_{epoch:04d}")
        table = trajectory_table(potential, self.structures, options, trajectories, options.seed)
        counts = trajectory_counts(table)
        counts["nan_or_exploded"] = counts.pop("broken")
        row = {
            "epoch": "end" if epoch is None else epoch,
            **counts,
            "min_distance_median": float(table["min_distance"].median()),
            "val_metric": metric,
            "potential": kind,
        }
        self.rows.append(row)
        self.folder.mkdir(parents=True, exist_ok=True)
        table.to_csv(self.folder / TABLE, index=False)
        pd.DataFrame(self.rows).to_csv(self.folder / EPOCHS, index=False)
        moment = "at the end" if epoch is None else f"after epoch {epoch}"
        log.info(
            f"Physicality {moment}: {row['unphysical']} of {row['trajectories']} trajectories unphysical "
            f"(overlap {row['overlap']}, Lindemann {row['lindemann']}, NaN or explosion {row['nan_or_exploded']}; "
            f"{options.ensemble.upper()} {options.temperature:g} K, {options.steps} steps; potential: {kind})"
        )
        return row

    def keep_weights_if_better(self) -> None:
        """Keep the weights when fewer trajectories are unphysical, or as few and the error is lower."""
        row = self.rows[-1]
        score = (row["unphysical"], row["val_metric"])
        if self.best is None or score < self.best[0]:
            states = [copy.deepcopy(getattr(m, "module", m).state_dict()) for m in self.trainer.model]
            self.best = (score, row["epoch"], states)

    def restore_best_weights(self) -> None:
        """Make the kept weights the ones MatDeepLearn ends with."""
        if self.best is not None:
            (unphysical, _), epoch, states = self.best
            log.info(f"Selected epoch {epoch} by physicality: {unphysical} unphysical trajectories")
            self.trainer.best_model_state = states
