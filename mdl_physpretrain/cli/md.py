"""Commands for molecular dynamics: md, assess."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mdl_physpretrain.cli.application import app
from mdl_physpretrain.cli.options import SIMULATION, Device, Structures, Workers, shared_options
from mdl_physpretrain.errors import ConfigError


@app.command()
@shared_options(SIMULATION)
def md(
    potential: Annotated[
        str, typer.Argument(metavar="[NAME=]POTENTIAL", help="Checkpoint, or module:factory of an ASE calculator.")
    ],
    structures: Structures,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for physicality.csv and runs.npz.")],
    also: Annotated[
        list[str] | None,
        typer.Option(
            "--also",
            metavar="[NAME=]POTENTIAL",
            help="A further potential, with the same starting velocities and noise.",
        ),
    ] = None,
    trajectories: Annotated[
        int | None, typer.Option("--trajectories", min=1, help="Write a frame every so many steps.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of velocities and noise.")] = 0,
    seeds: Annotated[str | None, typer.Option("--seeds", help="Several seeds instead of --seed, e.g. 0,1,2.")] = None,
    executor: Workers = "serial",
    batch_atoms: Annotated[
        int | None,
        typer.Option("--batch-atoms", min=1, help="Atoms simulated together at most; fewer keep more workers busy."),
    ] = None,
    device: Device = "auto",
    **options: Any,
) -> None:
    """Molecular dynamics of structures, and whether it stays physical.

    Several potentials (--also) or seeds are compared in pairs; their files are seed-<s>/md/<name>.runs.npz.
    """
    from mdl_physpretrain.cli.check import potentials_of, print_check, seeds_of
    from mdl_physpretrain.locking import locked
    from mdl_physpretrain.ownership import claim_folder, write_again
    from mdl_physpretrain.structures import read_structures

    if (also or seeds is not None) and (executor != "serial" or batch_atoms is not None):
        raise ConfigError("--executor and --batch-atoms are for a single potential and --seed")
    numbers = (seed,) if seeds is None else seeds_of(seeds)
    given = [potential, *(also or [])]
    several = bool(also) or seeds is not None
    claim_folder(output, "check" if several else "md", inputs=[structures, given, [t.partition("=")[2] for t in given]])
    texts, loaded = potentials_of(given, device)
    starts, show = read_structures(structures, check="atoms"), sys.stderr.isatty()
    if several:
        from mdl_physpretrain.workflow.check import check
        from mdl_physpretrain.workflow.check_suite import probe_names

        print_check(
            check(
                loaded, starts, output=output, described=texts, command=sys.argv, report=False, progress=show,
                seeds=numbers, trajectory_interval=trajectories, skip=probe_names(), **options,
            )
        )  # fmt: skip
        return
    from mdl_physpretrain.dynamics import simulate
    from mdl_physpretrain.dynamics.assessment import assess as assess_trajectories
    from mdl_physpretrain.executors import open_executor
    from mdl_physpretrain.stability.limits import Limits
    from mdl_physpretrain.statistics.survival import length_caution

    options["limits"] = Limits(variant=options.pop("lindemann_variant"))
    if trajectories is not None:
        options |= {"trajectory_dir": output / "trajectories", "trajectory_interval": trajectories}
    (model,) = loaded.values()
    with locked(output), open_executor(executor) as workers:
        runs = simulate(
            model, starts, seed=seed, checkpoint=output / "runs.npz", max_batch_atoms=batch_atoms, executor=workers,
            progress=show, **options,
        )  # fmt: skip
        table = assess_trajectories(runs, limits=options["limits"])
        _physicality_table(table, None)
        write_again(output, "physicality.csv", table.to_csv(index=False))
    typer.echo(f"Wrote {output / 'physicality.csv'}")
    if caution := length_caution([(options["steps"], options["timestep"])]):
        typer.echo(caution)


@app.command()
def assess(
    trajectories: Annotated[
        list[str], typer.Argument(help="Trajectory files of any code that ASE reads, or patterns.")
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="CSV file.")] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", "-T", help="Target temperature, K, for the explosion limit.")
    ] = None,
    variant: Annotated[
        str,
        typer.Option(
            "--variant",
            help="Verdict: literature, liquid (melting is no failure), paper, or printed (its index as printed).",
        ),
    ] = "literature",
    unwrapped: Annotated[bool, typer.Option("--unwrapped", help="Positions are not wrapped into the cell.")] = False,
    interval: Annotated[int, typer.Option("--interval", help="Look at every so many frames.")] = 1,
    cell: Annotated[
        str | None,
        typer.Option("--cell", help="Cell for files without one: 3 lengths, 6 parameters or 9 numbers, e.g. 8,8,20."),
    ] = None,
    pbc: Annotated[
        str | None, typer.Option("--pbc", help="Periodic directions, e.g. TTF, instead of the files'.")
    ] = None,
) -> None:
    """Overlap, explosion, NaN, melting and diffusion in existing trajectories.

    A file that cannot be read is told, and costs only its own row.
    """
    from mdl_physpretrain.dynamics.assessment import assess as assess_trajectories
    from mdl_physpretrain.ownership import refuse_overwriting
    from mdl_physpretrain.stability.limits import Limits

    refuse_overwriting(output, trajectories, table=True)
    table = assess_trajectories(
        trajectories, limits=Limits(variant=variant), temperature=temperature,
        wrapped=False if unwrapped else None, interval=interval, cell=_numbers(cell), pbc=_directions(pbc),
        progress=sys.stderr.isatty(),
    )  # fmt: skip
    _physicality_table(table, output)
    unreadable = table[table["verdict"] == "unreadable"]
    for row in unreadable.to_dict("records"):
        typer.secho(f"{row['structure_id']}: {row['reason']}", err=True, fg="red")
    if len(unreadable):
        raise typer.Exit(1)


def _numbers(text: str | None) -> list[float] | None:
    """Numbers with commas or blanks between them."""
    if text is None:
        return None
    try:
        return [float(word) for word in text.replace(",", " ").split()]
    except ValueError:
        raise ConfigError(f"--cell: {text!r} are not numbers with commas between them") from None


def _directions(text: str | None) -> list[bool] | None:
    """Three of T and F, or one for all."""
    if text is None:
        return None
    letters = text.replace(",", "").replace(" ", "").upper()
    if not letters or len(letters) not in (1, 3) or set(letters) - {"T", "F"}:
        raise ConfigError(f"--pbc: {text!r} is not one or three of T and F, such as TTF")
    return [letter == "T" for letter in letters] * (3 // len(letters))


def _physicality_table(frame: Any, output: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from mdl_physpretrain.ownership import keep_existing

    counts = {name: int((frame["verdict"] == name).sum()) for name in ("unphysical", "not judged", "unreadable")}
    title = f"{counts.pop('unphysical')} of {len(frame)} trajectories are unphysical"
    table = Table(
        "structure", "steps", "verdict", "lost at", "closest, Å", "Lindemann",
        title=title + "".join(f", {n} {name}" for name, n in counts.items() if n),
        caption="Lindemann: largest local index; --output writes all columns",
    )  # fmt: skip
    for row in frame.to_dict("records"):
        words = [str(row[name]) for name in ("verdict", "reason", "detail", "mobile") if _is_there(row[name])]
        words = words[1:] if len(words) > 1 and words[1].startswith(words[0]) else words
        lost, closest, index = (row[name] for name in ("first_unphysical_step", "min_distance", "lindemann_local"))
        cells = (
            row["structure_id"], row["steps_done"] if _is_there(row["steps_done"]) else "", ": ".join(words),
            int(lost) if _is_there(lost) else "", f"{closest:.2f} {row['closest_pair']}" if _is_there(closest) else "",
            f"{index:.3f}" if _is_there(index) else "",
        )  # fmt: skip
        table.add_row(*(Text(str(cell)) for cell in cells))
    Console().print(table)
    if output is not None:
        try:
            output.parent.mkdir(parents=True, exist_ok=True)
            with keep_existing(output):
                frame.to_csv(output, index=False)
        except OSError as error:
            raise ConfigError(f"cannot write {output}: {error.strerror}") from error
        typer.echo(f"Wrote {output}")


def _is_there(value: Any) -> bool:
    """Whether a cell of a table holds something."""
    return str(value) not in ("", "None", "nan", "<NA>")
