"""The command ``evaluate``: errors of a potential on labelled structures."""

from __future__ import annotations

from typing import Annotated

import typer

from mdl_physpretrain.cli.application import app
from mdl_physpretrain.cli.options import Device, Structures, potential_of, read_all
from mdl_physpretrain.cli.printing import errors_table
from mdl_physpretrain.errors import ConfigError

MOST_GROUPS = 100


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="Checkpoint, or module:factory of an ASE calculator.")],
    structures: Structures,
    by: Annotated[
        str | None, typer.Option(help="Also by group: 'composition', or a tag of the structures, e.g. config_type.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Energy, force and stress errors, next to those of the trivial predictor."""
    from mdl_physpretrain.hosts.loading import potential_name
    from mdl_physpretrain.potentials.error_metrics import trivial_errors
    from mdl_physpretrain.probes.accuracy import potential_errors
    from mdl_physpretrain.structures import reference_energies
    from mdl_physpretrain.structures.groups import group_names

    data = read_all(structures)
    names = [""] * len(data) if by is None else group_names(data, by, field="--by")
    groups = sorted(set(names)) if by is not None else []
    if len(groups) > MOST_GROUPS:
        raise ConfigError(f"--by {by}: {len(groups)} different values, at most {MOST_GROUPS} are shown")
    potential, title, references = potential_of(model, device), potential_name(model), reference_energies(data)
    rows = {title: potential_errors(potential, data), "trivial": trivial_errors(data, references)}
    for group in groups:
        members = [atoms for atoms, name in zip(data, names, strict=True) if name == group]
        rows[f"{group} ({len(members)})"] = potential_errors(potential, members)
        rows[f"{group}, trivial"] = trivial_errors(members, references)
    errors_table(rows)
