"""The recipe: every option of the method with its unit, default and range.

Python functions, command line, YAML files and both plugins take their defaults from here and nowhere else.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.option_types import (
    CoreName,
    Count,
    LindemannVariant,
    NotNegative,
    Positive,
    Section,
    Sources,
    Weights,
)

__all__ = [
    "AUGMENT",
    "FINETUNE",
    "LOOP",
    "MD",
    "TEACHER",
    "TRAINING",
    "Augment",
    "Augmentation",
    "Backbone",
    "EAMFit",
    "Finetune",
    "Loop",
    "MolecularDynamics",
    "Perturbation",
    "Pretrain",
    "Recipe",
    "Teacher",
    "Training",
    "refuse_unanchored",
]


Preset = Literal["default", "algorithm1", "paper"]
PRESET_WORDS = "'algorithm1': its structures and an EAM, cheaper; 'paper': the paper's settings (docs/recipe.md)."


class EAMFit(Section):
    """How an EAM is fitted."""

    preset: Literal["default", "paper"] = Field(default="default", description="Of the EAM fit.")
    cutoff: float = Field(default=8.0, gt=0, le=20, description="Of the EAM, Å.")
    n_basis: int = Field(default=10, ge=1, le=1000, description="Exponentials in the EAM's density.")
    pairs: Literal["auto", "pairwise", "factorised", "corrected"] = Field(
        default="auto",
        description="Parameters of a pair: its own; mixed of its elements'; mixed and corrected where the data show "
        "it often; auto: mixed above 8 elements, corrected where a pair is never shown, else its own.",
    )
    epochs: Count | None = Field(default=None, description="Of the fit; null: the preset's.")
    batch_size: Count | None = Field(default=None, description="Structures per step of the fit; null: the preset's.")
    learning_rate: Positive | None = Field(default=None, description="Of the fit; null: the preset's.")
    weights: Weights = Field(default=(0.01, 50.0, 50.0), description="Of energy (eV), forces (eV/Å), stress (eV/Å³).")
    seed: int = Field(default=0, ge=0, description="Of the fit.")


class Teacher(EAMFit):
    """The potential that labels the augmented structures: one that is fitted, one that exists, or an ASE calculator."""

    kind: str = Field(default="eam", description="Of potential that is fitted; the options above are the EAM's.")
    args: dict[str, Any] = Field(default_factory=dict, description="Options of the fit of another kind.")
    checkpoint: str | None = Field(default=None, description="Use this teacher (.pt) of the kind instead of a fit.")
    calculator: str | None = Field(
        default=None, pattern=r"^[\w.]+:\w+$", description="'module:factory' of an ASE calculator that teaches instead."
    )
    calculator_args: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments of the factory.")
    core: CoreName = Field(default="none", description="'zbl': added to a calculator below the closest distances.")
    with_fitted: bool = Field(
        default=False,
        description="Fit a potential beside the calculator; of each composition the one that knows changes of force "
        "better labels.",
    )
    force: bool = Field(default=False, description="Let a teacher label that failed its examination.")

    @model_validator(mode="after")
    def _one_kind(self) -> Teacher:
        if self.checkpoint is not None and self.calculator is not None:
            raise ValueError("give 'checkpoint' or 'calculator', not both")
        if self.with_fitted and self.calculator is None:
            raise ValueError("'with_fitted' fits a potential beside a calculator: give 'calculator'")
        return self


class Perturbation(Section):
    """Algorithm 1 and Table A.1's ladder."""

    n_aug: int = Field(default=5, ge=0, le=100_000, description="Rounds per structure; 0: no such structures.")
    n_pairs: int = Field(default=4, ge=0, description="Close pairs pulled together.")
    pull: NotNegative = Field(default=1.0, description="Largest pull, Å.")
    n_sites: int = Field(default=5, ge=0, description="Atoms displaced.")
    perturb: NotNegative = Field(default=1.0, description="Largest displacement, Å.")
    convention: Literal["paper", "authors"] = Field(
        default="paper", description="Each atom of a pair moves by s, or by s/2."
    )
    ladder: Literal["down", "up"] = Field(default="down", description="Strengths max..>0 (Table A.1) or 0..max.")
    min_distance_factor: NotNegative | None = Field(
        default=0.6, description="Stop pulls at this multiple of the sum of covalent radii; null: do not (the paper)."
    )
    pairs: Literal["closest", "every-kind"] = Field(
        default="every-kind", description="Pull the closest pairs (the paper), or some of every pair of elements."
    )
    seed: int = Field(default=0, ge=0, description="Of the perturbations.")


