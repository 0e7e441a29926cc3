"""``simulate``: MD of many structures, watched while it runs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from ase import Atoms

from mdl_physpretrain.dynamics.batched_engine import split_batches
from mdl_physpretrain.dynamics.checkpoint import MDCheckpoint
from mdl_physpretrain.dynamics.execution import Simulation, TrajectoryFiles, run_by_workers, run_here
from mdl_physpretrain.dynamics.records import Runs
from mdl_physpretrain.dynamics.settings import TRAJECTORY_FORMATS, WATER_COMPRESSIBILITY, MDSettings
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.identity import is_calculator, potential_fingerprint
from mdl_physpretrain.recipe import MD
from mdl_physpretrain.stability.limits import Limits
from mdl_physpretrain.stability.monitor import STOPS

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ase.calculators.calculator import BaseCalculator

__all__ = ["check_trained_elements", "prepared_structures", "simulate"]

MAX_SKIN = 20.0  # Å
ENGINES = ("auto", "ase", "batched")
BATCH_ATOMS = {"cpu": 512, "cuda": 16384}


def simulate(
    potential: EnergyModel | BaseCalculator | Callable[[], BaseCalculator],
    structures: Sequence[Atoms],
    *,
    ensemble: str = MD.ensemble,
    temperature: float = MD.temperature,
    timestep: float = MD.timestep,
    steps: int = MD.steps,
    friction: float = MD.friction,
    pressure: float = MD.pressure,
    barostat: str = MD.barostat,
    taut: float = MD.taut,
    taup: float = MD.taup,
    compressibility: float = WATER_COMPRESSIBILITY,
    npt_evaluations: int = MD.npt_evaluations,
    initial_velocities: str = "maxwell",
    seed: int = 0,
    engine: str = MD.engine,
    stop_on: Sequence[str] = STOPS,
    limits: Limits | None = None,
    interval: int = MD.interval,
    trace_interval: int = MD.trace_interval,
    trajectory_dir: str | Path | None = None,
    trajectory_interval: int = 100,
    trajectory_format: str = "extxyz",
    skin: float = MD.skin,
    compiled: bool | None = MD.compiled,
    max_batch_atoms: int | None = None,
    n_frames: int = 0,
    checkpoint: str | Path | None = None,
    executor: Executor | None = None,
    progress: bool = False,
) -> Runs:
    """Run MD of every structure and record whether it stays physical.

    A structure's trajectory depends on the seed and its id only (to rounding
    error): not on what else is simulated, nor on the engine.

    Parameters
    ----------
    potential
        An :class:`EnergyModel` (both engines), an ASE calculator, or a
        function that makes one (called once per structure).
    structures
        With unique ``info["structure_id"]``; where it is missing, formula and
        index are taken. They are not changed.
    ensemble
        ``"nvt"`` (Langevin), ``"npt"`` (see ``barostat``; needs 3D-periodic
        cells) or ``"nve"`` (velocity Verlet).
    temperature
        K; in NVE of the initial velocities only.
    timestep
        fs.
    steps
        Number of MD steps.
    friction
        Langevin, 1/fs.
    pressure
        eV/Å³ (1 GPa = 0.00624).
    barostat
        ``"berendsen"``, with Berendsen's thermostat: averages are right,
        fluctuations are damped. ``"cell_rescaling"``, with Langevin's
        thermostat: samples the isothermal-isobaric ensemble, see
        :class:`mdl_physpretrain.dynamics.integrators.CellRescalingStep`.
    taut, taup
        Time constants of Berendsen's thermostat and of the barostat, fs.
    compressibility
        Of the barostat, Å³/eV; default: that of water, 4.57e-5/bar, as is
        customary. Stiffer materials follow the pressure faster than ``taup``.
    npt_evaluations
        Of the potential per NPT step, see
        :class:`mdl_physpretrain.dynamics.integrators.NPTBerendsenStep`.
    initial_velocities
        ``"maxwell"``: Maxwell-Boltzmann, centre of mass at rest; ``"keep"``:
        the structures' own (at rest without).
    seed
        Of velocities and noise.
    engine
        ``"ase"``, ``"batched"`` (EnergyModel only) or ``"auto"``: batched
        where possible.
    stop_on
        Events that end a trajectory: ``"overlap"``, ``"nan"``, ``"explosion"``.
        One that becomes NaN or leaves all bounds ends in any case.
    limits
        Thresholds of what is physical.
    interval
        Steps between two looks at overlap and Lindemann.
    trace_interval
        Steps between two points of the temperature and energy traces.
    trajectory_dir, trajectory_interval, trajectory_format
        Write ``<structure_id>.extxyz`` (or ``"traj"``) files, every so many
        steps and at the frame that ended a trajectory.
    skin
        Of the batched engine's Verlet lists, Å.
    compiled
        Networks of the batched engine by PyTorch's compiler, with far fewer launches, where it can; ``None``: on a
        GPU, if there are at least 1,000 steps. The first use of a network takes a minute. On a CPU, networks with
        machine code keep to that.
    max_batch_atoms
        Atoms in one batch; default 512 on a CPU, 16384 on a GPU.
    n_frames
        So many frames of every trajectory stay in its record, evenly spaced
        from its start to its end (at least half as many); 0: the last one only.
    checkpoint
        File to which finished structures are written (after each batch, or
        every half minute). When it exists, structures in it are not run again,
        but for those of a batch that was interrupted; one written with other
        options, another potential or other structures
        of the same id is refused.
    executor
        Workers that share the batches (with engine ``"ase"``, the
        structures): any ``concurrent.futures.Executor``
        (:class:`mdl_physpretrain.executors.Processes`, Dask's
        ``client.get_executor()``, ...). The result is that of one process with
        one thread on the same kind of machine, bit for bit; a smaller
        ``max_batch_atoms`` gives more workers something to do. A batch whose
        worker died starts again. The potential travels as checkpoint or by
        name; a calculator that cannot be pickled has to be made by a function
        of a module. ``trajectory_dir`` must be a folder that all machines share.
    progress
        Show a progress bar.

    Returns
    -------
    Runs
        One record per structure, in order.

    Raises
    ------
    ConfigError
        If an option is out of range, or does not fit the potential or the
        structures; or the potential cannot be sent to another process.
    StructureError
        If a structure cannot be simulated: unknown element, NaN, two atoms at
        one place, impossible cell, duplicate id.
    CheckpointError
        If ``checkpoint`` is damaged or belongs to another simulation.
    """
    settings = MDSettings(
        ensemble=ensemble,
        temperature=temperature,
        timestep=timestep,
        steps=steps,
        friction=friction,
        pressure=pressure,
        barostat=barostat,
        taut=taut,
        taup=taup,
        compressibility=compressibility,
        npt_evaluations=npt_evaluations,
        seed=seed,
        initial_velocities=initial_velocities,
        stop_on=tuple(stop_on),
        interval=interval,
        trace_interval=trace_interval,
        limits=limits or Limits(),
    )
    for doubt in settings.doubts():
        warnings.warn(doubt, stacklevel=2)
    structures = prepared_structures(structures, settings)
    engine = _choose_engine(engine, potential, structures)
    if not 0 <= skin <= MAX_SKIN:
        raise ConfigError(f"skin must lie in [0, {MAX_SKIN:g}] Å, not {skin}")
    if compiled not in (None, True, False):
        raise ConfigError(f"compiled must be true, false or null, not {compiled!r}")
    if trajectory_format not in TRAJECTORY_FORMATS:
        raise ConfigError(
            f"trajectory_format must be one of {', '.join(TRAJECTORY_FORMATS)}, not {trajectory_format!r}"
        )
    for name, value in (("trajectory_interval", trajectory_interval), ("max_batch_atoms", max_batch_atoms)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1, not {value}")
    if isinstance(potential, EnergyModel):
        check_trained_elements(potential, structures)

    saved = MDCheckpoint(checkpoint, settings, potential_fingerprint(potential), structures)
    files = None
    if trajectory_dir is not None:
        files = TrajectoryFiles(Path(trajectory_dir).resolve(), trajectory_interval, trajectory_format, timestep)
    if not n_frames >= 0:
        raise ConfigError(f"n_frames must not be negative, not {n_frames}")
    simulation = Simulation(settings, engine, skin, files, n_frames, compiled)
    batches = [[k] for k in range(len(structures))]
    if engine == "batched":
        assert isinstance(potential, EnergyModel)
        limit = max_batch_atoms or BATCH_ATOMS.get(potential.device.type, BATCH_ATOMS["cuda"])
        batches = split_batches(structures, limit)
    # a batch that was interrupted is done again as a whole: batches of other structures round differently
    todo = [batch for batch in batches if any(saved.order[k] not in saved.done for k in batch)]
    try:
        if executor is None:
            run_here(simulation, potential, todo, structures, saved, progress)
        else:
            run_by_workers(simulation, potential, todo, structures, saved, progress, executor)
    finally:
        saved.save()
    return saved.runs()


def prepared_structures(structures: Sequence[Atoms], settings: MDSettings) -> list[Atoms]:
    """Copies with ids, of which MD can start.

    Raises
    ------
    ConfigError, StructureError
        See :func:`simulate`.
    """
    if isinstance(structures, Atoms):
        structures = [structures]
    prepared = []
    identifiers: set[str] = set()
    for index, original in enumerate(structures):
        if not isinstance(original, Atoms):
            raise StructureError(f"not an ase.Atoms but {type(original).__name__}", structure=index)
        atoms = original.copy()
        atoms.info = {"structure_id": str(original.info.get("structure_id", f"{atoms.symbols}-{index}"))}
        name = atoms.info["structure_id"]
        if name in identifiers:
            raise StructureError("the id occurs twice", structure=name, field="structure_id")
        identifiers.add(name)
        if not len(atoms):
            raise StructureError("has no atoms", structure=name)
        if not np.isfinite(atoms.positions).all():
            raise StructureError("NaN or infinite value", structure=name, field="positions")
        if not np.isfinite(atoms.cell.array).all():
            raise StructureError("NaN or infinite value", structure=name, field="cell")
        if not (atoms.get_masses() > 0).all():
            raise StructureError("an atom without mass cannot move", structure=name, field="masses")
        if settings.initial_velocities == "keep" and not np.isfinite(atoms.get_velocities()).all():
            raise StructureError("NaN or infinite value", structure=name, field="velocities")
        _refuse_uncounted(atoms)
        if settings.ensemble == "npt" and not (atoms.pbc.all() and atoms.cell.volume > 1e-6):
            raise ConfigError(
                f"ensemble 'npt' needs a cell that is periodic in three directions; structure {name} is periodic in "
                f"{int(atoms.pbc.sum())}: use 'nvt'"
            )
        prepared.append(atoms)
    if not prepared:
        raise ConfigError("no structures to simulate")
    return prepared


def _refuse_uncounted(atoms: Atoms) -> None:
    """Refuse constraints of which ASE does not know how many degrees of freedom they take (FixSymmetry)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            atoms.get_number_of_degrees_of_freedom()
    except Exception as error:
        kinds = ", ".join(sorted({type(c).__name__ for c in atoms.constraints}))
        raise ConfigError(
            f"structure {atoms.info['structure_id']} has constraints ({kinds}) whose degrees of freedom ASE does not "
            "count, which a temperature needs: remove them"
        ) from error


