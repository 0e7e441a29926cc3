"""The ASE engine: ASE's integrators, any ASE calculator, one structure at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.md.langevin import Langevin
from ase.md.nptberendsen import NPTBerendsen
from ase.md.verlet import VelocityVerlet

from mdl_physpretrain.dynamics.integrators import cell_scale
from mdl_physpretrain.dynamics.records import RunRecord
from mdl_physpretrain.dynamics.remembered import RememberingCalculator
from mdl_physpretrain.dynamics.sampled_frames import FrameSampler
from mdl_physpretrain.dynamics.settings import MDSettings
from mdl_physpretrain.dynamics.traces import Traces, TrajectoryWriter
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.potentials.results import CheckedCalculator
from mdl_physpretrain.stability.monitor import BROKEN_NAN, BROKEN_RUNAWAY, OK, Monitor

__all__ = ["run_ase"]


class Runaway(Exception):
    """The barostat took the cell out of bounds."""


class BoundedNPTBerendsen(NPTBerendsen):
    """ASE's NPTBerendsen that refuses to evaluate an absurd cell.

    A wild stress can shrink a cell a hundredfold or turn it inside out in one
    step; the neighbour list of that would not fit into memory.
    """

    def __init__(self, *args: Any, volume_change: float, evaluations: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.volume_change, self.evaluations = volume_change, evaluations
        self.first_det = float(np.linalg.det(self.atoms.cell.array))

    def step(self, forces: np.ndarray | None = None) -> np.ndarray:
        """One step, from the forces at the end of the one before where one evaluation is to do."""
        if self.evaluations == 1 and forces is None:
            forces = self.atoms.get_forces(md=True)  # stored since the last step
        return super().step(forces)

    def scale_positions_and_cell(self) -> None:
        super().scale_positions_and_cell()
        _check_volume(self.atoms, self.first_det, self.volume_change)


class CellRescaling(Langevin):
    """Stochastic cell rescaling before a step of ASE's Langevin, see ``integrators.CellRescalingStep``."""

    def __init__(self, atoms: Atoms, settings: MDSettings, rng: np.random.Generator) -> None:
        super().__init__(atoms, **_langevin_options(settings, rng))
        self.settings = settings
        self.first_det = float(np.linalg.det(atoms.cell.array))

    def step(self, forces: np.ndarray | None = None) -> np.ndarray:
        """One step of cell and atoms."""
        atoms, settings = self.atoms, self.settings
        stored = atoms.get_forces(md=True)
        noise = float(self.rng.standard_normal())
        volume, masses = float(atoms.get_volume()), atoms.get_masses()[:, None]
        twice_kinetic = float((masses * atoms.get_velocities() ** 2).sum())
        pressure = (twice_kinetic / volume - atoms.get_stress(voigt=True)[:3].sum()) / 3
        scale = cell_scale(
            volume,
            pressure,
            noise,
            target=settings.pressure,
            rate=settings.compressibility * settings.dt / (2 * settings.taup * units.fs),
            kt=units.kB * settings.temperature,
        )
        velocities = atoms.get_velocities() / scale
        atoms.set_cell(atoms.cell.array * scale, scale_atoms=True)
        atoms.set_velocities(velocities)
        _check_volume(atoms, self.first_det, settings.limits.volume_bound)
        return super().step(stored if settings.npt_evaluations == 1 else None)


def _langevin_options(settings: MDSettings, rng: np.random.Generator) -> dict[str, Any]:
    return {
        "timestep": settings.dt,
        "temperature_K": settings.temperature,
        "friction": settings.friction / units.fs,
        "fixcm": False,
        "rng": rng,
    }


def _check_volume(atoms: Atoms, first_det: float, most: float) -> None:
    """Stop where the cell is out of bounds, or turned inside out."""
    if not 1 / most < float(np.linalg.det(atoms.cell.array)) / first_det < most:
        raise Runaway


def run_ase(
    calculator: Any,
    atoms: Atoms,
    generator: np.random.Generator,
    settings: MDSettings,
    *,
    writer: TrajectoryWriter | None,
    finished: Callable[[RunRecord], None],
    step_done: Callable[[], object] = lambda: None,
    sampler: FrameSampler | None = None,
    memory: Path | None = None,
) -> None:
    """Simulate one structure.

    Parameters
    ----------
    calculator
        ASE calculator.
    atoms
        With the velocities it starts from, and an id; changed in place.
    generator
        Random numbers of the structure.
    settings
        Options.
    writer
        Of trajectory files.
    finished
        Called with the record.
    step_done
        Called after every step.
    sampler
        Of the frames that the record keeps.
    memory
        File of what the calculator gave, with which an interrupted trajectory
        goes on; who has stored the record removes it.

    Raises
    ------
    StructureError
        If the calculator fails on a structure that is in order.
    ConfigError
        If NPT is asked of a calculator without stress.
    """
    checked = CheckedCalculator(calculator)
    if memory is not None:
        checked = RememberingCalculator(calculator, memory, len(atoms))
    try:
        _run(checked, atoms, generator, settings, writer, finished, step_done, sampler)
    finally:
        if isinstance(checked, RememberingCalculator):
            checked.close()


