"""Seeded train/val/test splits, stratified, with restricted training data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ase import Atoms

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.structures.groups import EACH, deal_groups, group_names
from mdl_physpretrain.structures.labels import structure_id

__all__ = ["STRATA_TAGS", "Split", "split_by_parent", "split_structures", "stratum_tag"]

#: ``info`` tags that name a kind of structure, tried in this order.
STRATA_TAGS = ("config_type", "topology", "detailed_ct", "group", "prototype", "phase", "category", "dataset")


class Split(NamedTuple):
    """Structures for training, validation and test."""

    train: list[Atoms]
    val: list[Atoms]
    test: list[Atoms]


def stratum_tag(structures: Sequence[Atoms]) -> str | None:
    """The first tag worth stratifying by, or None.

    A tag is worth it when most structures have it, it has at least two
    values, and on average at least two structures share a value.
    """
    for tag in STRATA_TAGS:
        values = [str(atoms.info[tag]) for atoms in structures if tag in atoms.info]
        kinds = len(set(values))
        if len(values) > len(structures) / 2 and 2 <= kinds <= len(structures) / 2:
            return tag
    return None


def split_structures(
    structures: Sequence[Atoms],
    *,
    fractions: Sequence[float] = (0.8, 0.1, 0.1),
    usage: float = 1.0,
    seed: int = 0,
    stratify: str | None = "auto",
    group_by: str | None = EACH,
) -> Split:
    """Split into train, val and test.

    Parameters
    ----------
    structures
        All structures.
    fractions
        Shares of train, val, test; they add up to 1.
    usage
        Share of the *training* part that is kept, in (0, 1]: 0.1 is the
        paper's "10 %" (471 of 4965 MPtrj structures, section 3). Validation
        and test do not depend on it, and a smaller usage is a subset of a
        larger one.
    seed
        Same seed and input, same split.
    stratify
        Name of an ``info`` tag whose kinds are shared out in proportion;
        "auto" looks for one of :data:`STRATA_TAGS`; None for none.
    group_by
        ``"structure"`` or None: no groups. ``"composition"`` (reduced formula) or the
        name of an ``info`` tag (``topology``, ``mp_id``, ``parent_id``, ...):
        whole groups go to one part, which then meet the shares, and the
        proportions of ``stratify``, as closely as the groups allow. ``usage``
        keeps structures, not groups.

    Returns
    -------
    Split
        Each part in the order of ``structures``. Every part with a share
        above zero has at least one structure where there are enough, and at
        least one group.

    Raises
    ------
    StructureError
        If there are no structures, an option is out of range, no structure
        carries the tag of ``stratify``, one lacks that of ``group_by``, or
        there are fewer groups than parts.

    Notes
    -----
    Every structure gets a quantile within its kind (random order, random
    offset); sorting all of them by it and cutting gives exact sizes with at
    most one structure deviation per kind from proportionality, whatever the
    sizes of the kinds: kinds with one member fall where chance puts them.
    """
    if len(structures) == 0:
        raise StructureError("there is no structure to split")
    shares = np.asarray(fractions, dtype=np.float64)
    if shares.shape != (3,) or not np.isfinite(shares).all() or shares.min() < 0 or abs(shares.sum() - 1) > 1e-6:
        raise StructureError(
            f"{list(fractions)} are not three shares (train, val, test) between 0 and 1 that add up to 1",
            field="fractions",
        )
    if shares[0] == 0:
        raise StructureError("the training share is 0", field="fractions")
    if not 0 < usage <= 1:
        raise StructureError(f"{usage} is not in (0, 1] (10% is 0.1)", field="usage")
    tag = stratum_tag(structures) if stratify == "auto" else stratify
    if tag is not None and not any(tag in atoms.info for atoms in structures):
        raise StructureError("no structure has this tag to stratify by", field=tag)

    kinds = [str(atoms.info.get(tag)) if tag else "" for atoms in structures]
    if group_by is None or group_by == EACH:
        order = _order(kinds, seed)
        n_train, n_val, _ = _sizes(len(structures), shares)
        parts = [order[:n_train], order[n_train : n_train + n_val], order[n_train + n_val :]]
    else:
        part_of = deal_groups(group_names(structures, group_by), kinds, shares, seed)
        parts = [np.flatnonzero(part_of == k) for k in range(3)]
        parts[0] = parts[0][_order([kinds[k] for k in parts[0]], seed)]
    parts[0] = parts[0][: max(1, round(usage * len(parts[0])))]
    return Split(*([structures[k] for k in sorted(part.tolist())] for part in parts))


def split_by_parent(structures: Sequence[Atoms], fraction: float, seed: int) -> tuple[list[Atoms], list[Atoms]]:
    """Set aside the children of some parents, e.g. to validate a pretraining; siblings stay together.

    Parameters
    ----------
    structures
        Augmented structures, with ``info["parent_id"]``; one without is its own parent.
    fraction
        Share of the parents that is set aside: above zero at least one of them, and never the last one.
    seed
        Of the choice.

    Returns
    -------
    kept, held
        Each in the order of ``structures``; ``held`` is empty when there is one parent or ``fraction`` is 0.

    Raises
    ------
    StructureError
        If there are no structures.
    """
    if not structures:
        raise StructureError("there are no labelled structures to pretrain on")
    parent_of = [str(atoms.info.get("parent_id", structure_id(atoms))) for atoms in structures]
    parents = list(dict.fromkeys(parent_of))
    count = min(round(fraction * len(parents)) or (1 if fraction > 0 else 0), len(parents) - 1)
    held = {parents[k] for k in np.random.default_rng([seed, 0xA0612]).permutation(len(parents))[:count]}
    sides: tuple[list[Atoms], list[Atoms]] = ([], [])
    for atoms, parent in zip(structures, parent_of, strict=True):
        sides[parent in held].append(atoms)
    return sides


def _order(kinds: list[str], seed: int) -> np.ndarray:
    """Indices such that any leading share of them is a fair sample of every kind."""
    rng = np.random.default_rng(seed)
    labels = np.array(kinds)
    quantile = np.empty(len(kinds))
    for kind in sorted(Counter(kinds)):
        members = np.flatnonzero(labels == kind)
        quantile[rng.permutation(members)] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.lexsort((rng.random(len(kinds)), quantile))


def _sizes(n: int, shares: np.ndarray) -> list[int]:
    """Whole numbers near ``n * shares``; none is 0 where the share is not and ``n`` allows it."""
    ideal = n * shares
    sizes = np.floor(ideal + 1e-9).astype(int)
    for k in np.argsort(-(ideal - sizes), kind="stable")[: n - sizes.sum()]:
        sizes[k] += 1
    for k in np.flatnonzero(shares > 0):  # train first, then val, then test
        largest = int(np.argmax(sizes))
        if sizes[k] == 0 and sizes[largest] > 1:
            sizes[k] += 1
            sizes[largest] -= 1
    if sizes[0] == 0:
        sizes[0], sizes[int(np.argmax(sizes))] = 1, sizes.max() - 1
    return sizes.tolist()
