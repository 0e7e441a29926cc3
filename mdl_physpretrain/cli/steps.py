"""Commands for single steps: fit-eam, fit-teacher, examine, augment, label."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdl_physpretrain.cli.application import app
from mdl_physpretrain.cli.options import (
    Device,
    Parents,
    Structures,
    Val,
    Workers,
    named_arguments,
    potential_of,
    progress_bars,
    read_all,
    recipe_options,
)
from mdl_physpretrain.cli.printing import errors_table
from mdl_physpretrain.errors import CheckpointError, ConfigError
from mdl_physpretrain.option_types import Section
from mdl_physpretrain.recipe import TEACHER, Augment, Augmentation, EAMFit, Perturbation

if TYPE_CHECKING:
    from mdl_physpretrain.teacher.base import NativeTeacher
    from mdl_physpretrain.teacher.examine import Examination

LABELLED = [name for name in Augment.model_fields if name not in Augmentation.model_fields]

Output = Annotated[Path, typer.Option("--output", "-o", help="File to write (.extxyz, .json, ...).")]


def _old_spelling(value: str | None) -> None:
    if value is not None:
        raise typer.BadParameter("--anchor FILE is now --parents FILE, and --anchored or --no-anchored switches")


OldAnchor = Annotated[
    str | None, typer.Option("--anchor", hidden=True, is_eager=True, callback=_old_spelling, expose_value=False)
]


@app.command("fit-eam")
@recipe_options(EAMFit, "teacher")
def fit_eam(
    structures: Structures,
    options: EAMFit,
    output: Annotated[Path, typer.Option("--output", "-o", help="Checkpoint to write.")] = Path("teacher.pt"),
    val: Val = None,
) -> None:
    """Fit an EAM teacher and examine it (exit code 1 when it fails)."""
    _fit("eam", structures, val, options, output)


@app.command("fit-teacher")
def fit_teacher(
    structures: Structures,
    kind: Annotated[str, typer.Option("--kind", help="Kind of potential, as teacher.kind in a run.")] = "auto",
    arg: Annotated[list[str] | None, typer.Option("--arg", help="Option of the fit, e.g. cutoff=8.0.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Checkpoint to write.")] = Path("teacher.pt"),
    val: Val = None,
) -> None:
    """Fit a native teacher of any kind and examine it (exit code 1 when it fails)."""
    from mdl_physpretrain.option_types import validated
    from mdl_physpretrain.teacher.registry import teacher_kind

    options = validated(teacher_kind(kind, "--kind").Options, named_arguments(arg), prefix="--arg ")
    _fit(kind, structures, val, options, output)


@app.command()
def examine(
    teacher: Annotated[str, typer.Argument(help="A teacher (.pt), or module:factory of an ASE calculator.")],
    structures: Structures,
    core: Annotated[str, typer.Option("--core", help="'zbl': with this core added to the calculator.")] = "none",
) -> None:
    """Ask a teacher whether it may teach (exit code 1 when it may not)."""
    from rich.console import Console

    from mdl_physpretrain.option_types import validated
    from mdl_physpretrain.potentials.base import EnergyModel
    from mdl_physpretrain.recipe import Teacher
    from mdl_physpretrain.teacher.calculators import calculator_teacher, examine_calculator
    from mdl_physpretrain.teacher.registry import kind_of, teacher_kinds

    model = potential_of(teacher, "auto")
    options = validated(Teacher, {"core": core}, prefix="--")
    if not isinstance(model, EnergyModel):
        data = read_all(structures)
        examination = examine_calculator(calculator_teacher(options, model, data), data)
        Console().print(examination.table())
        for failure in examination.failures:
            typer.echo(failure)
        if not examination.passed:
            raise typer.Exit(1)
        return
    kind = kind_of(model)
    if kind is None:
        raise CheckpointError(
            f"{teacher} holds {model.registry_name!r}, which is no native teacher ({', '.join(teacher_kinds())})"
        )
    if options.core != "none":
        raise ConfigError("--core is added to a calculator; a fitted teacher has its own")
    outcome = kind.examine(model, read_all(structures))
    if outcome is not None and outcome.forces is not None:  # whether it was fitted to these is not known
        outcome = outcome.with_forces({**outcome.forces, "unseen": None})
    if not _passed(kind, outcome):
        raise typer.Exit(1)


@app.command()
@recipe_options(Augmentation, "augment")
def augment(
    structures: Structures,
    output: Output,
    options: Augmentation,
    teacher: Annotated[str | None, typer.Option("--teacher", help="Teacher whose springs --thermal uses.")] = None,
) -> None:
    """Perturb structures by Algorithm 1; written as they are made, so any number fits into memory."""
    import warnings
    from itertools import chain

    from mdl_physpretrain.augmentation import augment_iter
    from mdl_physpretrain.ownership import keep_existing, refuse_other_kind, refuse_overwriting
    from mdl_physpretrain.progress import track
    from mdl_physpretrain.structures import write_structures
    from mdl_physpretrain.teacher.labelled_set import further_structures

    refuse_overwriting(output, structures, teacher)
    refuse_other_kind(output, "file of structures")
    parents = read_all(structures, "atoms")
    further = further_structures(parents, options, None if teacher is None else potential_of(teacher, "auto"))
    algorithm = options.model_dump(include=set(Perturbation.model_fields))
    perturbed = augment_iter(track(parents, "augment", enabled=progress_bars()), **algorithm) if options.n_aug else ()
    with keep_existing(output):
        write_structures(output, chain(perturbed, further))
    small = sum(len(atoms) < 2 for atoms in parents)
    if small:
        warnings.warn(f"{small} structures have fewer than two atoms and were not augmented", stacklevel=1)
    typer.echo(f"Wrote {(len(parents) - small) * options.n_aug + len(further)} structures to {output}")


@app.command()
@recipe_options(Augment, "augment", only=LABELLED, also={"force": "teacher"})
def label(
    structures: Structures,
    output: Output,
    teacher: Annotated[str, typer.Option("--teacher", help="Checkpoint (.pt), or module:factory of a calculator.")],
    options: Augment,
    parents: Parents = None,
    arg: Annotated[list[str] | None, typer.Option("--arg", help="Argument of the factory, name=value.")] = None,
    fitted: Annotated[
        Path | None,
        typer.Option("--with-fitted", help="A fitted teacher (.pt): each labels the compositions it knows better."),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option("--resume", help="Journal of finished labels to continue from; default: beside the output."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force/--no-force", help="Use a teacher that failed its examination.")
    ] = TEACHER.force,
    executor: Workers = "serial",
    device: Device = "auto",
    anchor_file: OldAnchor = None,
) -> None:
    """Label structures with a native teacher or any ASE calculator, and keep those fit for training."""
    from mdl_physpretrain.executors import open_executor
    from mdl_physpretrain.ownership import keep_existing, refuse_other_kind, refuse_overwriting
    from mdl_physpretrain.potentials.factories import calculator_factory
    from mdl_physpretrain.structures import write_structures
    from mdl_physpretrain.teacher.by_composition import both_potentials
    from mdl_physpretrain.teacher.label import label as labels_of
    from mdl_physpretrain.teacher.labelled_set import change_errors, filtered

    refuse_overwriting(output, structures, parents, teacher, fitted)
    refuse_other_kind(output, "file of structures")
    journal = resume or output.with_name(f".{output.name}.journal")
    refuse_overwriting(journal, structures, parents, teacher, fitted)
    data, anchors = read_all(structures, "nothing"), read_all(parents, "labels" if options.anchor else "atoms")
    if options.anchor and not anchors:
        if any("aug_displacement" in atoms.arrays for atoms in data):
            raise ConfigError(
                "these structures were augmented, and labels are anchored to the structures they were made from: "
                "--parents FILE, or --no-anchored to label with the teacher alone"
            )
        options.anchor = False  # nothing that was augmented, nothing to anchor to
    expert = calculator_factory(teacher, named_arguments(arg)) if arg else potential_of(teacher, device)
    if fitted is not None:
        expert = both_potentials(expert, potential_of(str(fitted), device), anchors, anchored=options.anchor)
    with open_executor(executor) as workers:
        labelled = labels_of(
            data, expert, anchor=options.anchor, anchor_reach=options.anchor_reach, parents=anchors or None,
            change_error=change_errors(expert, anchors, options),
            batch_size=options.batch_size, resume=journal, force=force, executor=workers, progress=progress_bars(),
        )  # fmt: skip
        result = filtered(labelled, options, anchors, expert, force=force, executor=workers)
    if result.removed:
        typer.echo(f"The filter removed {len(result.removed)} of {len(labelled)} structures")
    with keep_existing(output):
        write_structures(output, result.kept)
    journal.unlink(missing_ok=True)
    typer.echo(f"Wrote {len(result.kept)} structures to {output}")


def _fit(kind: str, structures: list[str], val: list[str] | None, options: Section, output: Path) -> None:
    from mdl_physpretrain.files import make_writable
    from mdl_physpretrain.ownership import keep_existing, refuse_other_kind, refuse_overwriting
    from mdl_physpretrain.potentials.error_metrics import evaluate as errors_of
    from mdl_physpretrain.potentials.error_metrics import trivial_errors
    from mdl_physpretrain.teacher.registry import teacher_kind
    from mdl_physpretrain.teacher.source import fitted_teacher

    refuse_overwriting(output, structures, val)
    refuse_other_kind(output, "checkpoint", (".pt", ".pth", ".ckpt"))
    data = read_all(structures)
    try:
        make_writable(output.parent)
    except OSError as error:
        raise ConfigError(f"cannot write {output}: {error.strerror or error}") from error
    teacher = fitted_teacher(teacher_kind(kind), data, read_all(val), options, progress=progress_bars())
    with keep_existing(output):
        teacher.save(output)
    fit = teacher.metadata.get("fit", {})
    trivial = fit.get("trivial") or trivial_errors(data)
    errors_table({"teacher": fit.get("errors") or errors_of(teacher, data), "trivial": trivial})
    examination, stored = teacher_kind(kind).examine(teacher, data), teacher.metadata.get("examination") or {}
    if examination is not None and stored.get("forces"):  # by the validation data, or what the fit kept out
        examination = examination.with_forces(stored["forces"])
    passed = _passed(teacher_kind(kind), examination)
    typer.echo(f"Wrote {output}")
    if not passed:
        raise typer.Exit(1)


def _passed(kind: NativeTeacher, examination: Examination | None) -> bool:
    """Print an examination; whether the teacher may label."""
    from rich.console import Console

    if examination is None:
        typer.echo(f"A teacher of the kind {kind.name!r} is not examined")
        return True
    Console().print(examination.table())
    return examination.passed
