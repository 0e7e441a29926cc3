"""The physicality examination inside MatDeepLearn's loop: MD with the network as it is now."""

from __future__ import annotations

import copy
import csv
import logging
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms

from mdl_physpretrain.dynamics import simulate
from mdl_physpretrain.dynamics.assessment import assess
from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.hosts.matdeeplearn.data import label_index, structures_of
from mdl_physpretrain.hosts.matdeeplearn.potential import potential_of
from mdl_physpretrain.structures import read_structures

__all__ = ["Examiner"]

log = logging.getLogger(__name__)

TABLE, EPOCHS = "physicality.csv", "physicality_epochs.csv"


class Examiner:
    """Examines a trainer's networks and remembers what it saw.

    ``train_results/physicality.csv`` has one row per trajectory of the last
    look, ``physicality_epochs.csv`` one per look.

    Parameters
    ----------
    trainer
        With ``settings.md``.

    Raises
    ------
    ConfigError
        If there are no structures to simulate, or two share an identifier.
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
        options, index = self.options, label_index(self.trainer.config["dataset"])
        found: list[Atoms] = []
        for source in options.source:
            if source in ("train", "val", "test"):
                part = (self.trainer.dataset or {}).get(source)
                if part is None or not len(part):
                    raise ConfigError(
                        f"physpretrain.md.source: the dataset has no {source!r} part; "
                        f"it has {', '.join(k for k, v in (self.trainer.dataset or {}).items() if len(v))}"
                    )
                found += structures_of(part, index)
            else:
                found += read_structures(source)
        if options.max_atoms is not None:
            found = [a for a in found if len(a) <= options.max_atoms]
        if not found:
            raise ConfigError("physpretrain.md: no structure to simulate (see source and max_atoms)")
        if options.n_structures is not None and len(found) > options.n_structures:
            chosen = np.random.default_rng(options.seed).permutation(len(found))[: options.n_structures]
            found = [found[k] for k in sorted(chosen)]
        names = [a.info["structure_id"] for a in found]
        twice = next((n for n in names if names.count(n) > 1), None)
        if twice is not None:
            raise ConfigError(f"physpretrain.md: two structures to simulate have the structure_id {twice!r}")
        return found

    def look(self, epoch: int | None, metric: float) -> dict[str, Any]:
        """Simulate, judge, write and log; ``epoch`` is ``None`` at the end of the job."""
        options = self.options
        potential, kind = potential_of(self.trainer, self.structures, options.potential)
        name = "end" if epoch is None else f"epoch_{epoch:04d}"
        chosen = options.simulation(self.folder / "trajectories" / name)
        table = assess(simulate(potential, self.structures, seed=options.seed, **chosen), limits=chosen["limits"])
        row = {
            "epoch": "end" if epoch is None else epoch,
            "trajectories": len(table),
            "unphysical": int((~table["physical"]).sum()),
            "overlap": int(table["overlap"].sum()),
            "lindemann": int(table["lindemann_violation"].sum()),
            "nan_or_exploded": int((table["nan"] | table["exploded"]).sum()),
            "min_distance_median": float(table["min_distance"].median()),
            "val_metric": metric,
            "potential": kind,
        }
        self.rows.append(row)
        self.folder.mkdir(parents=True, exist_ok=True)
        table.to_csv(self.folder / TABLE, index=False)
        with (self.folder / EPOCHS).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            writer.writeheader()
            writer.writerows(self.rows)
        when = "at the end" if epoch is None else f"after epoch {epoch}"
        log.info(
            f"Physicality {when}: {row['unphysical']} of {row['trajectories']} trajectories unphysical "
            f"(overlap {row['overlap']}, Lindemann {row['lindemann']}, NaN or explosion {row['nan_or_exploded']}; "
            f"{options.ensemble.upper()} {options.temperature:g} K, {options.steps} steps; potential: {kind})"
        )
        return row

    def keep_if_better(self) -> None:
        """Remember the weights when fewer trajectories are unphysical, or as few and the error is lower."""
        row = self.rows[-1]
        score = (row["unphysical"], row["val_metric"])
        if self.best is None or score < self.best[0]:
            states = [copy.deepcopy(bare(m).state_dict()) for m in self.trainer.model]
            self.best = (score, row["epoch"], states)

    def choose(self) -> None:
        """Make the remembered weights the ones MatDeepLearn ends with."""
        if self.best is not None:
            (unphysical, _), epoch, states = self.best
            log.info(f"Selected epoch {epoch} by physicality: {unphysical} unphysical trajectories")
            self.trainer.best_model_state = states


def bare(model: Any) -> Any:
    """A model without the wrapper of distributed training."""
    return getattr(model, "module", model)