def _choose_engine(engine: str, potential: object, structures: Sequence[Atoms]) -> str:
    if engine not in ENGINES:
        raise ConfigError(f"engine must be one of {', '.join(ENGINES)}, not {engine!r}")
    if not (isinstance(potential, EnergyModel) or is_calculator(potential) or callable(potential)):
        raise ConfigError(
            "the potential must be an EnergyModel, an ASE calculator or a function that makes one, "
            f"not {type(potential).__name__}"
        )
    constrained = next((a.info["structure_id"] for a in structures if a.constraints), None)
    if engine == "batched":
        if not isinstance(potential, EnergyModel):
            raise ConfigError("engine 'batched' needs an EnergyModel; use engine 'ase' for calculators")
        if constrained is not None:
            raise ConfigError(f"structure {constrained} has constraints, which only engine 'ase' honours")
    if engine == "auto":
        return "batched" if isinstance(potential, EnergyModel) and constrained is None else "ase"
    return engine


def check_trained_elements(model: EnergyModel, structures: Sequence[Atoms]) -> None:
    """Models whose metadata say which elements they have seen must not meet others.

    Raises
    ------
    StructureError
        Naming the structure and the elements.
    """
    for atoms in structures:
        unknown = model.untrained_elements(atoms.symbols)
        if unknown:
            raise StructureError(
                f"the model was not trained on {', '.join(unknown)} (it knows {', '.join(model.metadata['elements'])})",
                structure=atoms.info["structure_id"],
                field="numbers",
            )