class Augmentation(Perturbation):
    """Structures made of the data: those of Algorithm 1, and on request covered distances and thermal disorder."""

    coverage: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="Structures for each 0.1 Å of every pair of elements, from its core to the data; fewer above 8 "
        "elements.",
    )
    thermal: Positive | Literal["md"] | None = Field(
        default=None,
        description="Displace all atoms as at this temperature, K, by the teacher's springs; md: that of the MD; "
        "null: do not.",
    )
    thermal_amplitude: Positive | None = Field(
        default=None, description="Instead: largest standard deviation of a coordinate, Å."
    )
    thermal_method: Literal["springs", "md"] = Field(
        default="springs",
        description="Of 'thermal': every atom by itself, as its spring allows; or frames of short MD.",
    )
    thermal_driver: Literal["auto", "teacher", "fitted"] = Field(
        default="auto",
        description="Whose MD the method 'md' runs: the teacher's; that of a potential fitted to the data, which is "
        "cheap; auto: fitted where an ASE calculator teaches.",
    )
    thermal_factor: Positive = Field(
        default=1.5,
        description="Multiplies the displacements that the springs say, or the temperature of half of the MD: "
        "a network goes beyond it.",
    )
    thermal_rounds: int = Field(
        default=5, ge=1, le=100_000, description="Thermally disordered structures per structure."
    )
    thermal_time: Positive = Field(default=600.0, description="Length of this MD, fs.")
    thermal_structures: Count | None = Field(
        default=None, description="At most so many structures move in this MD (random choice)."
    )
    compression: float = Field(default=0.06, ge=0, lt=0.5, description="Of their cells, at most, either way.")
    shear: float = Field(default=0.03, ge=0, lt=0.5, description="Of their cells, at most.")

    @model_validator(mode="after")
    def _one_amplitude(self) -> Augmentation:
        if self.thermal is not None and self.thermal_amplitude is not None:
            raise ValueError("give 'thermal' or 'thermal_amplitude', not both")
        return self


class Augment(Augmentation):
    """Structures made of the data, labelled and filtered."""

    anchor: bool = Field(default=True, description="Correct the teacher's labels to first order with the parents' own.")
    anchor_reach: Positive | None = Field(
        default=None, description="The correction fades over this displacement of an atom, Å; null: it does not."
    )
    change_error: Positive | Literal["auto"] | None = Field(
        default=None,
        description="Relative error of the teacher's changes of force, noted with the labels; auto: measured on the "
        "data, of two teachers for each composition; null: none.",
    )
    batch_size: Count = Field(default=64, description="Structures labelled at once.")
    max_force: Positive | None = Field(default=100.0, description="Filter: largest force on an atom, eV/Å.")
    max_energy_per_atom: Positive | None = Field(
        default=None, description="Filter: largest energy above the parent, eV/atom."
    )
    max_stress: Positive | None = Field(default=None, description="Filter: largest stress component, eV/Å³.")
    min_distance: Positive | None = Field(default=None, description="Filter: smallest distance, Å.")
    filter_distance_factor: Positive | None = Field(
        default=None, description="Filter: smallest distance in sums of covalent radii."
    )


class Backbone(Section):
    """The network that is trained."""

    name: str = Field(default="cgcnn", description="Registered model.")
    args: dict[str, Any] = Field(default_factory=dict, description="Constructor arguments, e.g. cutoff (Å).")
    core: CoreName = Field(
        default="none", description="'zbl' adds a fixed ZBL repulsion, unless an arm says otherwise."
    )


class Training(Section):
    """Options of one training, see :func:`mdl_physpretrain.training.train`."""

    epochs: Count = Field(default=100, description="Passes over the data.")
    batch_size: Count = Field(default=8, description="Structures per step.")
    learning_rate: Positive = Field(default=1e-3, description="Of AdamW.")
    weight_decay: NotNegative = Field(default=1e-2, description="Of AdamW.")
    optimizer: Literal["adamw", "sam"] = Field(
        default="adamw", description="'sam': AdamW with the gradients of sharpness-aware minimisation."
    )
    rho: Positive = Field(default=0.05, description="Length of SAM's ascent, in the space of the weights.")
    sam_adaptive: bool = Field(
        default=False, description="In SAM's ascent weights move in proportion to their square; rho is then relative."
    )
    weights: Weights = Field(default=(0.01, 50.0, 50.0), description="Of energy (eV), forces (eV/Å), stress (eV/Å³).")
    loss: Literal["mae", "huber"] = Field(default="mae", description="Kind of error.")
    force_scale: Positive | Literal["auto"] | None = Field(
        default=None,
        description="Divide force errors by 1 + |F|/scale, eV/Å; null: do not; auto: by the forces of the data.",
    )
    clip_grad: Positive | None = Field(default=10.0, description="Largest norm of the gradient.")
    scheduler: Literal["plateau", "cosine"] = Field(
        default="plateau",
        description="Of the learning rate: ReduceLROnPlateau on the validation total, or half a cosine over epochs.",
    )
    scheduler_factor: float = Field(default=0.8, gt=0, lt=1, description="Of ReduceLROnPlateau.")
    scheduler_patience: int = Field(default=10, ge=0, description="Of ReduceLROnPlateau, epochs.")
    min_learning_rate: NotNegative = Field(default=1e-5, description="Where the learning rate ends.")
    early_stopping: Count | None = Field(default=None, description="Stop after so many epochs without improvement.")
    ema: float | None = Field(default=0.99, gt=0, lt=1, description="Decay of an average of the weights; null: none.")
    checkpoint_every: Count = Field(default=1, description="Epochs between two last.ckpt.")


