"""Groups of structures that a split must not tear apart: of one composition, or with one value of a tag."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from ase import Atoms

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.structures.labels import structure_id

__all__ = ["COMPOSITION", "EACH", "composition", "deal_groups", "group_names", "grouping_tags", "share_of_repeated"]

EACH, COMPOSITION = "structure", "composition"
PARTS = ("train", "val", "test")
ATTEMPTS, ENOUGH = 500, 25
DRAWS = 200_000  # of a part for a group in all attempts together, at most


def composition(atoms: Atoms) -> str:
    """The reduced formula, e.g. ``LiMnO2`` of any number of formula units."""
    return str(atoms.symbols.formula.reduce()[0].format("hill"))


def group_names(structures: Sequence[Atoms], group_by: str, field: str = "split_by") -> list[str]:
    """The group of every structure.

    Parameters
    ----------
    structures
        With ``info["structure_id"]``.
    group_by
        ``"structure"`` (each its own), ``"composition"``, or the name of an
        ``info`` tag. A structure without ``parent_id`` is its own parent.
    field
        Option that errors name.

    Raises
    ------
    StructureError
        If a structure lacks the tag.
    """
    if group_by == EACH:
        return [f"{k}" for k in range(len(structures))]
    if group_by == COMPOSITION:
        return [composition(atoms) for atoms in structures]
    if not any(group_by in atoms.info for atoms in structures):
        tags = sorted({key for atoms in structures for key in atoms.info})
        raise StructureError(
            f"no structure has the tag {group_by!r}; there are 'structure', 'composition' and the tags "
            f"{', '.join(tags)}",
            field=field,
        )
    names = []
    for k, atoms in enumerate(structures):
        if group_by not in atoms.info and group_by != "parent_id":
            name = atoms.info.get("structure_id", k)
            raise StructureError(f"lacks the tag {group_by!r}, which others have", structure=name, field=field)
        names.append(str(atoms.info[group_by] if group_by in atoms.info else structure_id(atoms)))
    return names


def grouping_tags(structures: Sequence[Atoms]) -> dict[str, int]:
    """Tags in words that every structure has and several share, with the number of their values: enough to split by."""
    shared = set.intersection(*(set(atoms.info) for atoms in structures)) if structures else set()
    values = {tag: [atoms.info[tag] for atoms in structures] for tag in sorted(shared)}
    counts = {tag: len(set(words)) for tag, words in values.items() if all(isinstance(w, str) for w in words)}
    return {tag: count for tag, count in counts.items() if len(PARTS) <= count <= len(structures) // 2}


def share_of_repeated(structures: Sequence[Atoms], others: Sequence[Atoms], group_by: str = COMPOSITION) -> float:
    """Share of structures whose group (composition) occurs among the others; NaN where there are none."""
    names = group_names([*structures, *others], group_by)
    known = set(names[len(structures) :])
    return float(np.mean([name in known for name in names[: len(structures)]])) if structures else float("nan")


def deal_groups(names: Sequence[str], kinds: Sequence[str], shares: np.ndarray, seed: int) -> np.ndarray:
    """Give whole groups to train, val and test.

    Parameters
    ----------
    names, kinds
        Group and kind of every structure, shape (n,). Each kind is shared out
        in proportion, as far as whole groups allow; that of a group is its
        commonest.
    shares
        Of structures, shape (3,); they add up to 1.
    seed
        Of the choice.

    Returns
    -------
    numpy.ndarray
        0, 1 or 2 for every structure, shape (n,).

    Raises
    ------
    StructureError
        If there are fewer groups than parts with a share.

    Notes
    -----
    Large groups come first; each goes to a part drawn in proportion to what
    the parts still lack, so that no part gets large groups only, and small
    ones fill what is left. Of many attempts the one nearest to the shares
    counts, and of equals that whose numbers of groups are nearest to them, too.
    """
    members: dict[str, list[int]] = {}
    for k, name in enumerate(names):
        members.setdefault(name, []).append(k)
    wanted = [k for k in range(3) if shares[k] > 0]
    if len(members) < len(wanted):
        counted = f"{len(members)} group" + ("" if len(members) == 1 else "s") + f" ({', '.join(sorted(members))})"
        raise StructureError(f"{counted} cannot fill {', '.join(PARTS[k] for k in wanted)}", field="split_by")
    kind_of = {name: Counter(kinds[k] for k in ks).most_common(1)[0][0] for name, ks in members.items()}
    if len(set(kind_of.values())) == len(members):  # each its own kind: there is nothing to share out
        kind_of = dict.fromkeys(members, "")
    groups = [(kind_of[name], len(ks), name) for name, ks in members.items()]
    rng = np.random.default_rng([seed, 0x6B0])
    best: dict[str, int] = {}
    nearest = np.inf, np.inf
    for attempt in range(1, 1 + max(1, min(ATTEMPTS, DRAWS // len(groups)))):
        dealt = _attempt(groups, shares.tolist(), rng)
        parts = [dealt[name] for _, _, name in groups]
        excess = np.bincount(parts, [size for _, size, _ in groups], minlength=3) - shares * len(names)
        of_groups = np.bincount(parts, minlength=3) - shares * len(groups)
        distance = round(float(excess @ excess), 6), float(of_groups @ of_groups)
        if distance < nearest:
            best, nearest = dealt, distance
        if attempt >= ENOUGH and nearest[0] < 3:  # whole structures come hardly nearer
            break
    return np.array([best[name] for name in names])


def _attempt(groups: Sequence[tuple[str, int, str]], shares: list[float], rng: np.random.Generator) -> dict[str, int]:
    """The part of every group (of a kind, with its size)."""
    totals = Counter[str]()
    for kind, size, _ in groups:
        totals[kind] += size
    rank = dict(zip(sorted(totals), rng.permutation(len(totals)).tolist(), strict=True))
    chance, draw = rng.random((2, len(groups))).tolist()
    order = sorted(range(len(groups)), key=lambda g: (rank[groups[g][0]], -groups[g][1], chance[g]))
    wanted = [k for k in range(3) if shares[k] > 0]
    empty, lacking, dealt, last = list(wanted), [0.0, 0.0, 0.0], {}, None
    for left, g in zip(range(len(order), 0, -1), order, strict=True):
        kind, size, name = groups[g]
        if kind != last:
            lacking = [have + totals[kind] * share for have, share in zip(lacking, shares, strict=True)]
            last = kind
        allowed = empty if left <= len(empty) else wanted
        fits = [k for k in allowed if lacking[k] > size - 0.5]
        part, aim = max(allowed, key=lacking.__getitem__), draw[g] * sum(lacking[k] for k in fits)
        for k in fits:
            aim -= lacking[k]
            if aim < 0:
                part = k
                break
        lacking[part] -= size
        if part in empty:
            empty.remove(part)
        dealt[name] = part
    return dealt
