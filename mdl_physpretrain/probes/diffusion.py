"""Probe of diffusion: mean squared displacement and self-diffusion coefficients of trajectories."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from ase import Atoms
from ase.data import atomic_numbers
from pydantic import Field

from mdl_physpretrain.dynamics.traces import trajectory_name
from mdl_physpretrain.dynamics.trajectories import Unwrapper, trajectory_frames
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.option_types import Count, Section
from mdl_physpretrain.probes.base import Answer, Probe, Simulated, Tables
from mdl_physpretrain.probes.page import (
    ALL,
    DASH,
    Cell,
    Column,
    Figure,
    HtmlTable,
    PagePart,
    Styles,
    by_arm,
    number,
    panels_by,
    plural,
    seed_lines,
    significant,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Diffusion", "diffusion_coefficients", "mean_squared_displacement"]

MIN_FRAMES = 8  # of a block: with fewer there is no line to fit
CM2_PER_S = 1e-4  # of one Å²/ps
WANDERING = 0.5  # exponent of the time below which atoms only rattle; 1 is diffusion, 2 free flight


def mean_squared_displacement(
    frames: Sequence[Atoms], *, interval: float, blocks: int = 1, wrapped: bool = False, fix_centre: bool = True
) -> pd.DataFrame:
    r"""Mean squared displacement of the atoms of each element.

    .. math:: \mathrm{MSD}_a(t) = \big\langle |r_i(t_0 + t) - r_i(t_0)|^2 \big\rangle_{i \in a,\, t_0}

    The trajectory is cut into blocks of equal length; within each, every frame
    that has one ``t`` later is a time origin.

    Parameters
    ----------
    frames
        One trajectory at equal intervals.
    interval
        Between two frames, ps.
    blocks
        Number of blocks; what is left over at the start is not used.
    wrapped
        Positions are wrapped into the cell: they are unwrapped from frame to
        frame by the shortest way.
    fix_centre
        Take displacements relative to the centre of mass, which a thermostat
        may push. It lowers the MSD of ``n`` independent atoms by a share of
        ``1/n``.

    Returns
    -------
    DataFrame
        ``block, element, t`` (ps, up to half a block), ``msd`` (Å²).

    Raises
    ------
    ConfigError
        If an option is out of range.
    StructureError
        If a block has fewer than two frames, or the atoms change.
    """
    if blocks < 1 or not interval > 0:
        raise ConfigError(f"blocks must be at least 1 and interval positive (ps), not {blocks} and {interval}")
    length = len(frames) // blocks
    if length < 2:
        raise StructureError(f"{len(frames)} frames are too few for displacements in {blocks} blocks")
    first = frames[0]
    if any(len(a) != len(first) or (a.numbers != first.numbers).any() for a in frames):
        raise StructureError("the atoms are not those of the first frame")
    unwrap = Unwrapper(first, wrapped)
    positions = np.array([unwrap(atoms) for atoms in frames])[len(frames) - blocks * length :]
    if fix_centre:
        positions = (
            positions - np.einsum("tnx,n->tx", positions, first.get_masses() / first.get_masses().sum())[:, None]
        )
    symbols = np.array(first.get_chemical_symbols())
    tables = []
    for block, part in enumerate(positions.reshape(blocks, length, -1, 3)):
        lags = range(1, length // 2 + 1)
        squared = np.array([((part[lag:] - part[:-lag]) ** 2).sum(axis=2).mean(axis=0) for lag in lags])
        for element in sorted(set(symbols), key=lambda symbol: atomic_numbers[symbol]):
            msd = squared[:, symbols == element].mean(axis=1)
            tables.append(
                pd.DataFrame({"block": block, "element": element, "t": np.array(lags) * interval, "msd": msd})
            )
    return pd.concat(tables, ignore_index=True)


def diffusion_coefficients(msd: pd.DataFrame) -> pd.DataFrame:
    r"""Self-diffusion coefficients from mean squared displacements by Einstein's relation.

    .. math:: D = \frac{1}{6} \frac{d\, \mathrm{MSD}}{dt}

    Parameters
    ----------
    msd
        Of :func:`mean_squared_displacement`.

    Returns
    -------
    DataFrame
        ``element, diffusion`` (Å²/ps: the slope over the later half of the
        times, mean over the blocks), ``diffusion_error`` (standard error
        between the blocks; NaN with one), ``diffusion_cm2_s``, ``exponent``
        (slope of log MSD against log t over the same times: 1 where atoms
        diffuse, near 0 where they only rattle, 2 in free flight). NaN where
        fewer than three times are left.

    References
    ----------
    A. Einstein, Ann. Phys. 322, 549 (1905). Errors from blocks: H. Flyvbjerg
    and H. G. Petersen, J. Chem. Phys. 91, 461 (1989).
    """
    rows = []
    for element, group in msd.groupby("element", sort=False):
        late = group[group["t"] > 0.5 * group["t"].max() - 1e-9]
        slopes = np.array([_slope(part["t"], part["msd"]) for _, part in late.groupby("block")]) / 6
        mean = late.groupby("t")["msd"].mean()
        with np.errstate(divide="ignore"):
            exponent = _slope(np.log(mean.index), np.log(mean))
        error = slopes.std(ddof=1) / np.sqrt(len(slopes)) if len(slopes) > 1 else np.nan
        row = {"element": element, "diffusion": slopes.mean(), "diffusion_error": error}
        rows.append(row | {"diffusion_cm2_s": CM2_PER_S * slopes.mean(), "exponent": exponent})
    return pd.DataFrame(rows)


def _slope(x: Any, y: Any) -> float:
    """Of the least-squares line; NaN with fewer than three points or one that is not finite."""
    if len(x) < 3 or not np.isfinite(y).all():
        return float("nan")
    return float(np.polyfit(np.asarray(x, float), np.asarray(y, float), 1)[0])


class Diffusion(Probe):
    """MSD of every trajectory, and the diffusion coefficient of every element."""

    name = "diffusion"
    question = "self-diffusion"
    applies_to = "frames"
    files = {  # noqa: RUF012
        "msd": ("structure_id", "element", "t", "msd"),
        "diffusion": ("structure_id", "element", "diffusion", "diffusion_error", "diffusion_cm2_s", "exponent"),
    }
    numbers = ("t", "msd", "diffusion", "diffusion_error", "diffusion_cm2_s", "exponent", "n_frames")
    title = "Diffusion"
    answer_place, page_place = 80, 15

    class Options(Section):
        """What is averaged over."""

        diffusion_blocks: Count = Field(
            default=4, description="Blocks that a trajectory is cut into for the error of its diffusion coefficient."
        )
        diffusion_settling: float = Field(
            default=0.2, ge=0, lt=1, description="Share of a trajectory that is left out of its displacements."
        )

    def tables(self, subject: Simulated) -> dict[str, pd.DataFrame]:
        """``msd`` and ``diffusion``; structure ``"all"``: the mean over trajectories of full length."""
        assert subject.trajectories is not None
        curves, rows = [], []
        for atoms in subject.structures:
            name = str(atoms.info["structure_id"])
            file = subject.trajectories / trajectory_name(name)
            frames = list(trajectory_frames(file))
            if not frames:
                raise StructureError("has no frames", file=file)
            curve, row = self._of_trajectory(frames)
            curves.append(curve.assign(structure_id=name))
            rows.append(row.assign(structure_id=name, n_frames=len(frames)))
        curve, table = pd.concat(curves, ignore_index=True), pd.concat(rows, ignore_index=True)
        full = table[table["n_frames"] == table["n_frames"].max()]
        of_all = curve[curve["structure_id"].isin(full["structure_id"])]
        of_all = of_all.groupby(["element", "t"], as_index=False, sort=False)["msd"].mean().assign(structure_id=ALL)
        means = [_mean_row(str(element), group) for element, group in full.groupby("element", sort=False)]
        columns = [*self.files["diffusion"], "n_frames"]
        return {
            "msd": pd.concat([curve, of_all], ignore_index=True)[list(self.files["msd"])].round(6),
            "diffusion": pd.concat([table, pd.DataFrame(means)], ignore_index=True)[columns],
        }

    def _of_trajectory(self, frames: Sequence[Atoms]) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Mean curve over the blocks, and the row of each element; short trajectories have fewer blocks."""
        settled = frames[int(self.options.diffusion_settling * len(frames)) :]
        if len(settled) < 2:
            elements = sorted(set(frames[0].symbols), key=lambda symbol: atomic_numbers[symbol])
            empty = pd.DataFrame({"element": elements, "t": np.nan, "msd": np.nan})
            return empty.iloc[:0], empty[["element"]].assign(**dict.fromkeys(self.files["diffusion"][2:], np.nan))
        interval = (settled[1].info["time_fs"] - settled[0].info["time_fs"]) / 1000
        blocks = max(1, min(self.options.diffusion_blocks, len(settled) // MIN_FRAMES))
        msd = mean_squared_displacement(settled[: _even(settled)], interval=interval, blocks=blocks)
        mean = msd.groupby(["element", "t"], as_index=False, sort=False)[["msd"]].mean()
        return mean, diffusion_coefficients(msd)

    def answer(self, tables: Tables) -> Answer | None:
        table = tables.get("diffusion")
        table = None if table is None else table[(table["structure_id"] == ALL) & table["diffusion"].notna()]
        if table is None or not len(table):
            return None
        words = []
        for element, group in table.groupby("element", sort=False):
            value, error = group["diffusion_cm2_s"].mean(), CM2_PER_S * group["diffusion_error"].mean()
            rattles = " (rattles)" if group["exponent"].mean() < WANDERING else ""
            words.append(f"{element} {value:.2g}" + (f" ± {error:.1g}" if np.isfinite(error) else "") + rattles)
        return "value", f"D in cm²/s: {', '.join(words)}"

    def page(self, tables: Tables, arms: Sequence[str], heading: str) -> PagePart | None:
        curves, values = tables.get("msd"), tables.get("diffusion")
        if curves is None and values is None:
            return None
        part = PagePart(
            caption="Mean squared displacement of each element against time, mean over the trajectories of full "
            "length; thin lines are seeds. A straight line is diffusion, a flat one atoms that rattle about their "
            "places.",
            curves="msd_curves",
        )
        if curves is not None:
            means = curves[curves["structure_id"] == ALL]
            part.figure = partial(_figure, means, arms)
            part.saved["msd_curves"] = means
        if values is not None:
            part.summary = _summary(values[values["structure_id"] == ALL], arms)
            part.table, part.table_title = _table(part.summary, heading), "Diffusion coefficients"
            part.text = (
                "Self-diffusion coefficients by Einstein’s relation, from the slope of the mean squared displacement "
                "over the later half of its times; ± is the standard error between structures (between blocks of the "
                "trajectory where there is one), then between seeds. The exponent is that of time: near 1 atoms "
                "diffuse, near 0 they rattle, and the coefficient says little."
            )
            part.saved["diffusion_each"], part.details = values, "diffusion_each"
            part.details_caption = "Every trajectory:"
        return part


def _even(frames: Sequence[Atoms]) -> int:
    """Number of frames at equal intervals: the one that ended a trajectory may come early."""
    times = [float(a.info["time_fs"]) for a in frames]
    even = np.isclose(np.diff(times), times[1] - times[0])
    return 1 + (len(even) if even.all() else max(1, int(np.argmin(even))))


def _mean_row(element: str, group: pd.DataFrame) -> dict[str, Any]:
    """Mean of one element over structures; its error is that between them where there are several."""
    several = group["diffusion"].count() > 1
    error = group["diffusion"].sem() if several else group["diffusion_error"].mean()
    means: dict[Any, Any] = group[["diffusion", "diffusion_cm2_s", "exponent"]].mean().to_dict()
    return {
        "structure_id": ALL,
        "element": element,
        "diffusion_error": error,
        "n_frames": group["n_frames"].min(),
        **means,
    }


def _summary(table: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    """``arm, element, seeds``, mean coefficient (Å²/ps and cm²/s), its errors, and the exponent."""
    rows = []
    for arm, of_arm in by_arm(table, arms):
        for element, group in of_arm.groupby("element", sort=False):
            means = group[["diffusion", "diffusion_cm2_s", "exponent", "diffusion_error"]].mean().to_dict()
            row: dict[Any, Any] = {"arm": arm, "element": element, "seeds": group["seed"].nunique(), **means}
            rows.append(row | {"seed_std": group["diffusion"].std() if len(group) > 1 else np.nan})
    return pd.DataFrame(rows)


def _table(summary: pd.DataFrame, heading: str) -> HtmlTable:
    columns = [Column(heading, numeric=False), Column("Element", numeric=False), Column("Diffusion", "Å²/ps"),
               Column("Diffusion", "cm²/s"), Column("Exponent of time")]  # fmt: skip
    rows = []
    for row in summary.to_dict("records"):
        error = f"± {significant(row['diffusion_error'])}" if np.isfinite(row["diffusion_error"]) else ""
        seeds = f"± {significant(row['seed_std'])} over {plural(row['seeds'], 'seed')}" if row["seeds"] > 1 else ""
        centimetres = f"{row['diffusion_cm2_s']:.2e}" if np.isfinite(row["diffusion_cm2_s"]) else DASH
        cells = [Cell(row["arm"], arm=row["arm"]), Cell(str(row["element"]))]
        cells.append(Cell(significant(row["diffusion"]), "\n".join(note for note in (error, seeds) if note)))
        rows.append([*cells, Cell(centimetres), Cell(number(row["exponent"], 2))])
    return HtmlTable(columns, rows, "diffusion")


def _figure(table: pd.DataFrame, arms: Sequence[str], styles: Styles) -> Figure:
    return Figure("Mean squared displacement", *panels_by("element", table, arms, styles, _paint), size=(3.8, 2.4))


def _paint(ax: Axes, table: pd.DataFrame, arms: Sequence[str], styles: Styles) -> None:
    seed_lines(ax, table, arms, styles, "t", "msd")
    ax.set(xlabel="time (ps)", ylabel="mean squared displacement (Å²)", xlim=(0, None), ylim=(0, None))
