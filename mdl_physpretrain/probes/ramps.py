"""Probes of ramps: molecular dynamics that is heated, or pressed, until the potential fails."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd
from ase import Atoms, units
from pydantic import Field

from mdl_physpretrain.dynamics.records import RunRecord
from mdl_physpretrain.dynamics.simulate import simulate
from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.option_types import Positive, Section
from mdl_physpretrain.probes.base import Answer, Probe, Subject, Tables
from mdl_physpretrain.probes.page import (
    DASH,
    Figure,
    PagePart,
    Panel,
    Styles,
    arm_legend,
    by_arm,
    number_table,
)
from mdl_physpretrain.probes.single_points import Potential
from mdl_physpretrain.stability.limits import Limits
from mdl_physpretrain.structures.labels import structure_id

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Heating", "PressureRamp", "ramp"]

COLD, HOT = 300.0, 3000.0  # K
HIGHEST_PRESSURE = 500.0  # GPa
LENGTH = 10.0  # ps
STAIRS = 100
TAUP, COMPRESSIBILITY = 100.0, 1 / (100 * units.GPa)  # fs; of a solid: a barostat for water would not be stable
FAILURES = ("overlap", "nan", "explosion")  # a melt is no failure at 3000 K


def ramp(
    potential: Potential,
    structures: Sequence[Atoms],
    *,
    length: float = LENGTH,
    timestep: float = 1.0,
    temperature: tuple[float, float] = (COLD, HOT),
    pressure: tuple[float, float] | None = None,
    seed: int = 0,
    flag_failures: bool = False,
) -> pd.DataFrame:
    """Raise temperature, and pressure if one is given, in 100 equal stairs; note where a trajectory fails.

    Parameters
    ----------
    potential
        An :class:`EnergyModel`, an ASE calculator, or a function that makes one.
    structures
        With unique ``info["structure_id"]``.
    length
        ps.
    timestep
        fs.
    temperature
        First and last, K.
    pressure
        First and last, GPa: NPT (Berendsen). ``None``: NVT (Langevin) at the volume as it is.
    seed
        Of velocities and noise.
    flag_failures
        A structure on which the potential itself fails gets a row that says so, and its message is in
        ``attrs["errors"]``; the others go on.

    Returns
    -------
    DataFrame
        ``structure_id, failed, reason`` (overlap, NaN, explosion: the limits of
        :class:`~mdl_physpretrain.stability.limits.Limits` against the start of each stair; melting is no failure),
        ``time`` (ps, of the failure or the end), ``temperature`` (K) and ``pressure`` (GPa) of the thermostat and
        barostat then, ``volume_ratio`` (to the start; NaN without a
        volume).

    Raises
    ------
    StructureError
        If the potential fails on a structure, unless that is flagged.

    References
    ----------
    300 to 3000 K, and 0 to 500 GPa with the same temperatures, in 10 ps: Y. Chiang et al., "MLIP Arena",
    arXiv:2509.20630 (2025), package ``mlip-arena`` 0.2 (there with Nosé-Hoover chains and a linear ramp).
    """
    steps = max(1, round(length * 1000 / timestep / STAIRS))
    stairs = np.linspace(0.0, 1.0, STAIRS)
    current = {structure_id(atoms): atoms for atoms in structures}
    volumes = {name: atoms.cell.volume for name, atoms in current.items()}
    rows: dict[str, dict[str, Any]] = {}
    messages: dict[str, str] = {}
    for k, share in enumerate(stairs):
        kelvin = float(temperature[0] + share * (temperature[1] - temperature[0]))
        gigapascal = float(pressure[0] + share * (pressure[1] - pressure[0])) if pressure else float("nan")
        options: dict[str, Any] = {"ensemble": "nvt"}
        if pressure:
            options = {"ensemble": "npt", "pressure": gigapascal * units.GPa, "taut": 100.0}
            options |= {"taup": TAUP, "compressibility": COMPRESSIBILITY}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is unusual.*")
            run = partial(
                simulate, potential, temperature=kelvin, timestep=timestep, steps=steps, seed=seed + k,
                initial_velocities="keep" if k else "maxwell", trace_interval=steps, stop_on=FAILURES, limits=Limits(),
                **options,
            )  # fmt: skip
            runs, errors = _runs_and_errors(run, list(current.values()), flag_failures=flag_failures)
        for name, error in errors.items():
            messages[name] = str(error)
            rows[name] = {
                "structure_id": name,
                "failed": True,
                "reason": "the potential fails",
                "time": k * steps * timestep / 1000,
                "temperature": kelvin,
                "pressure": gigapascal,
                "volume_ratio": _volume_ratio(current.pop(name).cell.volume, volumes[name]),
            }
        for record in runs:
            row = record.verdict.row(Limits(), record.steps_done)
            failed = bool(row["overlap"] or row["nan"] or row["exploded"])
            reason = next((word for word in str(row["reason"]).split(", ") if word in FAILURES), "") if failed else ""
            rows[record.structure_id] = {
                "structure_id": record.structure_id,
                "failed": failed,
                "reason": reason,
                "time": (k * steps + record.steps_done) * timestep / 1000,
                "temperature": kelvin,
                "pressure": gigapascal,
                "volume_ratio": _volume_ratio(abs(np.linalg.det(record.cell)), volumes[record.structure_id]),
            }
            if failed:
                del current[record.structure_id]
            else:
                current[record.structure_id] = _continued(current[record.structure_id], record)
        if not current:
            break
    table = pd.DataFrame([rows[structure_id(atoms)] for atoms in structures])
    table.attrs["errors"] = messages
    return table


def _runs_and_errors(
    run: Callable[[list[Atoms]], Sequence[RunRecord]], structures: list[Atoms], *, flag_failures: bool
) -> tuple[list[RunRecord], dict[str, StructureError]]:
    """Records, and why a structure has none; if the potential fails on one of them, each is simulated alone."""
    try:
        return list(run(structures)), {}
    except StructureError as error:
        if not flag_failures:
            raise
        if len(structures) == 1:
            return [], {structure_id(structures[0]): error}
    runs: list[RunRecord] = []
    errors: dict[str, StructureError] = {}
    for atoms in structures:
        more, failed = _runs_and_errors(run, [atoms], flag_failures=True)
        runs += more
        errors |= failed
    return runs, errors


def _continued(atoms: Atoms, record: RunRecord) -> Atoms:
    """The last frame of a stair, with the constraints and masses of its start, which a record does not hold."""
    last = atoms.copy()
    last.set_cell(record.cell, apply_constraint=False)
    last.set_positions(record.positions, apply_constraint=False)
    last.set_velocities(record.velocities)
    return last


def _volume_ratio(volume: float, start: float) -> float:
    """NaN of molecules and slabs whose cell has no volume."""
    return float(volume / start) if start > 0 else float("nan")


class _Ramp(Probe):
    """What heating and pressing have in common."""

    applies_to = "potential"
    flags = ("failed",)
    numbers = ("time", "temperature", "pressure", "volume_ratio")
    column: ClassVar[str]  # what is raised
    unit: ClassVar[str]
    highest: ClassVar[float]
    count: ClassVar[str]  # name of the option
    words: ClassVar[str]

    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """Options of :func:`ramp`."""

    def is_applicable(self, available: frozenset[str]) -> bool:
        return getattr(self.options, self.count) > 0

    def tables(self, subject: Subject) -> dict[str, pd.DataFrame]:
        (kind,) = self.files
        structures = list(subject.first_split("test", "train"))
        if self.column == "pressure":
            structures = [atoms for atoms in structures if atoms.pbc.all()]
        chosen = subject.choose(structures, getattr(self.options, self.count))
        if not chosen:
            return {}
        table = ramp(subject.potential, chosen, flag_failures=subject.flag_failures, **self.settings())
        for message in table.attrs.pop("errors").values():
            warnings.warn(f"{subject.name}: {self.question}: {message}", stacklevel=2)
        return {kind: table}

    def answer(self, tables: Tables) -> Answer | None:
        table = tables.get(next(iter(self.files)))
        if table is None or not len(table):
            return None
        failed = table[table["failed"].astype(bool)]
        if not len(failed):
            return "yes", f"{len(table)} of {len(table)} reach {self.highest:g} {self.unit}"
        reasons = ", ".join(f"{reason} {n}" for reason, n in failed["reason"].value_counts().items())
        words = (
            f"{len(failed)} of {len(table)} fail, the first at {failed[self.column].min():.4g} {self.unit}: {reasons}"
        )
        return "no", words

    def page(self, tables: Tables, arms: Sequence[str], heading: str) -> PagePart | None:
        (kind,) = self.files
        table = tables.get(kind)
        if table is None or not len(table):
            return None
        rows = []
        for arm, group in by_arm(table, arms):
            failed = group[group["failed"].astype(bool)]
            reasons = failed["reason"].value_counts().items()
            rows.append(
                {
                    "arm": arm,
                    "trajectories": len(group),
                    "failed": len(failed),
                    "first": failed[self.column].min(),
                    "median": failed[self.column].median(),
                    "reasons": ", ".join(f"{r} {n}" for r, n in reasons) or DASH,
                }
            )
        summary = pd.DataFrame(rows)
        columns = {
            "trajectories": ("Trajectories", ""),
            "failed": ("Failed", ""),
            "first": ("First failure", self.unit),
            "median": ("Median failure", self.unit),
            "reasons": ("Why", ""),
        }
        return PagePart(
            figure=partial(self._figure, table, arms),
            caption=f"Share of trajectories that have not failed, over the {self.column}. {self.words}",
            curves=f"{kind}_each",
            table=number_table(summary, heading, columns, kind, text=("reasons",)),
            summary=summary,
            table_title=self.title,
            saved={f"{kind}_each": table},
        )

    def _figure(self, table: pd.DataFrame, arms: Sequence[str], styles: Styles) -> Figure:
        present = [arm for arm in arms if (table["arm"] == arm).any()]
        panel = Panel(self.title, partial(self._paint, table=table, arms=present, styles=styles))
        return Figure(self.title, [panel], arm_legend(present, styles), size=(7.0, 3.0), columns=1)

    def _paint(self, ax: Axes, table: pd.DataFrame, arms: Sequence[str], styles: Styles) -> None:
        for arm in arms:
            group = table[table["arm"] == arm]
            ends = np.sort(group.loc[group["failed"].astype(bool), self.column].to_numpy(float))
            x = [0.0 if self.column == "pressure" else COLD, *ends, self.highest]
            y = 100 * (1 - np.array([*range(len(ends) + 1), len(ends)]) / len(group))
            ax.step(x, y, where="post", color=styles[arm].colour, linestyle=styles[arm].line)
        ax.set(xlabel=f"{self.column} ({self.unit})", ylabel="not failed (%)", ylim=(-3, 103))


class Heating(_Ramp):
    """MD from 300 to 3000 K; the temperature at which a trajectory overlaps, explodes or becomes NaN."""

    name = "heating"
    question = "survives heating to 3000 K"
    files = {"heating": ("structure_id", "failed", "temperature")}  # noqa: RUF012
    title = "Heating ramp"
    answer_place, page_place = 14, 42
    column, unit, highest, count = "temperature", "K", HOT, "heating_structures"
    words = "300 to 3000 K in 10 ps by default (MLIP Arena, arXiv:2509.20630), NVT; melting is no failure."

    class Options(Section):
        """How many structures, how long."""

        heating_structures: int = Field(default=0, ge=0, description="Structures heated from 300 to 3000 K; 0: none.")
        heating_time: Positive = Field(default=LENGTH, description="Length of that ramp, ps.")

    def settings(self) -> Mapping[str, Any]:
        return {"length": self.options.heating_time}


class PressureRamp(_Ramp):
    """MD from 0 to 500 GPa; the pressure at which a trajectory overlaps, explodes or becomes NaN."""

    name = "pressure_ramp"
    question = "survives 500 GPa"
    files = {"pressure_ramp": ("structure_id", "failed", "pressure")}  # noqa: RUF012
    title = "Pressure ramp"
    answer_place, page_place = 16, 44
    column, unit, highest, count = "pressure", "GPa", HIGHEST_PRESSURE, "pressure_structures"
    words = (
        "0 to 500 GPa in 10 ps by default while it is heated from 300 to 3000 K (MLIP Arena, arXiv:2509.20630), NPT. "
        "At such pressures real atoms come closer, too; an overlap here means half the sum of the covalent radii."
    )

    class Options(Section):
        """How many structures, how long."""

        pressure_structures: int = Field(default=0, ge=0, description="Structures pressed from 0 to 500 GPa; 0: none.")
        pressure_time: Positive = Field(default=LENGTH, description="Length of that ramp, ps.")

    def settings(self) -> Mapping[str, Any]:
        return {"length": self.options.pressure_time, "pressure": (0.0, HIGHEST_PRESSURE)}
