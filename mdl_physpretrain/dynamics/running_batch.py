"""Many structures in one tensor batch during MD: their state, and what is watched, written and reported of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from mdl_physpretrain.dynamics.integrators import make_integrator
from mdl_physpretrain.dynamics.records import RunRecord
from mdl_physpretrain.dynamics.sampled_frames import FrameSampler
from mdl_physpretrain.dynamics.settings import MDSettings
from mdl_physpretrain.dynamics.state import MDState, NoiseStream
from mdl_physpretrain.dynamics.traces import Traces, TrajectoryWriter
from mdl_physpretrain.dynamics.verlet_lists import VerletListForces
from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.potentials.base import EnergyModel, Prediction
from mdl_physpretrain.stability.monitor import Monitor

__all__ = ["RunningBatch"]


class RunningBatch:
    """State of a running batch: steps of all its structures, looks at them, and what is kept of them.

    Structures carry the velocities they start from, and ids; ``generators`` are the random numbers of each; ``skin``
    (Å) is of the Verlet lists; ``finished`` is called with the record of every structure whose trajectory has ended;
    ``sampler`` keeps frames for it.
    """

    def __init__(
        self,
        model: EnergyModel,
        structures: Sequence[Atoms],
        generators: Sequence[np.random.Generator],
        settings: MDSettings,
        *,
        skin: float = 1.0,
        writer: TrajectoryWriter | None = None,
        finished: Callable[[RunRecord], None] | None = None,
        sampler: FrameSampler | None = None,
    ) -> None:
        self.structures, self.settings, self.writer = list(structures), settings, writer
        self.sampler = sampler
        self.finished = finished or (lambda record: None)
        self.ids = [a.info["structure_id"] for a in structures]
        device = model.device
        self.state = MDState.from_structures(structures, device)
        self.monitor = Monitor(
            structures,
            limits=settings.limits,
            temperature=settings.temperature,
            stop_on=settings.stop_on,
            device=device,
        )
        self.forces = VerletListForces(
            model,
            structures,
            near=self.monitor.watched_distance,
            skin=skin,
            fixed_cell=settings.ensemble != "npt",
            volume_change=settings.limits.volume_bound,
        )
        of_cells = settings.ensemble == "npt" and settings.barostat == "cell_rescaling"
        self.noise = NoiseStream(generators, [len(a) for a in structures], device, of_cells=of_cells)
        self.integrator = make_integrator(settings, self.noise)
        self.traces = Traces(len(self.structures), settings)
        self.active = np.arange(len(self.structures))
        self.done = 0
        self.now = self._first_prediction()
        self.look()

    def careful_step(self) -> None:
        """One MD step, and a look at it before the next."""
        self.advance()
        self.look()

    def advance(self) -> None:
        """One MD step of all structures that still run."""
        self.now = self.integrator.step(self.state, self.now, self.forces)
        self.done += 1

    def finish(self) -> None:
        """Report the structures that ran to the end."""
        self.monitor.finish()
        self._report(np.arange(len(self.active)))
        self.active = self.active[:0]

    def _first_prediction(self) -> Prediction:
        try:
            return self.forces(self.state)
        except StructureError:
            self.forces.check_elements(self.ids)  # names the structure
            raise

    def counts_of(self, structures: np.ndarray) -> np.ndarray:
        """Numbers of atoms of structures, by their place among those given."""
        return np.array([len(self.structures[k]) for k in structures], dtype=np.int64)

    def look(self) -> None:
        """Look at the state as it is: events, traces, frames that are written; drop what has ended."""
        step, state, last = self.done, self.state, self.done == self.settings.steps
        # a structure the evaluator gave up has to leave now, whatever the interval
        observed = step % self.settings.look_interval == 0 or last or bool(state.broken.any())
        traced, written = self.traces.due(step), self.writer is not None and self.writer.due(step)
        if self.sampler is not None and self.sampler.due(step):
            self.sample(step)
        if not (observed or traced or written):
            return
        temperature = state.temperatures()
        stop = None
        if observed:
            edge_index, edge_structure, edge_squared = self.forces.near_pairs()
            stop = self.monitor.observe(
                step,
                state.positions,
                state.cells,
                edge_index=edge_index,
                edge_structure=edge_structure,
                edge_squared=edge_squared,
                temperature=temperature,
                energy=self.now.energy,
                forces=self.now.forces,
                broken=state.broken,
            )
        if traced:
            values = torch.stack([temperature, self.now.energy, state.volumes_of(state.cells)])
            values = torch.where(state.broken == 0, values, torch.nan)
            self.traces.add(step, self.active, values.cpu().numpy())
        if written:
            self.write(step, range(len(self.active)))
        elif self.writer is not None and stop is not None:
            self.write(step, torch.nonzero(stop).squeeze(1).tolist())
        if stop is not None:
            self._report(torch.nonzero(stop).squeeze(1).cpu().numpy())
            stay = ~stop
            self.keep(stay, state.per_atom(stay))

    def keep(self, stay: Tensor, atoms: Tensor) -> None:
        """Drop structures; masks of shapes (B,) and (N,) of what stays."""
        self.active = self.active[stay.cpu().numpy()]
        for part in (self.noise, self.state, self.forces):
            part.keep(stay, atoms)
        self.monitor.keep(stay)
        self.now = Prediction(self.now.energy[stay], self.now.forces[atoms], self.now.stress[stay])

    def _frames(self, indices: Sequence[int]) -> list[tuple[Atoms, np.ndarray]]:
        """Present structures with velocities, and their forces."""
        counts = self.state.n_atoms.cpu().numpy()
        ends = np.cumsum(counts)
        positions, velocities, cells, forces = (
            x.cpu().numpy() for x in (self.state.positions, self.state.velocities, self.state.cells, self.now.forces)
        )
        frames = []
        for k in indices:
            rows = slice(ends[k] - counts[k], ends[k])
            first = self.structures[self.active[k]]
            atoms = Atoms(first.numbers, positions[rows], cell=cells[k], pbc=first.pbc, masses=first.get_masses())
            atoms.set_velocities(velocities[rows])
            frames.append((atoms, forces[rows]))
        return frames

    def write(self, step: int, indices: Sequence[int]) -> None:
        """Write the present frames of some of the structures that run."""
        assert self.writer is not None
        broken, energy = self.state.broken.tolist(), self.now.energy.tolist()
        indices = [k for k in indices if not broken[k]]  # their positions are not those of this step
        for k, (atoms, forces) in zip(indices, self._frames(indices), strict=True):
            self.writer.write(atoms, self.ids[self.active[k]], step, energy[k], forces)

    def sample(self, step: int) -> None:
        """Keep the present frames of all structures that run."""
        assert self.sampler is not None
        state, counts = self.state, self.counts_of(self.active)
        broken, cells = state.broken.tolist(), state.cells.cpu().numpy()
        parts = np.split(state.positions.cpu().numpy(), np.cumsum(counts)[:-1])
        for k, positions in enumerate(parts):
            if not broken[k]:  # else its positions are not those of this step
                self.sampler.add(step, self.ids[self.active[k]], positions, cells[k])

    def _report(self, indices: np.ndarray) -> None:
        for k, (atoms, _) in zip(indices.tolist(), self._frames(indices.tolist()), strict=True):
            original = int(self.active[k])
            verdict = self.monitor.verdicts[original]
            assert verdict is not None
            self.finished(
                RunRecord.of_last_frame(
                    atoms,
                    structure_id=self.ids[original],
                    steps_done=self.done,
                    steps=self.settings.steps,
                    verdict=verdict,
                    traces=self.traces.of(original),
                    frames=None if self.sampler is None else self.sampler.take(self.ids[original]),
                )
            )
