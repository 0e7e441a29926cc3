"""What a run is: every option with its unit, default and range.

The models are strict (an unknown key is an error); how a YAML file becomes one
of them, and how its errors are worded, is in
:mod:`mdl_physpretrain.workflow.config_files`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.option_types import (
    Count,
    Duration,
    Positive,
    Section,
    Share,
    Sources,
    none_as_text,
)
from mdl_physpretrain.recipe import (
    PRESET_WORDS,
    Augment,
    Backbone,
    Finetune,
    Loop,
    Preset,
    Pretrain,
    Teacher,
    refuse_unanchored,
)
from mdl_physpretrain.structures.elements import checked_symbols
from mdl_physpretrain.structures.units import LabelUnits
from mdl_physpretrain.workflow.md_options import MD, Probe

__all__ = ["Arm", "RunConfig"]

Core = Literal["none", "zbl"]
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}$"  # becomes a folder
#: What programs that read CSV files take for a missing value.
NO_VALUE = {"na", "nan", "null", "none", "n.a.", "inf", "true", "false", "nat"}
RESERVED = {"md", "pretrain", "pretrain-zbl", "evaluate", "teacher", "tensorboard"}


class Data(Section):
    """Where the structures come from and how they are split."""

    source: Sources | None = Field(
        default=None, description="Files, patterns, 'demo' or 'load-atoms:<name>', split into train, val and test."
    )
    train: Sources | None = Field(default=None, description="Training structures, instead of source.")
    val: Sources | None = Field(
        default=None, description="Validation structures; without them a share of train is taken."
    )
    test: Sources | None = Field(default=None, description="Test structures; without them a share of train is taken.")
    fractions: tuple[Share, Share, Share] = Field(
        default=(0.8, 0.1, 0.1), description="Shares of train, val, test; sum 1."
    )
    usage: Share = Field(
        default=1.0, gt=0, le=1, description="Share of the training structures that is used, e.g. 10%."
    )
    seed: int = Field(default=0, ge=0, description="Of the split and of every random choice of structures.")
    stratify: str | None = Field(default="auto", description="info tag shared out evenly, 'auto' or null.")
    split_by: str = Field(
        default="structure",
        min_length=1,
        description="'structure'; or whole groups to one part: 'composition' or an info tag (mp_id, topology, ...).",
    )
    energy_key: str | None = Field(default=None, description="Name of the energy label, where it is unusual.")
    forces_key: str | None = Field(default=None, description="Name of the force label, where it is unusual.")
    stress_key: str | None = Field(default=None, description="Name of the stress label, where it is unusual.")
    units: dict[Literal["energy", "forces", "stress", "virial"], str] = Field(
        default={}, description="Units in the files, e.g. {energy: eV/atom, stress: GPa}; '-kbar' is VASP's stress."
    )
    nan_labels: Literal["keep", "missing"] = Field(
        default="keep", description="'missing': a label with NaN is none; 'keep': it is an error."
    )
    references: Literal["fit", "isolated"] | dict[str, float] = Field(
        default="fit",
        description="Energy per element (eV) of a new network: fit, isolated (atoms in the data), or {Li: -1.9, ...}.",
    )
    duplicates: Literal["error", "rename"] = Field(default="error", description="What to do with equal structure ids.")
    elements: list[str] | None = Field(
        default=None, description="Keep only structures made of these elements (of all parts)."
    )
    max_atoms: Count | None = Field(default=None, description="Leave larger structures out (of all parts).")
    max_structures: Count | None = Field(default=None, description="Random choice of at most so many before the split.")
    n_train: Count | None = Field(default=None, description="At most so many training structures (random choice).")
    n_val: Count | None = Field(default=None, description="At most so many validation structures.")
    n_test: Count | None = Field(default=None, description="At most so many test structures.")

    @field_validator("fractions")
    @classmethod
    def _sum(cls, value: tuple[float, float, float]) -> tuple[float, float, float]:
        if abs(sum(value) - 1) > 1e-6 or min(value) < 0:
            raise ValueError("train, val and test shares must not be negative and must add up to 1")
        return value

    @field_validator("elements")
    @classmethod
    def _symbols(cls, value: list[str] | None) -> list[str] | None:
        if value == []:
            raise ValueError("name at least one element, or leave it out for all of them")
        try:
            return None if value is None else checked_symbols(value)
        except ConfigError as error:
            raise ValueError(str(error)) from None

    @field_validator("units")
    @classmethod
    def _known_units(cls, value: dict[str, str]) -> dict[str, str]:
        try:
            LabelUnits.named(value)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return value

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        if (self.source is None) == (self.train is None):
            raise ValueError("give either 'source' (to be split) or 'train' (with 'val' and 'test' if there are any)")
        if self.source is not None and (self.val is not None or self.test is not None):
            raise ValueError("'val' and 'test' go with 'train', not with 'source'")
        return self


class Arm(Section):
    """One way of training that the run compares with the others."""

    pretrain: bool = Field(default=True, description="Start from the network pretrained on the teacher's labels.")
    core: Annotated[Literal["none", "zbl", "backbone"], BeforeValidator(none_as_text)] = Field(
        default="backbone", description="'none', 'zbl', or as 'backbone.core' says."
    )
    hybrid: Annotated[Literal["none", "joint", "frozen"], BeforeValidator(none_as_text)] = Field(
        default="none", description="Add the teacher, E_MLIP + E_EAM: trained with the network, or as it is."
    )
    optimizer: Literal["adamw", "sam"] | None = Field(default=None, description="Instead of finetune.optimizer.")
    replay: float | None = Field(default=None, ge=0, lt=1, description="Instead of finetune.replay_fraction.")
    epochs: Count | None = Field(default=None, description="Instead of finetune.epochs.")
    learning_rate: Positive | None = Field(default=None, description="Instead of finetune.learning_rate.")
    scheduler: Literal["plateau", "cosine"] | None = Field(default=None, description="Instead of finetune.scheduler.")
    loop: int | None = Field(default=None, ge=0, description="Instead of loop.rounds.")

    @model_validator(mode="after")
    def _hybrid_is_new(self) -> Arm:
        if self.hybrid != "none" and self.pretrain:
            raise ValueError("'hybrid' adds the teacher to a new network: set 'pretrain: false'")
        return self

    def changes(self) -> dict[str, Any]:
        """What the arm does otherwise than ``finetune`` says."""
        options = {k: getattr(self, k) for k in ("optimizer", "epochs", "learning_rate", "scheduler")}
        return {k: v for k, v in options.items() if v is not None}


class RunConfig(Section):
    """A whole run. Everything but ``data`` has a default."""

    name: str | None = Field(default=None, description="Title of the report.")
    output: str | None = Field(default=None, description="Run folder; default: runs/<name of the file>.")
    preset: Preset = Field(default="default", description=PRESET_WORDS)
    seeds: list[Annotated[int, Field(ge=0)]] = Field(
        default=[0, 1, 2, 3, 4], min_length=1, description="Of the networks."
    )
    budget: Duration | None = Field(
        default=None,
        description="Time of the run, e.g. 2h, that trajectories, seeds, rounds and epochs are fitted to; null: none.",
    )
    first_verdict: Duration | None = Field(
        default=None,
        description="Time until the first seed is judged, e.g. 10min; epochs are fitted to it if possible; null: none.",
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        description="Of labelling, errors and MD: auto, cpu, cuda, ...",
    )
    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"] = Field(
        default="auto", description="Of training (Lightning)."
    )
    devices: int | str = Field(default=1, description="Of training: number of GPUs, or 'auto'.")
    strategy: str = Field(default="auto", description="Of training on several devices: 'ddp', ...")
    data: Data
    teacher: Teacher = Field(default_factory=Teacher)
    augment: Augment = Field(default_factory=Augment)
    backbone: Backbone = Field(default_factory=Backbone)
    pretrain: Pretrain = Field(default_factory=Pretrain)
    finetune: Finetune = Field(default_factory=Finetune)
    loop: Loop = Field(default_factory=Loop)
    arms: dict[Annotated[str, Field(pattern=NAME)], Arm] = Field(
        default_factory=lambda: {"baseline": Arm(pretrain=False), "pretrained": Arm()},
        min_length=1,
        description="What is compared; the first is the reference.",
    )
    md: MD = Field(default_factory=MD)
    probe: Probe = Field(default_factory=Probe)

    @field_validator("seeds")
    @classmethod
    def _different(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("a seed occurs twice")
        return seeds

    @field_validator("arms")
    @classmethod
    def _free_names(cls, arms: dict[str, Arm]) -> dict[str, Arm]:
        for name in arms:
            if name in RESERVED:
                raise ValueError(f"an arm cannot be called {name!r}: that is a folder of the run")
            if name.lower() in NO_VALUE:
                raise ValueError(f"an arm cannot be called {name!r}: tables write that where there is no value")
        return arms

    @model_validator(mode="after")
    def _hybrids_need_an_eam(self) -> RunConfig:
        teacher = self.teacher
        if teacher.kind == "auto" and any(arm.hybrid != "none" for arm in self.arms.values()):
            teacher = self.teacher = teacher.model_copy(update={"kind": "eam"})
        if teacher.calculator is not None or teacher.kind != "eam":
            other = (
                "teacher.calculator is another potential" if teacher.calculator else f"teacher.kind is {teacher.kind!r}"
            )
            for name, arm in self.arms.items():
                if arm.hybrid != "none":
                    raise ValueError(f"arms.{name}.hybrid adds an EAM, but {other}")
        return self

    @model_validator(mode="after")
    def _two_teachers_need_anchors(self) -> RunConfig:
        refuse_unanchored(self.teacher, self.augment)
        return self

    @model_validator(mode="after")
    def _loops_need_replay(self) -> RunConfig:
        for name, arm in self.arms.items():
            if arm.loop and not self.replay_of(name):
                raise ValueError(f"arms.{name}.loop puts new labels into replay, and this arm has none: set 'replay'")
        return self

    @model_validator(mode="after")
    def _md_is_warm(self) -> RunConfig:
        if self.augment.thermal == "md" and not self.augmentation.thermal:
            raise ValueError("augment.thermal is 'md', but md.temperature is 0")
        return self

    @property
    def augmentation(self) -> Augment:
        """Section ``augment`` with ``thermal: md`` resolved: the highest temperature of the run's MD."""
        if self.augment.thermal != "md":
            return self.augment
        highest = max(condition.temperature for condition in self.md.conditions().values())
        return self.augment.model_copy(update={"thermal": highest})

    @property
    def uses_labels(self) -> bool:
        """Whether any arm learns from the teacher's labels."""
        return any(arm.pretrain or self.replay_of(name) > 0 for name, arm in self.arms.items())

    @property
    def uses_native_teacher(self) -> bool:
        """Whether a potential of this package is fitted or read: to teach an arm, or as a part of one."""
        hybrids = any(arm.hybrid != "none" for arm in self.arms.values())
        return self.teacher.calculator is None and (self.uses_labels or hybrids)

    def velocity_seed(self, seed: int) -> int:
        """Seed of velocities and noise: that of the network, but one for all where a reference potential is beside."""
        return seed if self.md.reference_potential is None else self.seeds[0]

    def core_of(self, arm: str) -> Core:
        """The core of an arm's network."""
        chosen = self.arms[arm].core
        return self.backbone.core if chosen == "backbone" else chosen

    def replay_of(self, arm: str) -> float:
        """Share of teacher-labelled structures in an arm's finetuning.

        ``finetune.replay_fraction`` is meant for pretrained arms; an arm
        without pretraining gets replay only when it asks for it itself.
        """
        chosen = self.arms[arm]
        if chosen.replay is not None:
            return chosen.replay
        return self.finetune.replay_fraction if chosen.pretrain else 0.0

    def rounds_of(self, arm: str) -> int:
        """Rounds of an arm's closed loop; arms without replay have none."""
        chosen = self.arms[arm].loop
        return (self.loop.rounds if chosen is None else chosen) if self.replay_of(arm) > 0 else 0
