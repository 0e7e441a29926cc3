"""Integrators for many structures at once.

The arithmetic is that of ASE's ``Langevin(fixcm=False)``, ``NPTBerendsen`` and
``VelocityVerlet``, and of the ASE engine's cell rescaling, order included, so that with the same random numbers
the trajectories agree to rounding. Units are ASE's: Å, eV, u, and the time unit they imply.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from ase import units
from torch import Tensor

from mdl_physpretrain.dynamics.settings import MDSettings
from mdl_physpretrain.dynamics.state import MDState, NoiseStream
from mdl_physpretrain.potentials.base import Prediction

__all__ = [
    "CellRescalingStep",
    "Integrator",
    "LangevinStep",
    "NPTBerendsenStep",
    "VelocityVerletStep",
    "cell_scale",
    "make_integrator",
]

Evaluate = Callable[[MDState], Prediction]
COLLAPSED = 1e-3  # least ratio of the roots of two volumes: a step that would turn a cell inside out ends there


class Integrator(Protocol):
    """One MD step: changes the state and returns the prediction at its end."""

    def step(self, state: MDState, now: Prediction, evaluate: Evaluate) -> Prediction:
        """Advance by one time step; ``now`` belongs to the state as it is."""


class LangevinStep:
    """NVT: Langevin dynamics, centre of mass free; temperature in K, friction and ``dt`` in ASE units.

    Equation 23 of E. Vanden-Eijnden and G. Ciccotti, Chem. Phys. Lett. 429, 310 (2006), as in ASE. The noise follows
    the state when structures are dropped.
    """

    def __init__(self, *, temperature: float, friction: float, dt: float, noise: NoiseStream) -> None:
        self.dt, self.noise = dt, noise
        self.temperature, self.friction = units.kB * temperature, friction
        self.c1 = dt / 2 - dt * dt * friction / 8
        self.c2 = dt * friction / 2 - dt * dt * friction * friction / 8
        self._masses = self._c3 = self._c5 = torch.zeros(0)  # what is computed from the masses, until they change

    def step(self, state: MDState, now: Prediction, evaluate: Evaluate) -> Prediction:
        xi, eta, _ = self.noise.draw()
        return self.move_atoms(state, now, evaluate, xi, eta)

    def move_atoms(self, state: MDState, now: Prediction, evaluate: Evaluate, xi: Tensor, eta: Tensor) -> Prediction:
        """The step, with the random numbers of its atoms (N, 3)."""
        dt, friction = self.dt, self.friction
        if state.masses is not self._masses:
            self._masses = state.masses
            sigma = torch.sqrt(2 * self.temperature * friction / state.masses)
            self._c3 = math.sqrt(dt) * sigma / 2 - dt**1.5 * friction * sigma / 8
            self._c5 = dt**1.5 * sigma / (2 * math.sqrt(3))
        random_position = self._c5 * eta
        random_velocity = self._c3 * xi - friction / 2 * random_position
        v = state.velocities
        v = v + (self.c1 * now.forces / state.masses - self.c2 * v + random_velocity)
        state.positions = state.positions + dt * v + random_position
        now = evaluate(state)
        state.velocities = v + (self.c1 * now.forces / state.masses - self.c2 * v + random_velocity)
        return now


class CellRescalingStep(LangevinStep):
    """NPT: stochastic cell rescaling, isotropic, with Langevin's thermostat; K, eV/Å³, Å³/eV, times in ASE units.

    M. Bernetti and G. Bussi, J. Chem. Phys. 153, 114107 (2020): one Euler step of the square
    root of the volume, whose noise does not depend on the volume; lengths are scaled with it, velocities by the
    inverse, and a Langevin step in the new cell follows. It samples the isothermal-isobaric ensemble, volume
    included; the cell keeps its shape. For a material of bulk modulus B the variance of the volume is too large by a
    factor of ``1 / (1 - a / 2)``, ``a = B * compressibility * dt / taup``: take a longer ``taup``, or a compressibility
    of about ``1 / B``. With one of ``evaluations`` the first half of the kick takes the forces of before the scaling,
    an error of first order in ``dt`` like that of the Euler step.
    """

    def __init__(
        self,
        *,
        temperature: float,
        friction: float,
        pressure: float,
        taup: float,
        compressibility: float,
        dt: float,
        noise: NoiseStream,
        evaluations: int = 2,
    ) -> None:
        super().__init__(temperature=temperature, friction=friction, dt=dt, noise=noise)
        self.pressure, self.evaluations = pressure, evaluations
        self.rate = compressibility * dt / (2 * taup)

    def step(self, state: MDState, now: Prediction, evaluate: Evaluate) -> Prediction:
        xi, eta, of_cells = self.noise.draw()
        volumes = torch.linalg.det(state.cells).abs()
        twice_kinetic = state.per_structure((state.masses * state.velocities.square()).sum(1))
        pressure = (twice_kinetic / volumes - now.stress.diagonal(dim1=1, dim2=2).sum(1)) / 3
        scale = cell_scale(volumes, pressure, of_cells, target=self.pressure, rate=self.rate, kt=self.temperature)
        state.cells = state.cells * scale.view(-1, 1, 1)
        each = state.per_atom(scale).unsqueeze(1)
        state.positions, state.velocities = state.positions * each, state.velocities / each
        if self.evaluations > 1:
            now = evaluate(state)
        return self.move_atoms(state, now, evaluate, xi, eta)


class VelocityVerletStep:
    """NVE: velocity Verlet; ``dt`` in ASE units."""

    def __init__(self, *, dt: float) -> None:
        self.dt = dt

    def step(self, state: MDState, now: Prediction, evaluate: Evaluate) -> Prediction:
        v = state.velocities + 0.5 * self.dt * now.forces / state.masses
        state.positions = state.positions + self.dt * v
        now = evaluate(state)
        state.velocities = v + 0.5 * self.dt * now.forces / state.masses
        return now


class NPTBerendsenStep:
    """NPT: Berendsen's weak coupling, isotropic, centre of mass held; K, eV/Å³, Å³/eV, times in ASE units.

    Each step scales velocities, then the cell with the atoms by the pressure (ideal-gas part included), then does a
    velocity-Verlet step in the new cell: two ``evaluations``, as in ASE. With one, the first half of the kick takes the
    forces of before the scaling (ASE's ``step(forces)``), which changes lengths by 1e-4 at most as a rule. H. J. C.
    Berendsen et al., J. Chem. Phys. 81, 3684 (1984). It is for getting to a temperature and a pressure; its
    fluctuations are not those of an ensemble (those of :class:`CellRescalingStep` are).
    """

    def __init__(
        self,
        *,
        temperature: float,
        pressure: float,
        taut: float,
        taup: float,
        compressibility: float,
        dt: float,
        evaluations: int = 2,
    ) -> None:
        self.temperature, self.pressure, self.dt, self.evaluations = temperature, pressure, dt, evaluations
        self.thermostat = dt / taut
        self.barostat = dt / taup * compressibility / 3

    def step(self, state: MDState, now: Prediction, evaluate: Evaluate) -> Prediction:
        # atoms at rest (0 K) get the upper limit, as in ASE, where 1/0 is infinite
        scale = (1 + (self.temperature / state.temperatures() - 1) * self.thermostat).sqrt().clamp(0.9, 1.1)
        momenta = state.masses * state.velocities * state.per_atom(scale).unsqueeze(1)
        self._scale_cell(state, momenta, now)
        if self.evaluations > 1:
            now = evaluate(state)
        momenta = momenta + 0.5 * self.dt * now.forces
        momenta = momenta - state.per_atom(state.per_structure(momenta) / state.n_atoms.unsqueeze(1))
        state.velocities = momenta / state.masses
        state.positions = state.positions + self.dt * state.velocities
        now = evaluate(state)
        state.velocities = (momenta + 0.5 * self.dt * now.forces) / state.masses
        return now

    def _scale_cell(self, state: MDState, momenta: Tensor, now: Prediction) -> None:
        volumes = torch.linalg.det(state.cells).abs()
        twice_kinetic = state.per_structure((momenta.square() / state.masses).sum(1))
        pressure = (twice_kinetic / volumes - now.stress.diagonal(dim1=1, dim2=2).sum(1)) / 3
        scale = 1 - self.barostat * (self.pressure - pressure)
        state.cells = state.cells * scale.view(-1, 1, 1)
        state.positions = state.positions * state.per_atom(scale).unsqueeze(1)


def cell_scale(volumes: Any, pressure: Any, noise: Any, *, target: float, rate: float, kt: float) -> Any:
    """Factor of all lengths in a step of stochastic cell rescaling, see :class:`CellRescalingStep`.

    Parameters
    ----------
    volumes, pressure, noise
        Å³, eV/Å³ and a normal random number of every structure: tensors (B,) or numbers.
    target
        Pressure that is asked for, eV/Å³.
    rate
        Compressibility times the time step over twice the time constant, Å³/eV.
    kt
        Temperature, eV.
    """
    root = volumes**0.5
    change = -rate * root * (target - pressure - kt / (2 * volumes)) + math.sqrt(kt * rate) * noise
    ratio = 1 + change / root
    return (ratio.clamp(min=COLLAPSED) if isinstance(ratio, Tensor) else max(ratio, COLLAPSED)) ** (2 / 3)


def make_integrator(settings: MDSettings, noise: NoiseStream) -> Integrator:
    """The integrator of an ensemble, options converted to ASE units."""
    if settings.ensemble == "nvt":
        friction = settings.friction / units.fs
        return LangevinStep(temperature=settings.temperature, friction=friction, dt=settings.dt, noise=noise)
    if settings.ensemble == "nve":
        return VelocityVerletStep(dt=settings.dt)
    if settings.barostat == "cell_rescaling":
        return CellRescalingStep(
            temperature=settings.temperature,
            friction=settings.friction / units.fs,
            pressure=settings.pressure,
            taup=settings.taup * units.fs,
            compressibility=settings.compressibility,
            dt=settings.dt,
            noise=noise,
            evaluations=settings.npt_evaluations,
        )
    return NPTBerendsenStep(
        temperature=settings.temperature,
        pressure=settings.pressure,
        taut=settings.taut * units.fs,
        taup=settings.taup * units.fs,
        compressibility=settings.compressibility,
        dt=settings.dt,
        evaluations=settings.npt_evaluations,
    )
