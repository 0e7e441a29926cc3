"""Command committee: labels of a teacher, with those of networks where these agree better than it is right."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mdl_physpretrain.cli.application import app
from mdl_physpretrain.cli.options import Structures, read_all

__all__: list[str] = []


@app.command()
def committee(
    structures: Structures,
    network: Annotated[
        list[str],
        typer.Option("--network", "-n", help="Checkpoint trained on reference labels; two or more, of other weights."),
    ],
    data: Annotated[list[str], typer.Option("--data", help="Reference structures that the networks were trained on.")],
    val: Annotated[list[str], typer.Option("--val", help="Reference structures that no network has seen.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write (.extxyz), for --replay.")],
) -> None:
    """Give replayed structures the labels of networks where these agree better than the teacher is right."""
    from mdl_physpretrain.ownership import refuse_overwriting
    from mdl_physpretrain.structures import write_structures
    from mdl_physpretrain.teacher.committee import committee_labels

    refuse_overwriting(output, structures, data, val, *network)
    labelled, agreement = committee_labels(read_all(structures), network, read_all(data), read_all(val))
    write_structures(output, labelled)
    typer.echo(
        f"The mean of {len(network)} networks is wrong by {agreement.forces_error:.3g} eV/Å on the validation "
        f"structures; {100 * agreement.atoms:.0f} % of the forces and {100 * agreement.stresses:.0f} % of the stresses "
        "became theirs"
    )
    typer.echo(f"Wrote {len(labelled)} structures to {output}")
