"""Splits that keep materials whole."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from ase import Atoms

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.structures import split_structures, structure_id
from mdl_physpretrain.structures.groups import composition, group_names, share_of_repeated


def cells(sizes: dict[str, int], tag: str = "topology") -> list[Atoms]:
    made = [Atoms("Cu", info={tag: name, "structure_id": f"{name}-{k}"}) for name, n in sizes.items() for k in range(n)]
    return [made[k] for k in np.random.default_rng(1).permutation(len(made))]


def values(structures: list[Atoms], tag: str = "topology") -> set[str]:
    return {atoms.info[tag] for atoms in structures}


def test_the_composition_is_the_reduced_formula() -> None:
    assert composition(Atoms("Li2Mn2O4")) == composition(Atoms("O2LiMn")) == composition(Atoms("Li4Mn4O8"))
    assert composition(Atoms("Li2Mn2O4")) != composition(Atoms("Li2MnO4"))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("sizes", "fractions", "expected"),
    [
        ([62, 56, 21, 19, 12, 9, 9, 8, *[4] * 15, *[1] * 44], (0.8, 0.1, 0.1), (240, 30, 30)),
        ([5, 4, 3, 3, 3, 2], (0.5, 0.25, 0.25), (10, 5, 5)),
        ([7] * 12, (0.7, 0.15, 0.15), (56, 14, 14)),
        ([90, 5, 5], (0.8, 0.1, 0.1), (90, 5, 5)),  # one too large for its part
        ([50, 50, 50], (0.8, 0.1, 0.1), (50, 50, 50)),
        ([7, 13], (0.65, 0.0, 0.35), (13, 0, 7)),
        ([10, 1, 1], (1.0, 0.0, 0.0), (12, 0, 0)),
        ([300, 1, 1], (0.01, 0.01, 0.98), (1, 1, 300)),
    ],
)
def test_whole_groups_meet_the_shares(
    sizes: list[int], fractions: tuple[float, float, float], expected: tuple[int, int, int], seed: int
) -> None:
    structures = cells({f"g{k}": n for k, n in enumerate(sizes)})
    split = split_structures(structures, fractions=fractions, seed=seed, group_by="topology")
    assert tuple(map(len, split)) == expected
    of_parts = [values(part) for part in split]
    assert sum(map(len, of_parts)) == len(sizes), "a group is in two parts"
    assert {id(a) for part in split for a in part} == {id(a) for a in structures}
    again = split_structures(structures, fractions=fractions, seed=seed, group_by="topology")
    assert [list(map(id, part)) for part in again] == [list(map(id, part)) for part in split]


def test_other_seeds_choose_other_groups_and_large_ones_are_not_kept_out_of_the_test() -> None:
    structures = cells({"big": 30, "large": 30, **{f"g{k}": 5 for k in range(28)}})
    tests = [values(split_structures(structures, seed=s, group_by="topology", fractions=(0.5, 0.2, 0.3)).test)
             for s in range(12)]  # fmt: skip
    assert len({frozenset(t) for t in tests}) > 8
    assert any(t & {"big", "large"} for t in tests)


def test_usage_keeps_structures_of_the_training_part_and_is_nested() -> None:
    structures = cells({f"g{k}": 10 for k in range(20)})
    full, half, tenth = (split_structures(structures, usage=u, group_by="topology") for u in (1.0, 0.5, 0.1))
    assert (len(full.train), len(half.train), len(tenth.train)) == (160, 80, 16)
    ids = [{structure_id(a) for a in s.train} for s in (full, half, tenth)]
    assert ids[2] < ids[1] < ids[0]
    assert list(map(structure_id, tenth.test)) == list(map(structure_id, full.test))


def test_kinds_are_shared_out_as_far_as_groups_allow() -> None:
    structures = cells({f"g{k}": 5 for k in range(40)})
    for atoms in structures:
        atoms.info["phase"] = "solid" if int(atoms.info["topology"][1:]) < 20 else "liquid"
    for seed in range(3):
        split = split_structures(structures, seed=seed, group_by="topology", stratify="phase")
        assert [Counter(a.info["phase"] for a in part)["solid"] for part in split] == [80, 10, 10]


def test_a_tag_that_makes_groups_makes_no_kinds() -> None:
    sizes = {f"g{k}": n for k, n in enumerate([30, 20, 20, *[5] * 8, *[1] * 20])}
    for stratify in ("topology", "auto", None):
        split = split_structures(cells(sizes), group_by="topology", stratify=stratify)
        assert list(map(len, split)) == [104, 13, 13]


def test_a_parent_stays_with_its_children() -> None:
    structures = cells({f"p{k}": 4 for k in range(10)}, "parent_id")
    structures += [Atoms("Cu", info={"structure_id": f"p{k}"}) for k in range(10)]
    split = split_structures(structures, group_by="parent_id")
    families = [{a.info.get("parent_id", a.info["structure_id"]) for a in part} for part in split]
    assert list(map(len, families)) == [8, 1, 1]
    assert not families[0] & (families[1] | families[2])


def test_the_share_of_repeated_compositions() -> None:
    train, test = [Atoms("LiMnO2"), Atoms("Li")], [Atoms("Li2Mn2O4"), Atoms("Mn")]
    assert share_of_repeated(test, train) == 0.5
    assert np.isnan(share_of_repeated([], train))
    assert group_names(test, "structure") == ["0", "1"]


def test_what_cannot_be_split() -> None:
    with pytest.raises(StructureError, match=r"field split_by: 2 groups \(a, b\) cannot fill train, val, test"):
        split_structures(cells({"a": 30, "b": 30}), group_by="topology")
    with pytest.raises(StructureError, match=r"1 group \(Cu\) cannot fill train, val, test"):
        split_structures(cells({"a": 30}), group_by="composition")
    with pytest.raises(StructureError, match=r"no structure has the tag 'topolgy'; there are .*topology"):
        split_structures(cells({"a": 30}), group_by="topolgy")
    lacking = cells({"a": 3, "b": 3, "c": 3})
    del lacking[4].info["topology"]
    with pytest.raises(StructureError, match=rf"structure {lacking[4].info['structure_id']}.*lacks the tag 'topology'"):
        split_structures(lacking, group_by="topology")
