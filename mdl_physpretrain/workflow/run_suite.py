"""Evaluation of a run's trained potentials: their data, simulations and options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
from ase import Atoms

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.checkpoint import load_model
from mdl_physpretrain.potentials.devices import resolve_device
from mdl_physpretrain.probes.base import Probe, Subject
from mdl_physpretrain.probes.references import read_references
from mdl_physpretrain.stability.limits import LIQUID, Limits
from mdl_physpretrain.structures import read_structures
from mdl_physpretrain.structures.randomness import derived_seed
from mdl_physpretrain.structures.validation import refuse_damaged
from mdl_physpretrain.workflow.data import random_subset, read_part
from mdl_physpretrain.workflow.layout import TEACHER, best_file
from mdl_physpretrain.workflow.md_options import MD
from mdl_physpretrain.workflow.reference import load_reference
from mdl_physpretrain.workflow.suite import Cell, Suite

if TYPE_CHECKING:
    from mdl_physpretrain.workflow.config import RunConfig

__all__ = ["RunSuite"]

CONDITIONS = ("ensemble", "temperature", "timestep", "steps", "barostat")


class RunSuite(Suite):
    """See :class:`Suite`; ``config`` is a :class:`RunConfig`."""

    config: RunConfig
    front = ("seed", "arm")
    flags_failures = True

    @property
    def options(self) -> Mapping[str, Any]:
        return dict(self.config.md) | dict(self.config.probe)

    def includes(self, probe: Probe) -> bool:
        if probe.applies_to == "frames":
            return self.config.md.trajectory_interval is not None
        if probe.applies_to == "simulation":
            return any(probe.is_applicable(frozenset({c.ensemble})) for c in self.config.md.conditions().values())
        return probe.is_applicable(frozenset({"labels"} | ({"teacher"} if self.config.uses_native_teacher else set())))

    def cells(self, probe: Probe) -> list[Cell]:
        labels = [""]
        if probe.applies_to == "simulation":
            conditions = self.config.md.conditions()
            labels = [label for label, md in conditions.items() if probe.is_applicable(frozenset({md.ensemble}))]
        return [(arm, seed, label) for seed in self.config.seeds for arm in self.config.arms for label in labels]

    def subject(self, arm: str, seed: int) -> Subject:
        model = self.potential(arm, seed)
        splits = {name: read_part(self.folder, name) for name in ("test", "val", "train")}
        teacher = load_model(self.folder / TEACHER).to(model.device) if self.config.uses_native_teacher else None
        return Subject(
            model,
            f"{arm}, seed {seed}",
            splits,
            elements=sorted({s for a in splits["train"] for s in a.symbols}),
            choose=lambda structures, n: random_subset(structures, n, self.config.data.seed),
            teacher=teacher,
            flag_failures=True,
            decimals=6,
        )

    def potential(self, arm: str, seed: int) -> EnergyModel:
        return load_model(self.folder / best_file(self.config, seed, arm)).to(resolve_device(self.config.device))

    def starts(self, label: str = "") -> list[Atoms]:
        """The same for all seeds and arms."""
        md = self.config.md
        structures: list[Atoms] = []
        files: dict[str, str] = {}
        for source in md.source:
            is_part = source in ("train", "val", "test")
            structures += read_part(self.folder, source) if is_part else read_structures(source, files=files)
        if md.max_atoms is not None:
            structures = [a for a in structures if len(a) <= md.max_atoms]
        if not structures:
            raise ConfigError(
                f"md.source: there are no structures in {', '.join(md.source)}"
                + (f" with at most {md.max_atoms} atoms" if md.max_atoms else "")
            )
        chosen = random_subset(structures, md.conditions()[label].n_structures, self.config.data.seed)
        refuse_damaged(chosen, labels=False, files=files)
        return chosen

    def simulation(self, arm: str, seed: int, label: str) -> dict[str, Any]:
        md: MD = self.config.md.conditions()[label]
        noise = derived_seed(self.config.velocity_seed(seed), "md")
        return {"seed": noise, **md.simulation(self.frames_folder(arm, seed, label))}

    def reference_seed(self, seed: int) -> int | None:
        return None if self.config.md.reference_potential is None else self.config.velocity_seed(seed)

    def reference_potential(self) -> Any:
        return load_reference(self.config.md, self.config.device)

    def reference_starts(self, label: str = "") -> list[Atoms]:
        return self.starts(label)[: self.config.md.reference_structures]

    def test_structures(self) -> list[Atoms]:
        return read_part(self.folder, "test")

    def conditions(self, label: str) -> dict[str, Any]:
        md = self.config.md.conditions()[label]
        liquid = {"lindemann_variant": LIQUID} if md.lindemann_variant == LIQUID else {}
        return {name: getattr(md, name) for name in CONDITIONS} | liquid

    def limits(self, label: str) -> Limits:
        return Limits(variant=self.config.md.conditions()[label].lindemann_variant)

    @property
    def has_references(self) -> bool:
        return self.config.md.reference is not None

    def references(self) -> dict[str, list[Atoms]]:
        return read_references(self.config.md.reference, self.starts()) if self.config.md.reference is not None else {}

    def with_names(self, table: pd.DataFrame, probe: Probe, cell: Cell) -> pd.DataFrame:
        """Tables of simulations get the columns when they are joined."""
        return super().with_names(table, probe, cell) if probe.applies_to == "potential" else table
