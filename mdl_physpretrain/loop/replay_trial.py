"""Molecular dynamics of training structures that decides how closely finetuning holds to labels beyond the data.

Not of the paper. A teacher's error is measured on the data and grows beyond them, by how much nobody knows: labels
that are held to closely cost accuracy where the teacher is wrong there, and keep the network physical where it is not.
A network that held to them less is kept if it loses no training structure.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms

from mdl_physpretrain.dynamics.settings import simulation_options
from mdl_physpretrain.dynamics.simulate import simulate
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.devices import resolve_device
from mdl_physpretrain.recipe import MolecularDynamics

__all__ = ["STEPS", "TRIED", "ReplayTrial"]

#: Times the temperature of the run: what stays physical there is not just about to be lost.
HOTTER = 1.2
STEPS = 5000
#: Small cells and those with surfaces (by their volume per atom, over the median) are lost by good potentials, too.
FEWEST_ATOMS, LARGEST_VOLUME = 8, 1.3
#: Options of the run's simulation that a trial takes over.
TRIED = (
    "ensemble", "temperature", "timestep", "friction", "pressure", "barostat", "taut", "taup", "compressibility",
    "interval", "stop_on", "lindemann_variant",
)  # fmt: skip
RECORDS = "trial.runs.npz"


@dataclass(frozen=True)
class ReplayTrial:
    """A trial of a network in MD of training structures.

    Attributes
    ----------
    structures
        Training structures; at most ``number`` are simulated, chosen by ``seed``: of those with eight atoms or more and
        at most 1.3 times the median of their volumes per atom, or, where there are none, with two atoms or more.
    md
        The run's simulation, of which 5,000 steps are made at 1.2 times the temperature.
    number
        Of structures.
    seed
        Of the choice, velocities and noise.
    device
        As ``device`` of a run says.
    progress
        Show it.
    """

    structures: Sequence[Atoms]
    md: MolecularDynamics
    number: int
    seed: int = 0
    device: str = "auto"
    progress: bool = False

    def __call__(self, potential: EnergyModel, folder: Path | None) -> tuple[int, int]:
        """Simulate them.

        Parameters
        ----------
        potential
            Is not changed.
        folder
            Of the trajectories that are finished, so that they are not made again; ``None``: nowhere.

        Returns
        -------
        lost, simulated : int
            Numbers of trajectories.
        """
        starts = self.starts()
        if not starts:
            return 0, 0
        chosen = {"temperature": HOTTER * self.md.temperature, "steps": STEPS, "trajectory_interval": None}
        md = self.md.model_copy(update=chosen)
        options = simulation_options(md, Path())
        runs = simulate(
            deepcopy(potential).to(resolve_device(self.device)),
            starts,
            seed=self.seed,
            checkpoint=None if folder is None else folder / RECORDS,
            progress=self.progress,
            **options,
        )
        rows = [record.row(options["limits"]) for record in runs]
        return sum(not row["physical"] for row in rows), len(rows)

    def starts(self) -> list[Atoms]:
        """The structures that are simulated, in the order of the data."""
        suited = [k for k, atoms in enumerate(self.structures) if len(atoms) >= FEWEST_ATOMS]
        room = {k: _volume(self.structures[k]) for k in suited}
        usual = float(np.median(list(room.values()))) if room else 0.0
        dense = [k for k in suited if room[k] <= LARGEST_VOLUME * usual]
        moving = dense or [k for k, atoms in enumerate(self.structures) if len(atoms) > 1]
        chosen = np.random.default_rng([self.seed, 0x7E57]).permutation(moving)[: self.number]
        return [self.structures[k] for k in sorted(chosen.tolist())]


def _volume(atoms: Atoms) -> float:
    """Per atom, Å³; infinite where the structure is not periodic in each direction."""
    return atoms.get_volume() / len(atoms) if atoms.pbc.all() else np.inf
