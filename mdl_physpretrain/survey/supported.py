"""Which structures a potential can evaluate, asked by the Python that has it: ``python -m ... POTENTIAL FILE OUT``."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

from ase import Atoms

from mdl_physpretrain.errors import PhysPretrainError
from mdl_physpretrain.files import write_atomic
from mdl_physpretrain.hosts.engines import check_elements
from mdl_physpretrain.hosts.loading import load_potential
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.identity import package_versions
from mdl_physpretrain.probes.single_points import Potential, as_calculator, energies_and_forces
from mdl_physpretrain.structures import read_structures

__all__ = ["refusals", "write_refusals"]


def refusals(potential: Potential, structures: Sequence[Atoms]) -> dict[str, str]:
    """Why a potential cannot evaluate a structure, by its id; those that it can evaluate are left out."""
    reasons = {}
    for atoms in structures:
        try:
            if isinstance(potential, EnergyModel):
                check_elements(potential, set(atoms.numbers.tolist()))
            energies_and_forces(potential, [atoms])
        except PhysPretrainError as error:
            reasons[str(atoms.info["structure_id"])] = str(error)[:300]
    return reasons


def write_refusals(text: str, structures: str, output: str) -> None:
    """The refusals of a potential, as ``physpretrain check`` names it, and versions of its package, in a JSON file."""
    potential = load_potential(text, "cpu")
    refused = refusals(potential, read_structures(structures, check="atoms"))
    module = type(as_calculator(potential)).__module__
    answer = {"refused": refused, "versions": {"Python": platform.python_version()} | package_versions(module)}
    write_atomic(Path(output), json.dumps(answer))


if __name__ == "__main__":
    try:
        write_refusals(*sys.argv[1:])
    except PhysPretrainError as error:
        sys.exit(f"error: {error}")