class Pretrain(Training):
    """Training on the teacher's labels."""

    epochs: Count = Field(default=50, description="Passes over the data.")
    force_scale: Positive | Literal["auto"] | None = Field(
        default=5.0, description="Divide force errors by 1 + |F|/scale, eV/Å; null: do not (the paper)."
    )
    val_fraction: float = Field(
        default=0.1, ge=0, lt=1, description="Share of parents whose labelled structures are kept for validation."
    )


class Finetune(Training):
    """Training on the reference labels, with or without pretraining before it."""

    epochs: Count = Field(default=200, description="Passes over the data.")
    replay_fraction: float = Field(
        default=0.1, ge=0, lt=1, description="Share of teacher-labelled structures in an epoch of pretrained arms."
    )
    replay_tolerance: NotNegative = Field(
        default=1.0,
        description="Replayed errors below this many times the teacher's own (augment.change_error) do not count.",
    )
    replay_scope: Literal["all", "beyond_data", "auto"] = Field(
        default="all",
        description="Replayed labels that count: all; beyond_data: forces and stress above 99 % of the data's; auto: "
        "these, unless the teacher knows changes of force about as well as the network then does, or better.",
    )
    replay_trial: int = Field(
        default=0,
        ge=0,
        description="With replay_scope auto: labels beyond the data may be wrong by up to three times as much if the "
        "network so trained loses none of this many training structures in MD at 1.2 times the run's temperature.",
    )
    replay_final_weight: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Of replayed errors in the last tenth of the epochs; after a fifth it begins to fall from 1.",
    )
    shift_energies: bool = Field(
        default=True,
        description="Fit a pretrained network's reference energies to the reference labels before finetuning.",
    )
    refit_energies: bool = Field(
        default=False,
        description="Fit a network's reference energies anew after finetuning, if that lowers the validation error.",
    )


class MolecularDynamics(Section):
    """One molecular dynamics of finished potentials."""

    ensemble: Literal["nvt", "npt", "nve"] = Field(
        default="nvt", description="nvt: Langevin; npt: see barostat; nve: velocity Verlet."
    )
    temperature: NotNegative = Field(default=300.0, description="K.")
    timestep: Positive = Field(default=1.0, description="fs.")
    steps: int = Field(
        default=5000, ge=0, le=10**10, description="Number of steps; fewer, or less than 5 ps, show little."
    )
    n_structures: Count | None = Field(default=100, description="At most so many starting structures (random choice).")
    source: Sources = Field(default=["test"], description="'test', 'val', 'train', or files of starting structures.")
    max_atoms: Count | None = Field(default=None, description="Leave larger structures out.")
    friction: NotNegative = Field(default=0.01, description="Langevin, 1/fs.")
    pressure: float = Field(default=0.0, allow_inf_nan=False, description="eV/Å³ (1 GPa = 0.00624).")
    barostat: Literal["berendsen", "cell_rescaling"] = Field(
        default="berendsen",
        description="'berendsen' damps fluctuations; 'cell_rescaling' (with Langevin) samples the NPT ensemble.",
    )
    taut: Positive = Field(default=500.0, description="Berendsen thermostat, fs.")
    taup: Positive = Field(default=1000.0, description="Barostat, fs.")
    compressibility: Positive | None = Field(default=None, description="Å³/eV; null: that of water.")
    npt_evaluations: Literal[1, 2] = Field(
        default=2, description="Per NPT step; 1: kicks with the forces of before the cell's scaling."
    )
    engine: Literal["auto", "ase", "batched"] = Field(default="auto", description="Who integrates.")
    stop_on: list[Literal["overlap", "nan", "explosion"]] = Field(
        default=["overlap", "nan", "explosion"], description="Events that end a trajectory."
    )
    lindemann_variant: LindemannVariant = Field(
        default="literature",
        description="'liquid': melting is no failure; 'paper': the paper's verdict; 'printed': that with its index as "
        "printed.",
    )
    interval: Count = Field(default=1, description="Steps between two looks at overlap and Lindemann.")
    trace_interval: Count = Field(default=10, description="Steps between two points of the traces.")
    trajectory_interval: Count | None = Field(
        default=None, description="Steps between frames on disk; null: no trajectories."
    )
    skin: float = Field(default=1.0, ge=0, le=20, description="Of the Verlet lists, Å.")
    compiled: bool | None = Field(
        default=None, description="Networks by PyTorch's compiler, with fewer launches; null: on a GPU, for 1000 steps."
    )


