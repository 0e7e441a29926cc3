"""The command ``evaluate``: errors of a potential on labelled structures."""

from __future__ import annotations

from typing import Annotated

import typer

from mdl_physpretrain.cli.application import app
from mdl_physpretrain.cli.options import Device, Structures, potential_of, read_all
from mdl_physpretrain.cli.printing import errors_table
from mdl_physpretrain.errors import ConfigError, StructureError

MOST_GROUPS = 100


@app.command()
def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="[NAME=]POTENTIAL", help="Checkpoint, or module:factory of an ASE calculator.")
    ],
    structures: Structures,
    by: Annotated[
        str | None, typer.Option(help="Also by group: 'composition', or a tag of the structures, e.g. config_type.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Energy, force and stress errors, next to those of the trivial predictor."""
    from mdl_physpretrain.dynamics.simulate import check_trained_elements
    from mdl_physpretrain.hosts.loading import named_potentials
    from mdl_physpretrain.potentials.base import EnergyModel
    from mdl_physpretrain.potentials.error_metrics import ErrorSums, trivial_errors
    from mdl_physpretrain.probes.accuracy import labelled, potential_error_sums
    from mdl_physpretrain.structures.groups import group_names
    from mdl_physpretrain.structures.reference_energies import references_if_labelled

    data = read_all(structures)
    if not labelled(data):
        raise StructureError(f"none of the {len(data)} structures has an energy, forces or a stress to compare with")
    names = [""] * len(data) if by is None else group_names(data, by, field="--by")
    groups = sorted(set(names))
    if len(groups) > MOST_GROUPS:
        raise ConfigError(f"--by {by}: {len(groups)} different values, at most {MOST_GROUPS} are shown")
    potential, title = potential_of(model, device), next(iter(named_potentials([model])))
    if isinstance(potential, EnergyModel):
        check_trained_elements(potential, data)
    members = {group: [a for a, name in zip(data, names, strict=True) if name == group] for group in groups}
    sums = {group: potential_error_sums(potential, members[group]) for group in groups}
    references = references_if_labelled(data)
    rows = {title: ErrorSums.joined(sums.values()).means(), "trivial": trivial_errors(data, references)}
    for group in groups if by is not None else []:
        rows[f"{group} ({len(members[group])})"] = sums[group].means()
        rows[f"{group}, trivial"] = trivial_errors(members[group], references)
    errors_table(rows)
