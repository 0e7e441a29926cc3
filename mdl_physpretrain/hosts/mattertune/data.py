"""Data ``eam_labelled``: any MatterTune dataset, augmented and labelled by a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from ase import Atoms
from mattertune.data.base import DatasetConfig, DatasetConfigBase
from mattertune.registry import data_registry
from nshconfig import Field
from pydantic import model_validator
from torch.utils.data import Dataset

from mdl_physpretrain.hosts.mattertune.labelling import clean, labelled_structures, part_of, with_stress
from mdl_physpretrain.presets import PRESETS, over_preset
from mdl_physpretrain.recipe import Augment, Preset, Pretrain, Teacher
from mdl_physpretrain.structures import reference_energies
from mdl_physpretrain.training.references import is_another_energy_scale

__all__ = ["EAMLabelledDatasetConfig", "StructuresDataset"]


class StructuresDataset(Dataset[Atoms]):
    """A list of structures as a dataset, with reference energies of the uncompressed parents."""

    def __init__(self, structures: list[Atoms], reference_energies: dict[str, float] | None = None) -> None:
        self.structures, self.reference_energies = structures, reference_energies

    def __len__(self) -> int:
        return len(self.structures)

    def __getitem__(self, index: int) -> Atoms:
        return self.structures[index]


@data_registry.rebuild_on_registers
@data_registry.register
class EAMLabelledDatasetConfig(DatasetConfigBase):
    """Structures of another dataset, pushed together and labelled by a physical teacher."""

    type: Literal["eam_labelled"] = "eam_labelled"

    dataset: DatasetConfig
    """The dataset that is augmented: any registered type, with energy and forces."""

    preset: Preset = "algorithm1"
    """Of teacher and labels: ``default`` for those of ``physpretrain run``, ``paper`` for the paper's."""

    teacher: Teacher = Teacher()
    """An EAM fitted to ``dataset`` (the default), ``checkpoint`` of one, or ``calculator: module:factory``."""

    augment: Augment = Augment()
    """Algorithm 1 and the label filter, with the options of ``physpretrain run``."""

    part: Literal["all", "train", "validation"] = "all"
    """All labelled structures, or one side of a split by parent structure."""

    validation_share: Annotated[float, Field(gt=0, lt=1)] = Pretrain().val_fraction
    """Share of the parents whose structures are for validation, where ``part`` is not ``all``."""

    include_dataset: bool = False
    """Add the structures of ``dataset`` with their own labels (they go with their children)."""

    missing_stress: Literal["error", "drop", "allow"] = "error"
    """What to do with structures without a stress label."""

    seed: Annotated[int, Field(ge=0)] = 0
    """Of the split and of the order (the host does not shuffle)."""

    device: str = "auto"
    """Of a teacher that is a model."""

    cache: str = ".physpretrain-cache"
    """Folder in which labels are kept; they are made again when anything they depend on changes."""

    @model_validator(mode="before")
    @classmethod
    def _over_preset(cls, content: Any) -> Any:
        if not isinstance(content, Mapping) or content.get("preset") not in PRESETS:
            return content
        preset = {name: PRESETS[content["preset"]].get(name, {}) for name in ("teacher", "augment")}
        return over_preset(content, {content["preset"]: preset})

    def prepare_data(self) -> None:
        self.dataset.prepare_data()
        self._labelled()

    def create_dataset(self) -> StructuresDataset:
        structures = self._labelled()
        if self.include_dataset:
            structures = structures + clean(self._parents())
        chosen = with_stress(part_of(structures, self.part, self.validation_share, self.seed), self.missing_stress)
        order = np.random.default_rng([self.seed, 0x5FFE]).permutation(len(chosen))
        other_scale = is_another_energy_scale(self.teacher, anchor=self.augment.anchor)
        references = None if other_scale else reference_energies(clean(self._parents()))
        return StructuresDataset([chosen[k] for k in order], references)

    def _labelled(self) -> list[Atoms]:
        parents = self._parents()
        if (
            self.augment.anchor and self.missing_stress == "error"
        ):  # their children would have none: said before the fit
            with_stress(parents, self.missing_stress)
        return labelled_structures(parents, self.teacher, self.augment, device=self.device, cache=self.cache)

    def _parents(self) -> list[Atoms]:
        inner = self.dataset.create_dataset()
        return [inner[k] for k in range(len(inner))]  # type: ignore[arg-type]
