"""Options of the molecular dynamics and of the other probes of a finished potential."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from mdl_physpretrain.dynamics.settings import MDSettings, simulation_options
from mdl_physpretrain.option_types import Count, LindemannVariant, NotNegative, Positive, Section, Sources
from mdl_physpretrain.potentials.factories import FACTORY
from mdl_physpretrain.probes.registry import option_fields
from mdl_physpretrain.recipe import CHECK, MolecularDynamics

__all__ = ["MD", "Condition", "Probe", "Simulation"]

DRIFT_POINTS = 10  # of the energy traces, as mdl_physpretrain.probes.energy_drift asks


class Condition(Section):
    """A further MD of the same structures: what it does otherwise than ``md`` says."""

    ensemble: Literal["nvt", "npt", "nve"] | None = Field(default=None, description="Instead of md.ensemble.")
    temperature: NotNegative | None = Field(default=None, description="Instead of md.temperature, K.")
    timestep: Positive | None = Field(default=None, description="Instead of md.timestep, fs.")
    steps: Count | None = Field(default=None, description="Instead of md.steps.")
    pressure: float | None = Field(default=None, allow_inf_nan=False, description="Instead of md.pressure, eV/Å³.")
    n_structures: Count | None = Field(default=None, description="Instead of md.n_structures.")
    lindemann_variant: LindemannVariant | None = Field(
        default=None, description="Instead of md.lindemann_variant: 'liquid' where the structures are to melt."
    )

    def changes(self) -> dict[str, Any]:
        """The options that are given."""
        return {name: value for name, value in self if value is not None}


class Simulation(MolecularDynamics):
    """One molecular dynamics of finished potentials."""

    def settings(self) -> MDSettings:
        """What decides a trajectory, with a seed of 0.

        Raises
        ------
        ConfigError
            If the integrator cannot do that.
        """
        options = self.simulation(Path())
        return MDSettings(**{f.name: options[f.name] for f in fields(MDSettings) if f.name in options})

    def simulation(self, trajectories: Path) -> dict[str, Any]:
        """Keyword arguments of :func:`mdl_physpretrain.dynamics.simulate`, but for seed and progress.

        Parameters
        ----------
        trajectories
            Folder of the frames, if any are to be written.
        """
        return simulation_options(self, trajectories)


class MD(Simulation):
    """Molecular dynamics of the finished potentials, under one or several conditions."""

    also: list[Condition] = Field(
        default=[], description="Further simulations of the same structures, e.g. [{ensemble: npt, temperature: 750}]."
    )
    reference: Sources | None = Field(
        default=None,
        description="Reference trajectories (DFT MD, one file per structure id or frames with that id) for RDFs.",
    )
    r_max: Positive = Field(default=CHECK.r_max, description="Of the RDFs of trajectories on disk, Å.")
    reference_potential: str | None = Field(
        default=None,
        min_length=1,
        description="'module:factory' of an ASE calculator, or a checkpoint (.pt), whose MD from the same starts says "
        "what a potential can keep; all networks then have the velocities and noise of the first seed.",
    )
    reference_potential_args: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments of the factory."
    )
    reference_structures: Count | None = Field(
        default=None, description="Only the first so many starts; what is said beside it is about these alone."
    )

    @model_validator(mode="after")
    def _distinct(self) -> MD:
        if len(self.conditions()) <= len(self.also):
            raise ValueError(
                "two entries of 'also', or one of them and 'md' itself, have the same ensemble and temperature"
            )
        without = [c for c in self.conditions().values() if c.ensemble == "nve"]
        if len(without) > 1:
            raise ValueError("only one of the simulations can be 'nve': its energy drift is one table")
        for condition in without:
            if condition.steps // condition.trace_interval + 1 < DRIFT_POINTS:
                raise ValueError(
                    f"energy drift in 'nve' needs {DRIFT_POINTS} points: more steps or a smaller trace_interval"
                )
        if self.reference is not None and self.trajectory_interval is None:
            raise ValueError("'reference' compares RDFs of trajectories: set 'trajectory_interval'")
        if self.reference_potential is None:
            for name in ("reference_potential_args", "reference_structures"):
                if getattr(self, name):
                    raise ValueError(f"'{name}' is about 'reference_potential', which is not given")
        elif self.reference_potential_args and not FACTORY.fullmatch(self.reference_potential):
            raise ValueError("'reference_potential_args' are those of a 'module:factory'")
        return self

    def conditions(self) -> dict[str, MD]:
        """Every simulation that is asked for, by its label.

        The label, such as ``"npt-750K"``, is empty for the first: files of the
        others are ``<arm>@<label>``.
        """
        by_label = {"": self}
        kinds = {(self.ensemble, self.temperature)}
        for condition in self.also:
            changed = self.model_copy(update={**condition.changes(), "also": []})
            kind = (changed.ensemble, changed.temperature)
            if kind not in kinds:
                by_label[f"{changed.ensemble}-{changed.temperature:g}K"] = changed
            kinds.add(kind)
        return by_label


_PROBE_OPTIONS: Any = option_fields(without=MD.model_fields)


class Probe(_PROBE_OPTIONS):
    """What a finished potential is asked besides MD: the options of all probes."""
