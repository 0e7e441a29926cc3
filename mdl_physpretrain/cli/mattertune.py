"""Command mattertune: MatterTune with the plugin loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdl_physpretrain.cli.application import app

if TYPE_CHECKING:
    from mdl_physpretrain.hosts.mattertune.job import Outcome


@app.command("mattertune")
def mattertune(
    config: Annotated[Path, typer.Argument(help="MatterTune's YAML, or a job of pretrain, finetune and evaluate.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Changes, e.g. finetune.trainer.max_epochs=5.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Read and validate only.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")] = False,
) -> None:
    """Run MatterTune with our data, backbones and recipes loaded."""
    import logging
    import warnings

    from mdl_physpretrain.hosts.mattertune.host import require_host

    require_host()
    from mdl_physpretrain.hosts.mattertune.job import load_stages, run_stages

    warnings.filterwarnings("ignore", module=r"lightning\.|torch_geometric|mattersim")
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    stages = load_stages(config, overrides or ())
    if check:
        typer.echo(f"{config}: {', '.join(s.name for s in stages)} valid")
        return
    if quiet:
        for stage in stages:
            stage.config.trainer.additional_trainer_kwargs |= {
                "enable_progress_bar": False,
                "enable_model_summary": False,
            }
    words = {"start": "…", "done": "✓"}
    outcomes = run_stages(stages, lambda event, name: typer.echo(f"{words[event]} {name}"))
    _summary(outcomes)


def _summary(outcomes: list[Outcome]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    columns = {
        "last val total": "val/total_loss",
        "energy MAE": "val/energy_mae",
        "force MAE": "val/forces_mae",
        "unphysical": "physicality_end/unphysical",
        "of": "physicality_end/trajectories",
    }
    table = Table("stage", "s", "best", *columns, "best checkpoint")
    for outcome in outcomes:
        numbers = [outcome.best, *(outcome.metrics.get(key) for key in columns.values())]
        table.add_row(
            escape(outcome.name),
            f"{outcome.seconds:.1f}",
            *("–" if v is None else f"{v:.4g}" for v in numbers),
            escape(str(outcome.checkpoint or "–")),
        )
    Console(width=140).print(table)
