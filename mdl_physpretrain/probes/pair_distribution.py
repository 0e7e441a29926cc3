"""Pair distribution functions of trajectories, and how far they are from reference ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from ase import Atoms
from ase.data import atomic_numbers

from mdl_physpretrain.dynamics.trajectories import Trajectory, expand_trajectories, trajectory_frames
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.graphs.neighbour_lists import neighbour_list
from mdl_physpretrain.probes.page import ALL
from mdl_physpretrain.probes.pairs import element_pairs, symbols_of
from mdl_physpretrain.recipe import CHECK

__all__ = ["rdf", "rdf_error"]


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
        ``pair, error, error_matbench``; the last row, ``"all"``, has the
        integrals summed over all pairs with their weights. Infinite where the
        reference has no neighbours in range but ``table`` has.
        ``error_matbench`` (%) is the area between the functions over that
        between the reference and an ideal gas, at most 100; of ``"all"`` it is
        that of the functions of all pairs together.

    Raises
    ------
    ConfigError
        If the tables have different pairs or distances.

    References
    ----------
    Section 3.3 of the paper compares by eye. The absolute error of the
    integral is that of X. Fu et al., "Forces are not Enough", TMLR (2023),
    arXiv:2210.07237; dividing by the reference makes pairs comparable.
    ``error_matbench``: Matbench Discovery, task molecular dynamics
    (``matbench_discovery.metrics.md``), which goes to half the shortest
    lattice vector with 500 shells.
    """
    names = list(dict.fromkeys(reference["pair"]))
    if set(names) != set(table["pair"]):
        raise ConfigError(
            f"the pairs differ: {', '.join(sorted(set(table['pair'])))} against {', '.join(sorted(names))}"
        )
    pair_weights = reference.attrs.get("n_pairs", {}) if weights is None else weights
    off, size, weight, gas = [], [], [], []
    total = np.zeros((2, 0))
    for pair in names:
        curve, expected = (t[t["pair"] == pair] for t in (table, reference))
        if len(curve) != len(expected) or not np.allclose(curve["r"], expected["r"], rtol=0, atol=1e-6):
            raise ConfigError(f"the distances of pair {pair} differ; use the same r_max and bins")
        both = np.stack([curve["g"].to_numpy(), expected["g"].to_numpy()])
        off.append(float(np.abs(both[0] - both[1]).sum()))
        size.append(float(expected["g"].sum()))
        weight.append(float(pair_weights.get(pair, 1.0)))
        gas.append(_matbench_error(*both))
        total = weight[-1] * both + (total if total.size else 0.0)
    off.append(float(np.dot(off, weight)))
    size.append(float(np.dot(size, weight)))
    errors = [o / s if s > 0 else (0.0 if o == 0 else float("inf")) for o, s in zip(off, size, strict=True)]
    gas.append(_matbench_error(*(total / sum(weight))))
    return pd.DataFrame({"pair": [*names, ALL], "error": errors, "error_matbench": gas})


def _matbench_error(g: np.ndarray, reference: np.ndarray) -> float:
    """Area between two functions over that between the reference and an ideal gas, %, at most 100."""
    structure = float(np.trapezoid(np.abs(reference - 1)))
    return 100.0 if structure == 0 else 100 * min(1.0, float(np.trapezoid(np.abs(g - reference))) / structure)


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
