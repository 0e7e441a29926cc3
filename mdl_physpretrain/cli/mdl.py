"""Command ``mdl``: MatDeepLearn with this plugin."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mdl_physpretrain.cli.application import app
from mdl_physpretrain.errors import ConfigError


@app.command()
def mdl(
    config: Annotated[Path, typer.Argument(help="A MatDeepLearn YAML file.")],
    run_mode: Annotated[str | None, typer.Option("--run-mode", help="Mode: train, predict or finetune.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed, instead of task.seed.")] = None,
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="Number of GPUs; several are started with torchrun.")] = 1,
    matdeeplearn: Annotated[
        Path | None,
        typer.Option("--matdeeplearn", help="Clone of MatDeepLearn, where main.py is not beside the package."),
    ] = None,
    system: Annotated[
        str | None, typer.Option("--system", help="A job of the paper for silica, phosphorus or mptrj.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option("--backbone", help="A job of the paper with cgcnn or torchmd.")
    ] = None,
    show: Annotated[bool, typer.Option("--print", help="Only print the complete YAML file.")] = False,
) -> None:
    """Run MatDeepLearn's own main with this plugin loaded."""
    if show:
        from mdl_physpretrain.hosts.matdeeplearn.paper_jobs import as_yaml, read_job

        typer.echo(as_yaml(read_job(config, system, backbone)), nl=False)
        return
    from mdl_physpretrain.hosts.matdeeplearn.runner import run_host

    run_host(config, run_mode=run_mode, seed=seed, script=matdeeplearn, gpus=gpus, system=system, backbone=backbone)


@app.command("mdl-data")
def mdl_data(
    structures: Annotated[list[str], typer.Argument(help="Files ASE reads, patterns, 'demo' or load-atoms:<name>.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for train.json, val.json, test.json.")],
    fractions: Annotated[str, typer.Option("--fractions", help="Shares of train, val, test.")] = "0.8,0.1,0.1",
    usage: Annotated[str, typer.Option("--usage", help="Share of the training structures, e.g. 10%.")] = "100%",
    elements: Annotated[
        str | None, typer.Option("--elements", help="Only structures made of these elements: Li,Mn,O.")
    ] = None,
    max_structures: Annotated[
        int | None, typer.Option("--max-structures", min=3, help="At most so many structures, chosen at random.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the choice and of the split.")] = 0,
    split_by: Annotated[
        str, typer.Option("--split-by", help="'structure'; or whole groups to one part: 'composition' or an info tag.")
    ] = "structure",
) -> None:
    """Write structures as MatDeepLearn's JSON, split into train, val and test."""
    import numpy as np

    from mdl_physpretrain.hosts.matdeeplearn.data import right_handed
    from mdl_physpretrain.ownership import claim_folder, keep_existing
    from mdl_physpretrain.structures import label_counts, read_structures, split_structures, write_structures

    claim_folder(output, "MatDeepLearn data set", inputs=structures)
    cells = read_structures(structures, require=("energy",))
    if elements is not None:
        chosen = {e.strip() for e in elements.split(",")}
        cells = [a for a in cells if set(a.symbols) <= chosen]
    if max_structures is not None and len(cells) > max_structures:
        order = np.random.default_rng(seed).permutation(len(cells))[:max_structures]
        cells = [cells[k] for k in sorted(order)]
    shares = [_share(f, "--fractions") for f in fractions.split(",")]
    split = split_structures(
        cells, fractions=shares, usage=_share(usage, "--usage"), seed=seed, group_by=split_by
    )  # fmt: skip
    parts = {output / f"{name}.json": getattr(split, name) for name in ("train", "val", "test")}
    with keep_existing(*parts):
        for path, part in parts.items():
            write_structures(path, [right_handed(a) for a in part])
    for path, part in parts.items():
        counts = ", ".join(f"{count} {label}" for label, count in label_counts(part).items())
        typer.echo(f"{path}: {counts}")
    typer.echo(f"elements: {' '.join(sorted({s for a in cells for s in a.symbols}))}")


def _share(word: str, option: str) -> float:
    """``10%`` or ``0.1``."""
    try:
        return float(word.strip().removesuffix("%")) / (100 if word.strip().endswith("%") else 1)
    except ValueError:
        raise ConfigError(f"{option}: {word!r} is not a share such as 0.1 or 10%") from None
