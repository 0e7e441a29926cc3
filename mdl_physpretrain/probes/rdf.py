"""Probe of radial distribution functions: partial RDFs of trajectories and their errors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from ase import Atoms
from ase.data import atomic_numbers
from pydantic import Field

from mdl_physpretrain.dynamics.traces import trajectory_name
from mdl_physpretrain.dynamics.trajectories import Trajectory, expand_trajectories, trajectory_frames
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.graphs.neighbour_lists import neighbour_list
from mdl_physpretrain.option_types import Positive, Section
from mdl_physpretrain.probes.base import Answer, Probe, Simulated, Tables
from mdl_physpretrain.probes.page import (
    ALL,
    DASH,
    INK,
    MUTED,
    REFERENCE,
    Cell,
    Column,
    Figure,
    HtmlTable,
    Legend,
    PagePart,
    Styles,
    by_arm,
    number,
    panels_by,
    plural,
    seed_lines,
    spread,
)
from mdl_physpretrain.probes.pairs import element_pairs, symbols_of
from mdl_physpretrain.recipe import CHECK
from mdl_physpretrain.statistics.seeds import mean_std

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["RadialDistribution", "mean_rdf", "rdf", "rdf_error"]

SETTLING = 0.2  # share of a trajectory that is not averaged over
MAX_PAIR_COLUMNS = 10  # of the table on the page


def rdf(
    frames: Trajectory | Sequence[Trajectory],
    *,
    r_max: float = CHECK.r_max,
    bins: int = 120,
    pairs: Iterable[str | tuple[str, str]] | None = None,
    skip: int = 0,
) -> pd.DataFrame:
    r"""Pair distribution functions of each pair of elements, averaged over frames.

    .. math:: g_{ab}(r) = \Big\langle \frac{V}{N_a N_b}
              \frac{n_{ab}(r, r + \Delta r)}{V_\mathrm{shell}(r, r + \Delta r)} \Big\rangle

    with the number :math:`n_{ab}` of neighbours ``b`` that the atoms ``a``
    have in the shell, and volume and numbers of each frame. Periodic images
    count, those of an atom itself, too: cells may be smaller than ``r_max``,
    and :math:`4 \pi \rho_b \int g_{ab} r^2 dr` is the coordination number.

    Parameters
    ----------
    frames
        A list of ``Atoms``; or one or more trajectories: files that ASE reads
        (a path, a pattern, a list of them) or lists of ``Atoms``. The
        composition may differ between frames.
    r_max
        Range in Å.
    bins
        Number of shells of equal width.
    pairs
        ``"Mn-O"`` or ``("Mn", "O")``; default: all of the elements present.
    skip
        Frames left out at the start of each trajectory.

    Returns
    -------
    DataFrame
        ``pair`` (named in the order of atomic numbers, ``"O-Mn"``), ``r``
        (middle of the shell, Å), ``g``. A frame without the elements of a pair
        does not count for it. ``attrs["n_frames"]`` is the number of frames,
        ``attrs["n_pairs"]`` the mean number of pairs of atoms of each kind.

        Structures that are not periodic in three directions have no density;
        for them ``V`` is the sphere with radius ``r_max``. Their ``g`` does
        not approach 1, but :func:`rdf_error`, a ratio, is not affected.

    Raises
    ------
    ConfigError
        If an option is out of range, or no frame has the elements of a pair.
    StructureError
        If there are no frames, or one has a NaN or an impossible cell.

    References
    ----------
    Section 3.3 and Fig. 5 of the paper; D. Frenkel, B. Smit, *Understanding
    Molecular Simulation*, section 4.4.
    """
    if not 0 < r_max < float("inf"):
        raise ConfigError(f"r_max must be positive (Å), not {r_max}")
    for name, value, least in (("bins", bins, 1), ("skip", skip, 0)):
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise ConfigError(f"{name} must be an integer of at least {least}, not {value!r}")
    names = None if pairs is None else {_named(pair) for pair in pairs}
    edges = np.linspace(0.0, r_max, bins + 1)
    sums: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}
    atom_pairs: dict[str, float] = {}
    n_frames = 0
    for trajectory in expand_trajectories(frames):
        source = str(trajectory) if not isinstance(trajectory, Sequence) or isinstance(trajectory, str) else "frames"
        for k, atoms in enumerate(trajectory_frames(trajectory)):
            if k < skip:
                continue
            n_frames += 1
            for pair, (g, n_pairs) in _of_frame(atoms, edges, names, source, k).items():
                sums[pair] = sums.get(pair, np.zeros(bins)) + g
                counts[pair] = counts.get(pair, 0) + 1
                atom_pairs[pair] = atom_pairs.get(pair, 0.0) + n_pairs
    if not n_frames:
        raise StructureError(f"no frames are left to average over (skip={skip})")
    missing = sorted((names or set()) - set(sums))
    if missing:
        raise ConfigError(f"no frame has a pair {', '.join(missing)}")
    middle = 0.5 * (edges[1:] + edges[:-1])
    ordered = sorted(sums, key=lambda pair: [atomic_numbers[s] for s in pair.split("-")])
    table = pd.concat(
        [pd.DataFrame({"pair": pair, "r": middle, "g": sums[pair] / counts[pair]}) for pair in ordered],
        ignore_index=True,
    )
    table.attrs["n_frames"] = n_frames
    table.attrs["n_pairs"] = {pair: atom_pairs[pair] / counts[pair] for pair in ordered}
    return table


def rdf_error(
    table: pd.DataFrame, reference: pd.DataFrame, *, weights: Mapping[str, float] | None = None
) -> pd.DataFrame:
    r"""Relative distance of pair distribution functions from reference ones.

    .. math:: \mathrm{error} = \frac{\int |g - g_\mathrm{ref}|\, dr}{\int g_\mathrm{ref}\, dr}

    0 is equality; 2 is reached when the two share nothing but their integral.

    Parameters
    ----------
    table, reference
        Of :func:`rdf`, with the same ``r``.
    weights
        Of each pair in ``"all"``; default: the numbers of pairs of atoms in
        ``reference.attrs["n_pairs"]``, and equal weights for a table without
        (one read from a file).

    Returns
    -------
    DataFrame
        ``pair, error``; the last row, ``"all"``, has the integrals summed over
        all pairs with their weights. Infinite where the reference has no
        neighbours in range but ``table`` has.

    Raises
    ------
    ConfigError
        If the tables have different pairs or distances.

    References
    ----------
    Section 3.3 of the paper compares by eye. The absolute error of the
    integral is that of X. Fu et al., "Forces are not Enough", TMLR (2023),
    arXiv:2210.07237; dividing by the reference makes pairs comparable.
    """
    names = list(dict.fromkeys(reference["pair"]))
    if set(names) != set(table["pair"]):
        raise ConfigError(
            f"the pairs differ: {', '.join(sorted(set(table['pair'])))} against {', '.join(sorted(names))}"
        )
    pair_weights = reference.attrs.get("n_pairs", {}) if weights is None else weights
    off, size, weight = [], [], []
    for pair in names:
        curve, expected = (t[t["pair"] == pair] for t in (table, reference))
        if len(curve) != len(expected) or not np.allclose(curve["r"], expected["r"], rtol=0, atol=1e-6):
            raise ConfigError(f"the distances of pair {pair} differ; use the same r_max and bins")
        off.append(float(np.abs(curve["g"].to_numpy() - expected["g"].to_numpy()).sum()))
        size.append(float(expected["g"].sum()))
        weight.append(float(pair_weights.get(pair, 1.0)))
    off.append(float(np.dot(off, weight)))
    size.append(float(np.dot(size, weight)))
    errors = [o / s if s > 0 else (0.0 if o == 0 else float("inf")) for o, s in zip(off, size, strict=True)]
    return pd.DataFrame({"pair": [*names, ALL], "error": errors})


def _of_frame(
    atoms: Atoms, edges: np.ndarray, names: set[str] | None, source: str, index: int
) -> dict[str, tuple[np.ndarray, float]]:
    """``g`` of each pair in one frame, and the number of such pairs of atoms."""
    r_max, bins = float(edges[-1]), len(edges) - 1
    if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
        raise StructureError("NaN or infinite value", file=source, structure=f"frame {index}", field="positions")
    try:
        (i, j), shifts = neighbour_list(atoms.positions, atoms.cell.array, atoms.pbc, r_max)
    except StructureError as error:
        raise StructureError(str(error), file=source, structure=f"frame {index}") from error
    r = np.linalg.norm(atoms.positions[j] - atoms.positions[i] + shifts @ atoms.cell.array, axis=1)
    shell = np.minimum((r * (bins / r_max)).astype(np.int64), bins - 1)
    volume = atoms.cell.volume if atoms.pbc.all() else 4 / 3 * np.pi * r_max**3
    shells = 4 / 3 * np.pi * np.diff(edges**3)
    numbers, counts = np.unique(atoms.numbers, return_counts=True)
    of_atom = np.searchsorted(numbers, atoms.numbers)
    n = len(numbers)
    histogram = np.bincount((of_atom[i] * n + of_atom[j]) * bins + shell, minlength=n * n * bins).reshape(n, n, bins)
    symbols = {str(s): k for k, s in zip(of_atom, atoms.symbols, strict=True)}
    functions = {}
    for a, b in element_pairs(list(symbols)):
        name = f"{a}-{b}"
        if names is not None and name not in names:
            continue
        first, second = symbols[a], symbols[b]
        n_pairs = float(counts[first] * counts[second])
        g = histogram[first, second] * volume / (n_pairs * shells)
        functions[name] = (g, n_pairs if a != b else n_pairs / 2)
    return functions


def _named(pair: str | tuple[str, str]) -> str:
    """Name of a pair in the order of atomic numbers."""
    return "-".join(sorted(symbols_of(pair), key=lambda symbol: atomic_numbers[symbol]))


class RadialDistribution(Probe):
    """RDFs of trajectories, and their errors against reference trajectories, where there are any."""

    name = "rdf"
    question = "structure as in the reference"
    applies_to = "frames"
    compares = True
    files = {  # noqa: RUF012
        "rdf": ("pair", "r", "g", "structure_id"),
        "rdf_errors": ("pair", "error", "structure_id", "n_frames"),
    }
    numbers = ("r", "g", "error", "n_frames")
    title = "Radial distribution"
    answer_place, page_place = 60, 10

    class Options(Section):
        """Range."""

        r_max: Positive = Field(default=CHECK.r_max, description="Of the RDFs of trajectories on disk, Å.")

    def kinds(self, *, references: bool) -> tuple[str, ...]:
        return ("rdf", "rdf_errors") if references else ("rdf",)

    def tables(self, subject: Simulated) -> dict[str, pd.DataFrame]:
        """``rdf`` (the mean over structures is ``"all"``) and ``rdf_errors``.

        Where there are reference trajectories, only structures with one count.
        """
        assert subject.trajectories is not None
        curves, errors = [], []
        for atoms in subject.structures:
            name = str(atoms.info["structure_id"])
            if subject.references and name not in subject.references:
                continue
            frames = list(trajectory_frames(subject.trajectories / trajectory_name(name)))
            curve = self._settled(frames)
            curves.append(curve.assign(structure_id=name))
            if subject.references:
                error = rdf_error(curve, self._settled(subject.references[name]))
                errors.append(error.assign(structure_id=name, n_frames=len(frames)))
        tables = {"rdf": _with_mean(curves)}
        return tables | ({"rdf_errors": pd.concat(errors, ignore_index=True)} if errors else {})

    def reference_tables(self, references: Mapping[str, Sequence[Atoms]]) -> dict[str, pd.DataFrame]:
        curves = [self._settled(frames).assign(structure_id=name) for name, frames in references.items()]
        return {"rdf": _with_mean(curves).assign(arm=REFERENCE, seed=0)}

    def _settled(self, frames: Sequence[Atoms]) -> pd.DataFrame:
        return rdf(frames, r_max=self.options.r_max, skip=int(SETTLING * len(frames)))

    def answer(self, tables: Tables) -> Answer | None:
        table = tables.get("rdf_errors")
        if table is None or not len(table):
            return None
        every = table[table["pair"] == ALL]["error"]
        return "value", f"RDF error {every.mean():.3g} (mean of {len(every)} trajectories)"

    def page(self, tables: Tables, arms: Sequence[str], heading: str) -> PagePart | None:
        curves, errors = tables.get("rdf"), tables.get("rdf_errors")
        if curves is None and errors is None:
            return None
        part = PagePart(
            caption="Radial distribution function of each pair of elements, averaged over the frames of the "
            "trajectories (Fig. 5 of the paper); thin lines are seeds. A peak at short distance is an overlap or a "
            "collapse.",
            curves="rdf_curves",
        )
        if curves is not None:
            means = mean_rdf(curves)
            part.figure = partial(_figure, means, arms)
            part.saved["rdf_curves"] = means
        if errors is not None:
            part.summary = _summary(errors, arms)
            part.table, part.table_title = _error_table(part.summary, heading), "Errors of the radial distribution"
            part.text = (
                "Difference from the reference trajectory, ∫|g − g(ref)| dr / ∫g(ref) dr, as mean ± standard deviation "
                "over seeds where there are several. Failed trajectories end early: the fewest frames that went into a "
                "number are given."
            )
        return part


def mean_rdf(table: pd.DataFrame) -> pd.DataFrame:
    """``arm, seed, pair, r, g`` as means over structures, taken from the rows that hold them where there are any."""
    if "structure_id" in table and (table["structure_id"] == ALL).any():
        table = table[table["structure_id"] == ALL]
    return table.groupby(["arm", "seed", "pair", "r"], sort=False, as_index=False)[["g"]].mean()


def _with_mean(curves: Sequence[pd.DataFrame]) -> pd.DataFrame:
    together = pd.concat(curves, ignore_index=True)
    mean = together.groupby(["pair", "r"], as_index=False, sort=False)["g"].mean().assign(structure_id=ALL)
    return pd.concat([together, mean], ignore_index=True).round(5)


def _summary(table: pd.DataFrame, arms: Sequence[str]) -> pd.DataFrame:
    """``arm, pair, seeds, structures, error, error_std`` (over seeds), and the smallest ``n_frames``."""
    structures = table["structure_id"]
    n = structures[structures != ALL].groupby(table["arm"]).nunique()
    means = table[structures == ALL] if (structures == ALL).any() else table
    rows = []
    for arm, group in by_arm(means, arms):
        frames = pd.to_numeric(table.loc[table["arm"] == arm, "n_frames"]).min()
        for pair, part in group.groupby("pair", sort=False):
            values = pd.to_numeric(part["error"], errors="coerce").groupby(part["seed"]).mean()
            mean, std, seeds = mean_std(values)
            row = {"arm": arm, "pair": pair, "seeds": seeds, "structures": int(n.get(arm, 0))}
            rows.append(row | {"error": mean, "error_std": std, "n_frames": frames})
    return pd.DataFrame(rows)


def _error_table(summary: pd.DataFrame, heading: str) -> HtmlTable:
    """Arms down, pairs across."""
    pairs = sorted(dict.fromkeys(summary["pair"]), key=lambda pair: pair != ALL)[:MAX_PAIR_COLUMNS]
    columns = [Column(heading, numeric=False), *(Column("All pairs" if p == ALL else p) for p in pairs)]
    columns.append(Column("Frames", "fewest"))
    lowest = summary.loc[summary["pair"] == ALL, "error"].min()
    rows = []
    for arm, group in summary.groupby("arm", sort=False):
        by_pair = {row["pair"]: row for row in group.to_dict("records")}
        n = int(group["structures"].iloc[0])
        cells = [Cell(str(arm), plural(n, "structure") if n else "", arm=str(arm))]
        for pair in pairs:
            row = by_pair.get(pair)
            best = row is not None and pair == ALL and row["error"] == lowest
            cells.append(Cell(spread(row["error"], row["error_std"]) if row else DASH, css="best" if best else ""))
        rows.append([*cells, Cell(number(group["n_frames"].min(), 0))])
    return HtmlTable(columns, rows, "rdf_errors")


def _figure(table: pd.DataFrame, arms: Sequence[str], styles: Styles) -> Figure:
    """Fig. 5 of the paper: one panel per pair, the reference dashed."""
    panels, legend = panels_by("pair", table, arms, styles, _paint)
    if (table["arm"] == REFERENCE).any():
        legend.append(Legend("reference trajectory", INK, "dashed"))
    return Figure("Radial distribution function", panels, legend, size=(3.8, 2.4))


def _paint(ax: Axes, table: pd.DataFrame, arms: Sequence[str], styles: Styles) -> None:
    ax.axhline(1, color=MUTED, linewidth=0.7)
    drawn = seed_lines(ax, table, arms, styles, "r", "g", width=0.6)
    highest = max([2.0, *(float(wide.mean(axis=1).max()) for wide in drawn.values())])
    reference = table[table["arm"] == REFERENCE].sort_values("r")
    ax.plot(reference["r"], reference["g"], color=INK, linestyle="--", linewidth=1.4)
    if len(reference):  # a collapsed structure must not flatten all others
        peak = float(reference["g"].max())
        highest = max(min(highest, 2.5 * peak), peak)
    ax.set(xlabel="distance (Å)", ylabel="g(r)", ylim=(0, 1.06 * highest), xlim=(0, table["r"].max()))
