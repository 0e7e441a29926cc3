"""Command reproduce: the paper's tables, measured again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdl_physpretrain.cli.application import app

if TYPE_CHECKING:
    from mdl_physpretrain.workflow.config import RunConfig
    from mdl_physpretrain.workflow.task import Task


@app.command()
def reproduce(
    overrides: Annotated[list[str] | None, typer.Argument(help="Changes of every run, e.g. 'seeds=[0,1]'.")] = None,
    system: Annotated[
        list[str] | None, typer.Option("--system", help="System: silica, phosphorus, mptrj, lmo or inp; repeatable.")
    ] = None,
    backbone: Annotated[
        list[str] | None, typer.Option("--backbone", help="Network: cgcnn, torchmd_et or m3gnet; default: all three.")
    ] = None,
    scale: Annotated[
        str, typer.Option("--scale", help="Scale: small (two CPU cores) or paper (a GPU and the paper's data).")
    ] = ("small"),
    data: Annotated[list[str] | None, typer.Option("--data", help="Structures to use; repeatable.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write to.")] = Path("reproduced"),
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Tasks at a time; default: one per core.")
    ] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the configurations, do nothing.")] = False,
    collect: Annotated[bool, typer.Option("--collect", help="Write the tables of finished runs only.")] = False,
) -> None:
    """Tables 1, 2, B.1, B.2 and section 4.1 of the paper, beside its numbers."""
    from rich.console import Console
    from rich.markup import escape

    from mdl_physpretrain.errors import ConfigError
    from mdl_physpretrain.reproduction.configuration import BACKBONES, configuration
    from mdl_physpretrain.reproduction.run import reproduce as reproduced
    from mdl_physpretrain.reproduction.run import write_tables

    console = Console(highlight=False)
    if collect:
        tables = write_tables(output / scale)
    else:
        if not system:
            raise ConfigError("which system? --system silica, phosphorus, mptrj, lmo or inp")
        backbones = backbone or list(BACKBONES)
        if show:
            from mdl_physpretrain.workflow.config_files import dump_config

            for s in system:
                for b in backbones:
                    typer.echo(dump_config(configuration(s, b, scale, data=data, overrides=overrides or ())))
            return

        from mdl_physpretrain.workflow.workers import default_jobs

        def report_progress(event: str, task: Task, seconds: float) -> None:
            if event == "done":
                console.print(f"[green]✓[/] {escape(task.name)} ({seconds:.1f} s)")

        def started(config: RunConfig, folder: Path) -> None:
            console.print(f"[bold]{escape(str(config.name))}[/] in {escape(str(folder))}")

        tables = reproduced(
            system, backbones, scale=scale, data=data, output=output, overrides=overrides or (),
            jobs=jobs or default_jobs(12), progress=False, listener=report_progress, started=started,
        )  # fmt: skip
    typer.echo(tables["tables"].read_text(encoding="utf-8"))
    for name, path in tables.items():
        console.print(escape(f"{name}: {path}"), soft_wrap=True)