class Loop(Section):
    """Closed loop: the network is examined on training structures, the teacher labels what fails, training goes on."""

    rounds: int = Field(default=0, ge=0, description="At most so many rounds after finetuning; 0: no loop.")
    n_structures: Count = Field(default=24, description="Training structures simulated per round (random choice).")
    steps: Count = Field(default=2000, description="MD steps per round.")
    ensemble: Literal["nvt", "npt", "nve"] | None = Field(default=None, description="null: md.ensemble.")
    temperature: NotNegative | None = Field(default=None, description="K; null: md.temperature.")
    timestep: Positive | None = Field(default=None, description="fs; null: md.timestep.")
    frames_lost: int = Field(
        default=6, ge=0, description="Frames of a lost trajectory, from half way to the loss up to it, ever denser."
    )
    frames_physical: int = Field(default=2, ge=0, description="Frames of a trajectory that is not lost, evenly spread.")
    curves: bool = Field(default=True, description="Look for holes of pair curves and of compressed cells, too.")
    per_bin: Count = Field(default=5, description="Structures for each 0.1 Å of a pair in a hole.")
    min_distance_factor: NotNegative = Field(
        default=0.5, description="Drop structures with a distance below this, in sums of covalent radii."
    )
    epochs: Count = Field(default=20, description="Of training per round.")
    learning_rate: Positive | None = Field(default=None, description="null: half of that of finetuning.")
    replay: float | None = Field(default=None, gt=0, lt=1, description="Share of replay; null: as in finetuning.")
    share: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="Share of the loop's structures among the replayed ones, half of it for frames of MD.",
    )
    tolerance: NotNegative = Field(
        default=0.05, description="A round is refused if the validation total rises above the finetuned one by more."
    )
    seed: int = Field(default=0, ge=0, description="Of the choice of structures, with the network's.")


class Check(Section):
    """What probes ask of finished potentials beside MD, and ``physpretrain check`` of those that are given."""

    compressed: Count = Field(default=8, description="Structures that are compressed to 0.7 of their length.")
    r_max: Positive = Field(default=6.0, description="Of the RDFs of trajectories on disk, Å.")
    trajectory_interval: Count = Field(default=10, description="Of check: steps between frames on disk.")
    nve_structures: Count = Field(default=3, description="Of check: how many are simulated without thermostat.")
    nve_steps: int = Field(default=1000, ge=20, description="Of check: steps without thermostat.")


class Recipe(Section):
    """The whole method: teacher, labels, network, pretraining, finetuning."""

    preset: Preset = Field(default="default", description=PRESET_WORDS)
    teacher: Teacher = Field(default_factory=Teacher)
    augment: Augment = Field(default_factory=Augment)
    backbone: Backbone = Field(default_factory=Backbone)
    pretrain: Pretrain = Field(default_factory=Pretrain)
    finetune: Finetune = Field(default_factory=Finetune)
    loop: Loop = Field(default_factory=Loop)

    @model_validator(mode="after")
    def _two_teachers_need_anchors(self) -> Recipe:
        refuse_unanchored(self.teacher, self.augment)
        return self


def refuse_unanchored(teacher: Teacher, augment: Augment) -> None:
    """Raise ConfigError where two potentials would label without anchors."""
    if teacher.with_fitted and not augment.anchor:
        raise ConfigError("teacher.with_fitted mixes the labels of two potentials: augment.anchor has to be true")


#: The defaults, for the signatures of the functions that take these options one by one.
TEACHER, AUGMENT, BACKBONE, TRAINING, FINETUNE = Teacher(), Augment(), Backbone(), Training(), Finetune()
MD, CHECK, LOOP = MolecularDynamics(), Check(), Loop()
