"""Commands that hand a potential to other programs: export-lammps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mdl_physpretrain.cli.application import app


@app.command("export-lammps")
def export_lammps(
    eam: Annotated[Path, typer.Argument(help="Checkpoint of a fitted EAM.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File; default: <eam>.eam.fs")] = None,
    n_r: Annotated[
        int, typer.Option("--points", min=2, max=10_000_000, help="Points of the tables of distance.")
    ] = 10_000,
    n_rho: Annotated[
        int, typer.Option("--density-points", min=2, max=10_000_000, help="Points of the tables of density.")
    ] = 50_000,
) -> None:
    """Write an EAM as a LAMMPS eam/fs table and print the input lines that use it."""
    from mdl_physpretrain.ownership import keep_existing, refuse_other_kind, refuse_overwriting
    from mdl_physpretrain.potentials import load_model
    from mdl_physpretrain.teacher.lammps import lammps_commands, write_eam_fs

    output = output or eam.with_suffix(".eam.fs")
    refuse_overwriting(output, eam)
    refuse_other_kind(output, "table of an EAM", (".fs", ".eam", ".alloy", ".txt"))
    model = load_model(eam, expect="eam")
    with keep_existing(output):
        path = write_eam_fs(model, output, n_r=n_r, n_rho=n_rho)  # type: ignore[arg-type]
    typer.echo(f"Wrote {path}. In LAMMPS:")
    typer.echo(lammps_commands(model, path), nl=False)  # type: ignore[arg-type]
