"""Commands for single steps: fit-eam, examine, augment, label, train, evaluate."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mdl_physpretrain.cli.application import app
from mdl_physpretrain.cli.options import Workers
from mdl_physpretrain.errors import ConfigError

Structures = Annotated[list[str], typer.Argument(help="Files ASE reads, patterns, 'demo' or load-atoms:<name>.")]
Seed = Annotated[int, typer.Option("--seed", min=0)]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:0, mps.")]


@app.command("fit-eam")
def fit_eam(
    structures: Structures,
    output: Annotated[Path, typer.Option("--output", "-o", help="Checkpoint to write.")] = Path("teacher.pt"),
    val: Annotated[list[str] | None, typer.Option("--val", help="Structures that choose the best state.")] = None,
    preset: Annotated[str, typer.Option("--preset", help="default or paper.")] = "default",
    cutoff: Annotated[float, typer.Option("--cutoff", help="Å.")] = 8.0,
    n_basis: Annotated[int, typer.Option("--n-basis", help="Exponentials in the density.")] = 10,
    epochs: Annotated[int | None, typer.Option("--epochs")] = None,
    seed: Seed = 0,
) -> None:
    """Fit an EAM teacher and examine it (exit code 1 when it fails)."""
    from mdl_physpretrain import teacher

    data = _read(structures)
    eam = teacher.fit_eam(
        data, val=_read(val) if val else None, preset=preset, cutoff=cutoff, n_basis=n_basis, epochs=epochs,
        seed=seed, progress=_bars(),
    )  # fmt: skip
    eam.save(str(output))
    fit: dict[str, Any] = eam.metadata["fit"]  # type: ignore[index, assignment]
    _errors_table({"teacher": fit["errors"], "trivial": fit["trivial"]})
    passed = _examine(eam, data)
    typer.echo(f"Wrote {output}")
    if not passed:
        raise typer.Exit(1)


@app.command()
def examine(checkpoint: Annotated[Path, typer.Argument(help="An EAM (.pt).")], structures: Structures) -> None:
    """Ask an EAM whether it may teach (exit code 1 when it may not)."""
    from mdl_physpretrain.potentials import load_model

    if not _examine(load_model(checkpoint, expect="eam"), _read(structures)):
        raise typer.Exit(1)


@app.command()
def augment(
    structures: Structures,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write (.extxyz, .json, ...).")],
    n_aug: Annotated[int, typer.Option("--n-aug", help="Rounds per structure.")] = 5,
    n_pairs: Annotated[int, typer.Option("--n-pairs", help="Close pairs pulled together.")] = 4,
    pull: Annotated[float, typer.Option("--pull", help="Largest pull, Å.")] = 1.0,
    n_sites: Annotated[int, typer.Option("--n-sites", help="Atoms displaced.")] = 5,
    perturb: Annotated[float, typer.Option("--perturb", help="Largest displacement, Å.")] = 1.0,
    convention: Annotated[str, typer.Option("--convention", help="paper or authors.")] = "paper",
    ladder: Annotated[str, typer.Option("--ladder", help="down or up.")] = "down",
    seed: Seed = 0,
) -> None:
    """Perturb structures by Algorithm 1; written as they are made, so any number fits into memory."""
    import warnings

    from mdl_physpretrain.augmentation import augment_iter
    from mdl_physpretrain.progress import track
    from mdl_physpretrain.structures import write_structures

    parents = _read(structures)
    made = augment_iter(
        track(parents, "augment", enabled=_bars()), n_aug=n_aug, n_pairs=n_pairs, pull=pull, n_sites=n_sites,
        perturb=perturb, convention=convention, ladder=ladder, seed=seed,  # type: ignore[arg-type]
    )  # fmt: skip
    write_structures(output, made)
    small = sum(len(atoms) < 2 for atoms in parents)
    if small:
        warnings.warn(f"{small} structures have fewer than two atoms and were not augmented", stacklevel=1)
    typer.echo(f"Wrote {(len(parents) - small) * n_aug} structures to {output}")


@app.command()
def label(
    structures: Structures,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")],
    teacher: Annotated[str, typer.Option("--teacher", help="Checkpoint (.pt), or module:factory of a calculator.")],
    parents: Annotated[list[str] | None, typer.Option("--anchor", help="Parents to anchor the labels to.")] = None,
    resume: Annotated[
        Path | None, typer.Option("--resume", help="Journal to go on from; default: beside output.")
    ] = None,
    max_force: Annotated[float | None, typer.Option("--max-force", help="Filter, eV/Å.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Use a teacher that failed its examination.")] = False,
    executor: Workers = "serial",
    device: Device = "auto",
) -> None:
    """Label structures with an EAM or any ASE calculator."""
    from mdl_physpretrain.augmentation import filter_labels
    from mdl_physpretrain.executors import open_executor
    from mdl_physpretrain.structures import write_structures
    from mdl_physpretrain.teacher.label import label as labels_of

    journal = resume or output.with_name(f".{output.name}.journal")
    with open_executor(executor) as workers:
        found: list[Any] = labels_of(
            _read(structures), _potential(teacher, device),
            anchor=bool(parents), parents=_read(parents) if parents else None,
            resume=journal, force=force, executor=workers, progress=_bars(),
        )  # fmt: skip
    if max_force is not None:
        result = filter_labels(found, max_force=max_force)
        typer.echo(f"The filter removed {len(result.removed)} of {len(found)} structures")
        found = result.kept
    write_structures(output, found)
    journal.unlink(missing_ok=True)
    typer.echo(f"Wrote {len(found)} structures to {output}")


@app.command()
def train(
    structures: Structures,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for best.pt, last.ckpt, history.csv.")],
    model: Annotated[str, typer.Option("--model", help="Registered name, or checkpoint (.pt) to finetune.")] = "cgcnn",
    arg: Annotated[list[str] | None, typer.Option("--arg", help="Argument of a new model, e.g. cutoff=5.0.")] = None,
    val: Annotated[list[str] | None, typer.Option("--val", help="Validation structures.")] = None,
    core: Annotated[str, typer.Option("--core", help="none or zbl.")] = "none",
    eam: Annotated[str | None, typer.Option("--eam", help="Fitted EAM (.pt) added to a new model.")] = None,
    freeze_eam: Annotated[bool, typer.Option("--freeze-eam", help="Do not train the added EAM.")] = False,
    epochs: Annotated[int, typer.Option("--epochs")] = 100,
    batch_size: Annotated[int, typer.Option("--batch-size")] = 8,
    learning_rate: Annotated[float, typer.Option("--learning-rate", "--lr")] = 1e-3,
    optimizer: Annotated[str, typer.Option("--optimizer", help="adamw or sam.")] = "adamw",
    rho: Annotated[float, typer.Option("--rho", help="Length of SAM's ascent.")] = 0.05,
    force_scale: Annotated[float | None, typer.Option("--force-scale", help="eV/Å, see the documentation.")] = None,
    replay: Annotated[list[str] | None, typer.Option("--replay", help="Teacher-labelled structures mixed in.")] = None,
    replay_fraction: Annotated[float, typer.Option("--replay-fraction")] = 0.0,
    seed: Seed = 0,
    accelerator: Annotated[str, typer.Option("--accelerator", help="Lightning's.")] = "auto",
    devices: Annotated[str, typer.Option("--devices", help="Lightning's.")] = "1",
    strategy: Annotated[str, typer.Option("--strategy", help="Lightning's.")] = "auto",
) -> None:
    """Train or finetune a potential; the same command goes on after an interruption."""
    from mdl_physpretrain.training import train as trained

    new = not model.endswith((".pt", ".ckpt"))
    result = trained(
        model, _read(structures), val=_read(val) if val else None, epochs=epochs, batch_size=batch_size,
        learning_rate=learning_rate, force_scale=force_scale, replay=_read(replay) if replay else (),
        replay_fraction=replay_fraction, model_args=_arguments(arg or []) if new or arg else None,
        core=core, eam=eam, freeze_eam=freeze_eam, optimizer=optimizer, rho=rho, seed=seed,
        directory=output, accelerator=accelerator,
        devices=int(devices) if devices.isdigit() else devices, strategy=strategy, progress=_bars(),
    )  # fmt: skip
    result.save(str(output / "best.pt"))
    best = result.metadata["best_val_loss"]  # type: ignore[index]
    typer.echo(f"Wrote {output / 'best.pt'} (validation total {best:.4g})")


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="Checkpoint, or module:factory of an ASE calculator.")],
    structures: Structures,
    device: Device = "auto",
) -> None:
    """Energy, force and stress errors, next to those of the trivial predictor."""
    from mdl_physpretrain.hosts.loading import potential_name
    from mdl_physpretrain.potentials.errors import trivial_errors
    from mdl_physpretrain.probes.errors import potential_errors
    from mdl_physpretrain.structures import reference_energies

    data = _read(structures)
    errors = potential_errors(_potential(model, device), data)
    _errors_table({potential_name(model): errors, "trivial": trivial_errors(data, reference_energies(data))})


def _read(sources: list[str]) -> list[Any]:
    from mdl_physpretrain.structures import read_structures

    return read_structures(sources)


def _bars() -> bool:
    return sys.stderr.isatty()


def _potential(text: str, device: str) -> Any:
    from mdl_physpretrain.hosts.loading import load_potential

    return load_potential(text, device)


def _arguments(words: list[str]) -> dict[str, Any]:
    import yaml

    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise ConfigError(f"--arg: {word!r} is not of the form name=value")
        found[name] = yaml.safe_load(value)
    return found


def _examine(eam: Any, structures: list[Any]) -> bool:
    from rich.console import Console

    from mdl_physpretrain.teacher import examine as examined

    verdict = examined(eam, structures)
    Console().print(verdict.table())
    return verdict.passed


def _errors_table(rows: dict[str, dict[str, float]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Mean absolute errors", caption="trivial: reference energies, zero forces and stress")
    columns = {
        "energy_mae": "E (eV)",
        "energy_per_atom_mae": "E (eV/atom)",
        "forces_mae": "F (eV/Å)",
        "stress_mae": "S (eV/Å³)",
        "stress_mae_gpa": "S (GPa)",
        "total": "total",
    }
    table.add_column("")
    for title in columns.values():
        table.add_column(title, justify="right")
    for name, errors in rows.items():
        table.add_row(name, *(f"{errors[key]:.4g}" for key in columns))
    Console().print(table)