def _run(
    calculator: CheckedCalculator,
    atoms: Atoms,
    generator: np.random.Generator,
    settings: MDSettings,
    writer: TrajectoryWriter | None,
    finished: Callable[[RunRecord], None],
    step_done: Callable[[], object],
    sampler: FrameSampler | None,
) -> None:
    name = atoms.info["structure_id"]
    monitor = Monitor([atoms], limits=settings.limits, temperature=settings.temperature, stop_on=settings.stop_on)
    traces = Traces(1, settings)
    last = atoms.copy()  # the last frame that could be evaluated
    atoms.calc = calculator
    step = 0
    try:
        atoms.get_potential_energy()
        atoms.get_forces()
        if settings.ensemble == "npt":
            atoms.get_stress()
    except PropertyNotImplementedError as error:
        raise ConfigError(
            f"the calculator {type(calculator.calculator).__name__} lacks what MD needs: {error}"
        ) from error
    except Exception as error:
        raise StructureError(f"the calculator failed: {error}", structure=name) from error
    dynamics = _integrator(atoms, generator, settings)
    with np.errstate(all="ignore"):  # an exploding trajectory overflows; the monitor sees it
        while not _look(atoms, last, step, settings, monitor, traces, writer):
            if sampler is not None and sampler.due(step):
                sampler.add(step, name, atoms.positions, atoms.cell.array)
            if step == settings.steps:
                break
            step += 1
            try:
                dynamics.step()
            except Exception as error:
                code = _why_broken(atoms, error)
                if code == OK:
                    raise StructureError(f"the calculator failed at step {step}: {error}", structure=name) from error
                _observe(last, step, monitor, temperature=0.0, energy=None, broken=torch.tensor([code]))
                break
            step_done()
    verdict = monitor.finish()[0]
    assert verdict is not None
    finished(
        RunRecord.of_last_frame(
            last,
            structure_id=name,
            steps_done=step,
            steps=settings.steps,
            verdict=verdict,
            traces=traces.of(0),
            degrees_of_freedom=int(atoms.get_number_of_degrees_of_freedom()),
            frames=None if sampler is None else sampler.take(name),
        )
    )


def _integrator(atoms: Atoms, generator: np.random.Generator, settings: MDSettings) -> Any:
    if settings.ensemble == "nvt":
        return Langevin(atoms, **_langevin_options(settings, generator))
    if settings.ensemble == "nve":
        return VelocityVerlet(atoms, settings.dt)
    if settings.barostat == "cell_rescaling":
        return CellRescaling(atoms, settings, generator)
    return BoundedNPTBerendsen(
        atoms,
        settings.dt,
        temperature_K=settings.temperature,
        pressure_au=settings.pressure,
        taut=settings.taut * units.fs,
        taup=settings.taup * units.fs,
        compressibility_au=settings.compressibility,
        volume_change=settings.limits.volume_bound,
        evaluations=settings.npt_evaluations,
    )


def _look(
    atoms: Atoms,
    last: Atoms,
    step: int,
    settings: MDSettings,
    monitor: Monitor,
    traces: Traces,
    writer: TrajectoryWriter | None,
) -> bool:
    """Monitor, trace and write one frame; True when the trajectory ends."""
    velocities = atoms.get_velocities()
    # NaN forces reach the velocities in the same step: looked at always, the next step might hang on them
    finite = bool(np.isfinite(velocities).all() and np.isfinite(atoms.positions).all())
    observed = step % settings.look_interval == 0 or step == settings.steps or not finite
    traced, written = traces.due(step), writer is not None and writer.due(step)
    if finite:
        last.set_positions(atoms.positions, apply_constraint=False)
        last.set_cell(atoms.cell, apply_constraint=False)
        last.set_velocities(velocities)
    if not (observed or traced or written):
        return False
    temperature, energy = float(atoms.get_temperature()), float(atoms.get_potential_energy())
    forces = atoms.get_forces(apply_constraint=False) if observed else None
    stop = observed and _observe(atoms, step, monitor, temperature=temperature, energy=energy, forces=forces)
    if traced:
        volume = abs(float(np.linalg.det(atoms.cell.array)))
        traces.add(step, np.array([0]), np.array([[temperature], [energy], [volume]]))
    if writer is not None and (written or stop) and finite:
        writer.write(atoms, atoms.info["structure_id"], step, energy, atoms.get_forces())
    return stop


def _observe(
    atoms: Atoms,
    step: int,
    monitor: Monitor,
    *,
    temperature: float,
    energy: float | None,
    forces: np.ndarray | None = None,
    broken: torch.Tensor | None = None,
) -> bool:
    edge_index, edge_structure, edge_squared, code = monitor.short_pairs(atoms)
    if broken is None and code != OK:
        broken = torch.tensor([code])
    stop = monitor.observe(
        step,
        torch.as_tensor(atoms.positions.copy()),
        torch.as_tensor(atoms.cell.array.copy()[None]),
        edge_index=edge_index,
        edge_structure=edge_structure,
        edge_squared=edge_squared,
        temperature=torch.tensor([temperature], dtype=torch.float64),
        energy=None if energy is None else torch.tensor([energy], dtype=torch.float64),
        forces=None if forces is None else torch.as_tensor(np.array(forces, dtype=np.float64)),
        broken=broken,
    )
    return stop is not None


def _why_broken(atoms: Atoms, error: Exception) -> int:
    if isinstance(error, Runaway):
        return BROKEN_RUNAWAY
    if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
        return BROKEN_NAN
    return BROKEN_RUNAWAY if np.abs(atoms.positions).max() > 1e6 else OK
