"""Section ``physpretrain`` of a MatDeepLearn configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.hosts.matdeeplearn.job_checks import sam_radius
from mdl_physpretrain.option_types import Count, NotNegative, Positive, Section, validated
from mdl_physpretrain.presets import PRESETS, over_preset
from mdl_physpretrain.recipe import Augment, Finetune, Preset, Pretrain, Teacher
from mdl_physpretrain.workflow.md_options import Simulation

__all__ = ["Examination", "Settings", "read_settings"]

SECTION = "physpretrain"
PRETRAIN, FINETUNE = Pretrain(), Finetune()


class Examination(Simulation):
    """MD of structures with the network, and whether it stays physical."""

    every: int = Field(default=0, ge=0, description="Also after every so many epochs; 0: at the end only.")
    select: bool = Field(
        default=False, description="End with the examined epoch that has the fewest unphysical trajectories."
    )
    seed: int = Field(default=0, ge=0, description="Of the choice of structures, velocities and noise.")
    potential: Literal["auto", "host"] = Field(
        default="auto", description="'auto': our network with the same weights where it is exact; else the host's own."
    )


class HostTeacher(Teacher):
    """The potential that labels; a checkpoint of an EAM may be one of ``EAM_Interaction``."""

    atom_types: list[Any] | None = Field(
        default=None, description="Of a checkpoint of EAM_Interaction, in the order of its configuration."
    )


class Settings(Section):
    """What the trainers ``physpretrain`` and ``sam`` do besides MatDeepLearn's own training."""

    preset: Preset = Field(
        default="algorithm1",
        description="Of teacher and labels; 'default': those of physpretrain run, 'paper': exactly the paper's.",
    )
    epochs: int = Field(default=PRETRAIN.epochs, ge=0, description="Of pretraining; 0: none.")
    lr: Positive | None = Field(default=None, description="Of pretraining; null: optim.lr.")
    batch_size: Count | None = Field(default=None, description="Of pretraining; null: optim.batch_size.")
    force_scale: Positive | None = Field(
        default=PRETRAIN.force_scale,
        description="Where labelled structures are learned, force errors count by 1 / (1 + |F|/scale), eV/Å.",
    )
    val_fraction: float = Field(
        default=PRETRAIN.val_fraction, ge=0, lt=1, description="Share of parents kept to validate pretraining."
    )
    teacher: HostTeacher = Field(
        default_factory=HostTeacher, description="How to fit it; or a checkpoint, whose name alone will do."
    )
    augment: Augment = Field(default_factory=Augment, description="Algorithm 1 and the label filter.")
    labelled: str | None = Field(default=None, description="Take these labelled structures instead of making some.")
    replay_fraction: float = Field(
        default=FINETUNE.replay_fraction,
        ge=0,
        lt=1,
        description="Share of labelled structures in an epoch of finetuning.",
    )
    sam: NotNegative = Field(default=0.0, description="Radius of sharpness-aware minimisation in finetuning; 0: none.")
    sam_adaptive: bool = Field(
        default=False, description="Weights move in proportion to their square, as with optim.rho of the authors."
    )
    md: Examination | None = Field(default=None, description="The physicality examination; null: none.")

    @property
    def augmentation(self) -> Augment:
        """Section ``augment`` with ``thermal: md`` resolved: the temperature of the examination, if there is one."""
        if self.augment.thermal != "md" or self.md is None:
            return self.augment
        return self.augment.model_copy(update={"thermal": self.md.temperature or None})


#: Teacher and labels of the default recipe, without its replay: the host's losses know no tolerance of a label.
_DEFAULT = {name: PRESETS["default"][name] for name in ("teacher", "augment")}
#: The paper's: section 2.2.2, Algorithm 1, section 4.1.
_PAPER = {
    "teacher": PRESETS["paper"]["teacher"],
    "augment": PRESETS["paper"]["augment"],
    "epochs": PRESETS["paper"]["pretrain"]["epochs"],
    "force_scale": PRESETS["paper"]["pretrain"]["force_scale"],
    "replay_fraction": PRESETS["paper"]["finetune"]["replay_fraction"],
}
_PRESETS = {"default": _DEFAULT, "paper": _PAPER}


def read_settings(config: Mapping[str, Any]) -> Settings:
    """The checked section of a configuration, with the radius of ``optim.rho``; ConfigError names every fault."""
    section = {} if config.get(SECTION) is None else config[SECTION]
    if not isinstance(section, Mapping):
        raise ConfigError(f"{SECTION}: expected keys and values, not {section!r}")
    if isinstance(section.get("teacher"), str):
        section = {**section, "teacher": {"checkpoint": section["teacher"]}}
    settings = validated(
        Settings, over_preset({"preset": Settings().preset, **section}, _PRESETS), prefix=f"{SECTION}."
    )
    if (rho := sam_radius(config)) is None:
        return settings
    if "sam" in section and settings.sam != rho:
        raise ConfigError(f"{SECTION}.sam ({settings.sam:g}) and optim.rho ({rho:g}): give one of them")
    return settings.model_copy(update={"sam": rho, "sam_adaptive": section.get("sam_adaptive", True)})
