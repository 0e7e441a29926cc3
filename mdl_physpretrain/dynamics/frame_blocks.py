"""Many steps ahead of the host: on a GPU, steps are looked at ten at a time, with one wait for the device.

Steps go on without asking whether a neighbour list is still long enough or a trajectory has ended. At the end of a
block the host reads the answers for all its steps. Where a list was too short the run goes back to the step before and
takes that one as on a CPU; where something happened the frames, which are kept, are looked at one by one: what is
reported, and at which step, does not depend on the blocks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mdl_physpretrain.dynamics.running_batch import RunningBatch
from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.potentials.base import Prediction
from mdl_physpretrain.stability.monitor_blocks import BlockLook, Frames

__all__ = ["LONGEST", "FrameBlock"]

LONGEST = 10  # steps
SURE = 0.8  # of the steps that a list is expected to last


@dataclass
class Frame:
    """A step whose look is still to come; tensors that the run replaces, and does not change."""

    step: int
    positions: Tensor
    velocities: Tensor
    cells: Tensor
    now: Prediction
    squared: Tensor  # of near pairs, Å²
    noise_place: int
    margins: list[Tensor]  # of each evaluation, see VerletListForces.margins


class FrameBlock:
    """The steps of a run since its last look; :meth:`add` after every step."""

    def __init__(self, run: RunningBatch) -> None:
        self.run = run
        self.length = LONGEST
        self._begin()

    def add(self) -> None:
        """Take in the step that the run has made, and look at the block if it is complete."""
        run = self.run
        self.frames.append(self._frame(run.forces.near_pairs()[2]))
        looked = sum(self._is_looked_at(frame.step) for frame in self.frames)
        complete = len(self.frames) == self.length or looked == self._until_check
        if complete or run.done == run.settings.steps or run.noise.at_end:
            self._look()

    def keep(self, structures: Tensor, atoms: Tensor) -> None:
        """Drop structures; masks of shapes (B,) and (N,) of what stays."""
        pairs = structures[self.run.forces.near_pairs()[1]]
        for frame in self.frames:
            now = frame.now
            frame.positions, frame.velocities = frame.positions[atoms], frame.velocities[atoms]
            frame.cells, frame.squared = frame.cells[structures], frame.squared[pairs]
            frame.now = Prediction(now.energy[structures], now.forces[atoms], now.stress[structures])

    def _begin(self) -> None:
        """A new block, from the state as it is."""
        run = self.run
        self.frames: list[Frame] = []
        self._start = self._frame(torch.zeros(0))
        self._until_check = run.monitor.frames_to_check() or run.settings.limits.check_interval

    def _frame(self, squared: Tensor) -> Frame:
        run, state = self.run, self.run.state
        margins, run.forces.margins = run.forces.margins or [], []
        place = 0 if run.noise.at_end else run.noise.place  # the next step draws anew
        return Frame(run.done, state.positions, state.velocities, state.cells, run.now, squared, place, margins)

    def _load(self, frame: Frame) -> None:
        """Make a frame the state of the run; the noise stays where it is."""
        run, state = self.run, self.run.state
        state.positions, state.velocities, state.cells = frame.positions, frame.velocities, frame.cells
        run.now, run.done = frame.now, frame.step
        run.forces.set_near(frame.squared)

    def _is_looked_at(self, step: int) -> bool:
        settings = self.run.settings
        return step % settings.look_interval == 0 or step == settings.steps

    def _look(self) -> None:
        run, frames = self.run, self.frames
        temperature = run.state.temperatures_of(torch.stack([f.velocities for f in frames]))
        energy = torch.stack([f.now.energy for f in frames])
        looked = [k for k, f in enumerate(frames) if self._is_looked_at(f.step)]
        look = self._block_look(looked, temperature, energy) if looked else None
        traced = [k for k, f in enumerate(frames) if run.traces.due(f.step)]
        b = len(run.state)
        parts = [torch.stack([m for f in frames for m in f.margins])]
        parts += [] if look is None else [look.flags.double()]
        parts += [torch.stack([temperature[k], energy[k], run.state.volumes_of(frames[k].cells)]) for k in traced]
        parts += [frames[-1].positions, frames[-1].cells]
        host = torch.cat([x.flatten() for x in parts]).cpu().numpy()  # the one wait
        margins, host = np.split(host, [parts[0].numel()])
        margins = margins.reshape(len(frames), -1, b)
        long_enough = (margins <= 0).all((1, 2))  # a NaN is not
        if not long_enough.all():
            if look is not None:
                look.undo()
            self._go_back(int(np.argmin(long_enough)))
            return
        flags = np.zeros(1 + b, dtype=bool)
        if look is not None:
            flags, host = host[: 1 + b] > 0, host[1 + b :]
        traces, host = np.split(host, [3 * b * len(traced)])
        before = run.active
        if look is not None and flags[0]:
            look.undo()
            self._look_at_each()
        else:
            if look is not None:
                look.settle(flags[1:].tolist())
            for k, values in zip(traced, traces.reshape(-1, 3, b), strict=True):
                run.traces.add(frames[k].step, run.active, values)
            self._write()
        if len(run.state):
            counts, stay = run.counts_of(before), np.isin(before, run.active)
            positions, cells = np.split(host, [3 * int(counts.sum())])
            points = positions.reshape(-1, 3)[np.repeat(stay, counts)]
            self._plan(margins[:, :, stay], points, cells.reshape(-1, 3, 3)[stay])
        self._begin()

    def _block_look(self, looked: list[int], temperature: Tensor, energy: Tensor) -> BlockLook:
        frames = [self.frames[k] for k in looked]
        index, structure, _ = self.run.forces.near_pairs()
        together = Frames(
            steps=[f.step for f in frames],
            positions=torch.stack([f.positions for f in frames]),
            forces=torch.stack([f.now.forces for f in frames]),
            cells=[f.cells for f in frames],
            temperature=torch.stack([temperature[k] for k in looked]),
            energy=torch.stack([energy[k] for k in looked]),
            edge_index=index,
            edge_structure=structure,
            squared=torch.stack([f.squared for f in frames]),
        )
        return BlockLook(self.run.monitor, together)

    def _look_at_each(self) -> None:
        """Look at one frame after the other, as without blocks."""
        frames, self.frames = self.frames, []
        for k, frame in enumerate(frames):
            self._load(frame)
            self.frames = frames[k + 1 :]  # what ends now is dropped from these
            self.run.look()
            if not len(self.run.state):
                return

    def _write(self) -> None:
        run = self.run
        last = self.frames[-1]
        for frame in self.frames:
            written = run.writer is not None and run.writer.due(frame.step)
            sampled = run.sampler is not None and run.sampler.due(frame.step)
            if written or sampled:
                self._load(frame)
            if written:
                run.write(frame.step, range(len(run.active)))
            if sampled:
                run.sample(frame.step)
        if run.done != last.step:
            self._load(last)

    def _go_back(self, valid: int) -> None:
        """To the last of the frames whose lists were long enough; the next step watches them."""
        run = self.run
        self.frames = self.frames[:valid]
        last = self.frames[-1] if valid else self._start
        self._load(last)
        run.noise.place = last.noise_place
        if valid:
            self._look()
        if len(run.state):
            run.forces.margins = None
            run.careful_step()
        self._begin()

    def _plan(self, margins: np.ndarray, positions: np.ndarray, cells: np.ndarray) -> None:
        """Choose the length of the next block, and make lists anew that would not last for two blocks.

        ``margins`` (steps, evaluations, B) in Å, of the block that ends, in which all are negative or zero.
        """
        forces = self.run.forces
        largest = 2 * margins.max(1)
        first = largest[0] if len(largest) > 1 else -forces.skin  # of one step at most what moved since the list
        growth = np.maximum((largest[-1] - first) / max(len(largest) - 1, 1), 1e-12)
        lasting = SURE * -largest[-1] / growth
        if lasting.min() < LONGEST:
            due = lasting < 2 * LONGEST
            try:
                forces.rebuild(self.run.state, positions, cells, due)
            except StructureError:  # not before a step that needs it
                due[:] = False
            lasting = np.where(due, SURE * forces.skin / growth, lasting)
        self.length = int(np.clip(lasting.min(), 1, LONGEST))
