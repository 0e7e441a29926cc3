"""Algorithm 1 of the paper: pull close pairs together, then displace random atoms.

All rounds of a structure are made at once: one neighbour search, one batch of
random numbers. The numbers belong to the structure (its id and the seed), so
that order, subset and number of processes do not change the result.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.data import covalent_radii

from mdl_physpretrain.augmentation.children import displaced_child
from mdl_physpretrain.augmentation.ladder import strength_ladder
from mdl_physpretrain.augmentation.pairs import close_pairs, kinds_of_pairs
from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.option_types import shows_options, validated
from mdl_physpretrain.progress import track
from mdl_physpretrain.recipe import Perturbation
from mdl_physpretrain.structures.identifiers import require_unique_ids, stable_id
from mdl_physpretrain.structures.randomness import structure_rng

__all__ = ["Augmented", "augment", "augment_iter"]


class Augmented(list[Atoms]):
    """The augmented structures: a list that knows what was left out.

    Attributes
    ----------
    skipped
        Identifiers of the structures with fewer than two atoms.
    """

    def __init__(self, structures: Iterable[Atoms] = (), *, skipped: Iterable[str] = ()) -> None:
        super().__init__(structures)
        self.skipped = list(skipped)


class _Rounds(NamedTuple):
    """Options of an augmentation, and the strengths of its rounds, shape (n_aug,), Å."""

    options: Perturbation
    pulls: np.ndarray
    perturbs: np.ndarray


@shows_options(Perturbation)
def augment(structures: Sequence[Atoms], *, progress: bool = False, **options: Any) -> Augmented:
    """``n_aug`` perturbed copies of every structure (Algorithm 1, Table A.1).

    In each round ``n_pairs`` close pairs of atoms that share no atom are
    pulled together along their minimum-image vector by ``s ~ U(0, pull)``,
    then ``n_sites`` random atoms are displaced in a random direction by
    ``r ~ U(0, perturb)``. The cell stays; labels of the parents are not
    inherited.

    Parameters
    ----------
    structures
        Parents, with unique ids (``info["structure_id"]``; where there is none
        a hash of the content is the id). Those with fewer than two atoms are
        skipped, counted in ``.skipped``, and a warning says so.
    n_aug
        Rounds per structure.
    n_pairs, n_sites
        Capped by half the number of atoms, and by the number of atoms.
    pull, perturb
        Largest strengths in Å, see ``ladder``.
    seed
        Non-negative integer.
    convention
        ``"paper"``: each atom of a pair moves by ``s``, the pair closes by
        ``2 s``. ``"authors"``: each moves by ``s / 2``.
    ladder
        ``"down"``: round strengths ``linspace(max, 0, n_aug, endpoint=False)``
        (Table A.1); ``"up"``: ``linspace(0, max, n_aug)`` (authors' script).
    min_distance_factor
        ``None`` (the paper, section 2.3): nothing stops a pull, and one with
        ``2 s > d`` carries the two atoms through each other. Otherwise ``s``
        is drawn from the part of ``[0, pull]`` that leaves the pair at least
        this multiple of the sum of its covalent radii apart (nothing, if the
        pair is closer already). It limits the pull itself; the random
        displacements that follow and third atoms are not looked at.
    pairs
        ``"closest"`` (the paper), or ``"every-kind"``: the pairs of elements
        take turns, see
        :func:`mdl_physpretrain.augmentation.pairs.kinds_of_pairs`.
    progress
        Show a progress bar.

    Returns
    -------
    Augmented
        A ``list[Atoms]``, rounds of the first parent first. Provenance in
        every structure: ``info`` holds ``structure_id`` (``<parent>-aug<round>``),
        ``parent_id``, ``aug_round``, ``aug_pull`` and ``aug_perturb`` (Å, of
        that round), ``aug_seed``; ``arrays["aug_displacement"]``, shape (n, 3),
        is position minus parent's position in Å. The parent's texts in
        ``info`` (``config_type``, ...) are inherited.

    Raises
    ------
    ConfigError
        If an option is out of range.
    StructureError
        If there are no structures, two share an id, or one is unusable.

    References
    ----------
    Algorithm 1 and Table A.1 of the paper (section 2.3, Appendix A).
    """
    structures = list(structures)
    if not structures:
        raise StructureError("there are no structures to augment")
    names = require_unique_ids(structures, "structures")
    augmented = Augmented(
        augment_iter(track(structures, "augment", enabled=progress), **options),
        skipped=[name for name, atoms in zip(names, structures, strict=True) if len(atoms) < 2],
    )
    if augmented.skipped:
        shown = ", ".join(augmented.skipped[:5]) + (", ..." if len(augmented.skipped) > 5 else "")
        warnings.warn(
            f"{len(augmented.skipped)} of {len(structures)} structures have fewer than two atoms "
            f"and were not augmented: {shown}",
            stacklevel=2,
        )
    return augmented


@shows_options(Perturbation)
def augment_iter(structures: Iterable[Atoms], **options: Any) -> Iterator[Atoms]:
    """Like :func:`augment`, one structure at a time, for sets that exceed memory.

    ``structures`` may be any iterable, such as ``ase.io.iread``. Ids are not
    compared with each other; structures with fewer than two atoms are left
    out. Options are checked at once, structures when their turn comes.

    Raises
    ------
    ConfigError
        If an option is out of range.
    """
    chosen = validated(Perturbation, options)
    ladders = (strength_ladder(strength, chosen.n_aug, chosen.ladder) for strength in (chosen.pull, chosen.perturb))
    return _rounds_of_all(structures, _Rounds(chosen, *ladders))


def _rounds_of_all(structures: Iterable[Atoms], rounds: _Rounds) -> Iterator[Atoms]:
    for atoms in structures:
        if len(atoms) >= 2:
            name = stable_id(atoms)
            moves = _displacements(atoms, structure_rng(rounds.options.seed, name), rounds)
            for k in range(len(moves)):
                yield _child(atoms, name, k, moves[k], rounds)


def _displacements(atoms: Atoms, rng: np.random.Generator, rounds: _Rounds) -> np.ndarray:
    """Displacements of all rounds in Å, shape (n_aug, n_atoms, 3)."""
    options, n, n_rounds = rounds.options, len(atoms), len(rounds.pulls)
    share = 1.0 if options.convention == "paper" else 0.5  # of s that each atom of a pair moves
    if options.pairs == "every-kind":
        pairs, chosen = kinds_of_pairs(atoms, options.n_pairs, n_rounds, rng)
    else:
        pairs = close_pairs(atoms, options.n_pairs)
        chosen = np.broadcast_to(np.arange(len(pairs.i)), (n_rounds, len(pairs.i)))
    n_sites = min(options.n_sites, n)
    moves = np.zeros((n_rounds, n, 3))

    if len(pairs.i):
        first, second = pairs.i[chosen], pairs.j[chosen]
        limit = np.where(chosen >= 0, rounds.pulls[:, None], 0.0)
        if options.min_distance_factor is not None:
            radii = covalent_radii[atoms.numbers]
            allowed = pairs.distances[chosen] - options.min_distance_factor * (radii[first] + radii[second])
            limit = np.minimum(limit, np.maximum(allowed, 0.0) / (2 * share))
        s = limit * rng.random(chosen.shape)
        steps = (share * s)[:, :, None] * (pairs.vectors / pairs.distances[:, None])[chosen]
        rows = np.arange(n_rounds)[:, None]
        np.add.at(moves, (rows, first), steps)
        np.subtract.at(moves, (rows, second), steps)

    sites = np.argsort(rng.random((n_rounds, n)), axis=1)[:, :n_sites]
    directions = rng.normal(size=(n_rounds, n_sites, 3))
    directions /= np.linalg.norm(directions, axis=2, keepdims=True)
    r = rounds.perturbs[:, None] * rng.random((n_rounds, n_sites))
    moves[np.arange(n_rounds)[:, None], sites] += r[:, :, None] * directions
    return moves


def _child(parent: Atoms, name: str, k: int, move: np.ndarray, rounds: _Rounds) -> Atoms:
    """Round ``k`` of a parent, with its provenance and without labels."""
    return displaced_child(
        parent,
        name,
        f"aug{k}",
        move,
        aug_round=k,
        aug_pull=float(rounds.pulls[k]),
        aug_perturb=float(rounds.perturbs[k]),
        aug_seed=rounds.options.seed,
    )
