"""Command align: angles between the forces of two potentials."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mdl_physpretrain.cli.application import app
from mdl_physpretrain.cli.options import Device, Structures, potential_of, read_all
from mdl_physpretrain.errors import ConfigError


@app.command()
def align(
    model: Annotated[str, typer.Argument(help="Checkpoint (.pt), or module:factory of an ASE calculator.")],
    reference: Annotated[
        str, typer.Argument(help="The second potential, e.g. the teacher; or 'parts': the EAM inside a hybrid.")
    ],
    structures: Structures,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for alignment.csv, alignment_summary.csv and a figure.")
    ] = None,
    min_force: Annotated[float, typer.Option("--min-force", help="Leave out atoms with a smaller force, eV/Å.")] = 1e-3,
    device: Device = "auto",
) -> None:
    """Angles between the forces of two potentials, atom by atom (Fig. B.1)."""
    from mdl_physpretrain.ownership import claim_folder
    from mdl_physpretrain.probes.force_alignment import alignment_summary, force_angles, hybrid_angles

    if out is not None:
        claim_folder(out, "alignment", inputs=[model, reference, structures])
    potential, data = potential_of(model, device), read_all(structures, "atoms")
    if reference == "parts":
        angles = hybrid_angles(potential, data, min_force=min_force)
    else:
        angles = force_angles(potential, potential_of(reference, device), data, min_force=min_force)
    angles.insert(0, "arm", Path(model).stem)
    summary = alignment_summary(angles)
    _print(summary)
    if out is not None:
        _write(out, angles, summary)


def _print(summary: Any) -> None:
    import pandas as pd
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from mdl_physpretrain.probes.force_alignment import RANDOM

    table = Table(title="Angle between the forces (°), and shares of atoms (%)")
    table.add_column("", no_wrap=True)
    for title in ("atoms", "left out", "mean", "median", "< 30", "< 60", "< 90"):
        table.add_column(title, justify="right")
    for name, row in summary.iterrows():
        counts = ["" if name == RANDOM else str(int(row[k])) for k in ("n_atoms", "left_out")]
        error = "" if pd.isna(row["mean_error"]) else f" ±{row['mean_error']:.1f}"
        shares = [f"{100 * row[f'below_{limit}']:.1f}" for limit in (30, 60, 90)]
        table.add_row(escape(str(name)), *counts, f"{row['mean']:.1f}{error}", f"{row['median']:.1f}", *shares)
    Console().print(table)


def _write(out: Path, angles: Any, summary: Any) -> None:
    from mdl_physpretrain.ownership import forget_contents, is_edited, keep_edited, keep_existing, note_contents
    from mdl_physpretrain.report.alignment import alignment_figure
    from mdl_physpretrain.report.drawing import draw

    notes: dict[str, str] = {}
    try:
        names = ("alignment.csv", "alignment_summary.csv", "alignment.png")
        keep_edited(out, [name for name in names if is_edited(out, name)])
        forget_contents(out, names)
        with keep_existing(*(out / name for name in names[:2])):
            angles.to_csv(out / "alignment.csv", index=False)
            summary.to_csv(out / "alignment_summary.csv")
        draw({"alignment": lambda: alignment_figure(angles)}, out, notes)
        note_contents(out, names)
    except OSError as error:
        raise ConfigError(f"cannot write {out}: {error.strerror}") from error
    for note in notes.values():
        typer.echo(note, err=True)
    typer.echo(f"Wrote {out}")
