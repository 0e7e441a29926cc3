"""Commands about checkpoints of other programs: convert, fetch-released."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mdl_physpretrain.cli.application import app

KindOption = "native, matdeeplearn, mattertune or mattersim; default: found out."


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Checkpoint to read.")],
    target: Annotated[Path, typer.Argument(help="Checkpoint to write.")],
    config: Annotated[
        Path | None, typer.Option("--config", help="MatDeepLearn's YAML: of the source, or to be written.")
    ] = None,
    source_kind: Annotated[str | None, typer.Option("--from", help=KindOption)] = None,
    target_kind: Annotated[str | None, typer.Option("--to", help=KindOption)] = None,
    elements: Annotated[
        str | None, typer.Option("--elements", help="Elements of an EAM whose YAML does not name them, in order: Si,O.")
    ] = None,
    member: Annotated[int | None, typer.Option("--member", min=0, help="Which model of an ensemble file.")] = None,
    references: Annotated[
        str, typer.Option("--references", help="Reference energies for MatDeepLearn: refuse, fold or beside.")
    ] = "refuse",
    drop_core: Annotated[bool, typer.Option("--drop-core", help="Write an EAM without its ZBL core.")] = False,
    check: Annotated[
        list[str] | None, typer.Option("--check", help="Compare before and after on these structures.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Translate a checkpoint between this package, MatDeepLearn, MatterTune and MatterSim."""
    from mdl_physpretrain.hosts.convert import convert as converted
    from mdl_physpretrain.hosts.convert import differences, read_checkpoint_of
    from mdl_physpretrain.structures import read_structures

    structures = read_structures(check) if check else []
    result = converted(
        source, target, source_kind=source_kind, target_kind=target_kind, config=config,
        elements=elements.split(",") if elements else None, member=member, references=references,
        drop_core=drop_core, force=force,
    )  # fmt: skip
    typer.echo(f"Read {source} ({result.source_kind}): {_described(result.model)}")
    for note in result.notes:
        typer.echo(f"note: {note}")
    typer.echo(f"Wrote {', '.join(str(f) for f in result.files)} ({result.target_kind})")
    if structures:
        written = read_checkpoint_of(
            target, result.target_kind, config=result.files[1] if len(result.files) > 1 else None
        )
        largest = differences(result.model, written, structures)
        neighbours = f" (up to {int(largest['longest_list'])} neighbours)"
        typer.echo(f"Read back here: {_differences(largest, len(structures))}{neighbours}")
        typer.echo(_beside_host(result, source, target, structures, member))


@app.command("fetch-released")
def fetch_released(
    names: Annotated[list[str] | None, typer.Argument(help="Files, folders or patterns; default: all.")] = None,
    repo: Annotated[str, typer.Option("--repo", help="Hugging Face dataset.")] = "qzheng75/EAM-Physical-MLIP",
    directory: Annotated[Path, typer.Option("--directory", "-o", help="Folder to fill.")] = Path("released"),
    only_list: Annotated[bool, typer.Option("--list", help="Show what there is, download nothing.")] = False,
) -> None:
    """Download the checkpoints released with the paper and convert them."""
    from mdl_physpretrain.hosts.released import fetch_released as fetched
    from mdl_physpretrain.hosts.released import list_released
    from mdl_physpretrain.ownership import claim_folder

    if only_list:
        for entry in list_released(names or (), repo=repo):
            typer.echo(f"{entry.path}  config: {entry.config or '-'}")
        return
    claim_folder(directory, "released")
    results = fetched(names or (), repo=repo, directory=directory)
    for result in results:
        typer.echo(f"{result.path}: {result.outcome}" + (f" -> {result.target}" if result.target else ""))
    done = sum(1 for r in results if r.target)
    typer.echo(f"Converted {done} of {len(results)} checkpoints; {directory / 'released.csv'} lists them")


def _beside_host(result: Any, source: Path, target: Path, structures: Any, member: int | None) -> str:
    """What the other program makes of its file, where it is installed."""
    from mdl_physpretrain.hosts.matdeeplearn.comparison import NotCompared, host_differences

    kinds = [k for k in (result.source_kind, result.target_kind) if k != "native"]
    if "matdeeplearn" not in kinds:
        names = {"mattertune": "MatterTune", "mattersim": "MatterSim"}
        return (
            f"not compared with {' and '.join(names[k] for k in kinds)}"
            if kinds
            else "no other program to compare with"
        )
    written = result.target_kind == "matdeeplearn"
    file, config = (target, result.files[1]) if written else (source, result.config)
    try:
        name, largest = host_differences(result.model, file, config, structures, member=None if written else member)
    except NotCompared as error:
        return f"not compared with MatDeepLearn: {error}"
    return f"{name}: {_differences(largest, len(structures))}"


def _differences(largest: dict[str, float], count: int) -> str:
    return (
        f"Largest differences over {count} structures: energy {largest['energy']:.2g} eV, "
        f"forces {largest['forces']:.2g} eV/Å, stress {largest['stress']:.2g} eV/Å³"
    )


def _described(model: Any) -> str:
    count = sum(p.numel() for p in model.parameters())
    elements = model.metadata.get("elements")
    words = [model.registry_name, f"{count:,} parameters", f"cutoff {model.cutoff:g} Å"]
    if elements:
        words.append(f"elements {', '.join(elements)}")
    return ", ".join(words)
