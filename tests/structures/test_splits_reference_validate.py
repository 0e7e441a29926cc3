"""Splits, reference energies, and the checks before use."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.structures import (
    get_labels,
    label_counts,
    read_structures,
    reference_energies,
    split_structures,
    structure_id,
    validate_structures,
)


def many(counts: dict[str, int], tag: str | None = "config_type") -> list[Atoms]:
    structures = []
    for kind, n in counts.items():
        for k in range(n):
            atoms = Atoms("Cu")
            atoms.info["structure_id"] = f"{kind}-{k}"
            if tag:
                atoms.info[tag] = kind
            structures.append(atoms)
    return structures


def ids(structures: list[Atoms]) -> list[str]:
    return [structure_id(atoms) for atoms in structures]


def test_split_is_a_seeded_partition():
    structures = many({"a": 57}, tag=None)
    split = split_structures(structures, seed=4)
    assert sum(len(part) for part in split) == 57
    assert abs(len(split.train) - 45.6) < 1
    assert abs(len(split.test) - 5.7) < 1
    assert sorted(ids([*split.train, *split.val, *split.test])) == sorted(ids(structures))
    assert ids(split.train) == ids(split_structures(structures, seed=4).train)
    assert ids(split.train) != ids(split_structures(structures, seed=5).train)


@pytest.mark.parametrize("tag", ["config_type", "topology"])
@pytest.mark.parametrize("seed", range(5))
def test_every_kind_is_shared_out_in_proportion(tag, seed):
    counts = {"a": 100, "b": 50, "c": 10, "d": 3, "lonely": 1}
    split = split_structures(many(counts, tag), seed=seed)
    assert abs(len(split.train) - 131) <= 1
    for part, share in zip(split, (0.8, 0.1, 0.1), strict=True):
        found = Counter(atoms.info[tag] for atoms in part)
        for kind, n in counts.items():
            assert abs(found[kind] - share * n) <= 2, (kind, found)


def test_usage_restricts_training_only_and_is_nested_and_stratified():
    structures = many({"a": 200, "b": 100, "c": 100})
    full = split_structures(structures, seed=1)
    tenth = split_structures(structures, seed=1, usage=0.1)
    half = split_structures(structures, seed=1, usage=0.5)
    assert (len(full.train), len(half.train), len(tenth.train)) == (320, 160, 32)
    assert set(ids(tenth.train)) < set(ids(half.train)) < set(ids(full.train))
    assert (ids(tenth.val), ids(tenth.test)) == (ids(full.val), ids(full.test))
    found = Counter(atoms.info["config_type"] for atoms in tenth.train)
    assert abs(found["a"] - 16) <= 2
    assert abs(found["b"] - 8) <= 2
    assert abs(found["c"] - 8) <= 2


def test_stratify_none_ignores_the_tag_and_auto_ignores_useless_ones():
    structures = many({"a": 60, "b": 60})
    assert ids(split_structures(structures, stratify=None).train) != ids(split_structures(structures).train)
    unique = many({f"k{k}": 1 for k in range(40)})  # every structure its own kind
    assert ids(split_structures(unique).train) == ids(split_structures(unique, stratify=None).train)


@pytest.mark.parametrize(
    ("n", "sizes"), [(1, [1, 0, 0]), (2, [1, 1, 0]), (3, [1, 1, 1]), (5, [3, 1, 1]), (10, [8, 1, 1])]
)
def test_small_datasets(n, sizes):
    split = split_structures(many({"a": n}))
    assert [len(part) for part in split] == sizes
    assert len(split_structures(many({"a": n}), usage=0.01).train) == 1


def test_zero_shares_stay_empty():
    assert [len(part) for part in split_structures(many({"a": 20}), fractions=(0.9, 0.1, 0.0))] == [18, 2, 0]
    assert [len(part) for part in split_structures(many({"a": 20}), fractions=(1, 0, 0))] == [20, 0, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fractions": (0.8, 0.3, 0.1)}, "field fractions: .*add up to 1"),
        ({"fractions": (0.8, 0.2)}, "field fractions: .*three shares"),
        ({"fractions": (1.2, -0.1, -0.1)}, "field fractions"),
        ({"fractions": (float("nan"), 0.5, 0.5)}, "field fractions"),
        ({"fractions": (0, 0.5, 0.5)}, "training share is 0"),
        ({"usage": 0.0}, r"field usage: 0.0 is not in \(0, 1\]"),
        ({"usage": 10}, r"field usage: 10 is not in \(0, 1\] \(10% is 0.1\)"),
        ({"usage": float("nan")}, "field usage"),
        ({"stratify": "nonsense"}, "field nonsense: no structure has this tag"),
    ],
)
def test_split_options_out_of_range(options, message):
    with pytest.raises(StructureError, match=message):
        split_structures(many({"a": 10}), **options)


def test_split_of_nothing():
    with pytest.raises(StructureError, match="no structure to split"):
        split_structures([])


def test_reference_energies_recover_a_sum_over_atoms():
    truth = {"H": -3.0, "O": -7.5, "Si": -5.25}
    rng = np.random.default_rng(0)
    structures = []
    for _ in range(20):
        symbols = rng.choice(list(truth), size=rng.integers(1, 9)).tolist()
        atoms = Atoms(symbols, np.zeros((len(symbols), 3)))
        atoms.calc = SinglePointCalculator(atoms, energy=sum(truth[s] for s in symbols))
        structures.append(atoms)
    structures[0].calc = None
    found = reference_energies(structures)
    assert list(found) == ["H", "O", "Si"]
    assert found == pytest.approx(truth, abs=1e-9)


def test_reference_energies_of_one_composition_have_minimum_norm(rocksalt):
    found = reference_energies(rocksalt)
    mean = np.mean([get_labels(a).energy for a in rocksalt])
    assert found["Mg"] == pytest.approx(mean / 8)
    assert found["O"] == pytest.approx(mean / 8)


def test_reference_energies_need_an_energy(rocksalt):
    with pytest.raises(StructureError, match="field energy: no structure has an energy"):
        reference_energies([Atoms("Cu")])
    with pytest.raises(StructureError, match="no structure has an energy"):
        reference_energies([])


def test_valid_structures_pass(rocksalt, zoo):
    assert validate_structures(rocksalt) == rocksalt
    zoo["far"] = Atoms("H2", [[0, 0, 0], [1e9, 0, 0]])
    assert len(validate_structures(list(zoo.values()), require=())) == len(zoo)
    assert len({a.info["structure_id"] for a in zoo.values()}) == len(zoo)


def spoil(atoms: Atoms, how: str) -> Atoms:
    match how:
        case "nan position":
            atoms.positions[3, 1] = np.nan
        case "nan cell":
            atoms.cell.array[0, 0] = np.nan
        case "nan energy":
            atoms.calc.results["energy"] = np.nan
        case "inf forces":
            atoms.calc.results["forces"][2, 0] = np.inf
        case "nan stress":
            atoms.calc.results["stress"][0] = np.nan
        case "short forces":
            atoms.calc.results["forces"] = np.zeros((7, 3))
        case "word energy":
            atoms.calc.results["energy"] = "low"
        case "no atoms":
            return Atoms(info=atoms.info)
        case "element":
            atoms.numbers[2] = 0
        case "no cell":
            atoms.cell[:] = 0
        case "half a cell":
            atoms.cell[2] = 0
        case "flat cell":
            atoms.cell[1] = atoms.cell[0]
        case "overlap":
            atoms.positions[5] = atoms.positions[1] + [0.004, 0, 0]
        case "overlap of images":
            atoms.positions[5] = atoms.positions[1] + atoms.cell[0] - 2 * atoms.cell[2] + [0.002, -0.003, 0]
    return atoms


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("nan position", r"field positions: NaN or infinite value \(atom 3\)"),
        ("nan cell", "field cell: NaN"),
        ("nan energy", "field energy: NaN or infinite label"),
        ("inf forces", "field forces: NaN or infinite label"),
        ("nan stress", "field stress: NaN or infinite label"),
        ("short forces", r"field forces: shape \(7, 3\) instead of \(8, 3\)"),
        ("word energy", "field labels: a label is not numeric"),
        ("no atoms", "no atoms"),
        ("element", "field atomic_numbers: unknown element: atomic number 0"),
        ("no cell", "field cell: periodic along a, b, c but without a cell vector"),
        ("half a cell", "field cell: periodic along c but"),
        ("flat cell", "field cell: cell vectors are linearly dependent"),
        ("overlap", r"field positions: atoms 1 and 5 lie on top of each other"),
        ("overlap of images", r"field positions: atoms 1 and 5 lie on top of each other"),
    ],
)
def test_bad_structures_are_named(rocksalt, how, message):
    rocksalt[3] = spoil(rocksalt[3], how)
    with pytest.raises(StructureError, match=message) as caught:
        validate_structures(rocksalt)
    assert caught.value.structure == "mgo-3"


@pytest.mark.parametrize("pbc", [(1, 1, 1), (1, 0, 0), (0, 0, 0)])
def test_overlap_across_faces_only_where_periodic(pbc):
    cell = np.array([[4.0, 0, 0], [2.0, 3.5, 0], [0.5, 1.0, 6.0]])
    for axis in range(3):
        atoms = Atoms("H2", [[0.0, 0.0, 0.0], cell[axis] + [0, 0, 0.004]], cell=cell, pbc=pbc)
        if pbc[axis]:
            with pytest.raises(StructureError, match="atoms 0 and 1 lie on top"):
                validate_structures([atoms], require=())
        else:
            validate_structures([atoms], require=())
    corner = Atoms("H2", [[0.001, 0.001, 0.001], cell.sum(axis=0) - 0.001], cell=cell, pbc=True)
    with pytest.raises(StructureError, match="atoms 0 and 1 lie on top"):
        validate_structures([corner], require=())


def test_several_problems_are_counted(rocksalt):
    for k in (2, 5, 6):
        spoil(rocksalt[k], "nan energy")
    with pytest.raises(StructureError, match=r"structure mgo-2, .*and 2 more of 8 .*mgo-5, mgo-6"):
        validate_structures(rocksalt)


def test_unknown_element_from_a_file(tmp_path):
    (tmp_path / "x.extxyz").write_text("1\n\nX 0 0 0\n")
    with pytest.raises(StructureError, match="structure 0, field species: unknown element"):
        validate_structures(read_structures(tmp_path / "x.extxyz"), require=())


def test_missing_labels_are_counted_not_fatal(rocksalt):
    for atoms in rocksalt[:3]:
        del atoms.calc.results["stress"]
    rocksalt[7].calc = None
    assert label_counts(rocksalt) == {"structures": 8, "energy": 7, "forces": 7, "stress": 4}
    with pytest.warns(UserWarning, match=r"1 of 8 structures have no energy \(first: mgo-7\)"):
        validate_structures(rocksalt, require=("energy",))
    validate_structures(rocksalt, partial="allow")
    with pytest.raises(StructureError, match="field stress: 4 of 8 structures have no stress"):
        validate_structures(rocksalt, require=("stress",), partial="error")
    with pytest.raises(StructureError, match="field forces: none of the 1 structures has this label"):
        validate_structures([molecule("H2O")], require=("forces",))


def test_wrong_input(rocksalt):
    with pytest.raises(StructureError, match="dataset is empty"):
        validate_structures([])
    with pytest.raises(StructureError, match=r"structure 1: expected ase.Atoms, found str"):
        validate_structures([rocksalt[0], "mgo"])
    rocksalt[4].info["structure_id"] = "mgo-1"
    with pytest.raises(StructureError, match=r"structure mgo-1, .*duplicate identifier, at positions 1 and 4"):
        validate_structures(rocksalt)
    with pytest.raises(StructureError, match="'force' is not a label"):
        validate_structures(rocksalt[:2], require=("force",))


def test_real_data_is_valid_and_split_by_topology(shared_data):
    structures = validate_structures(read_structures(shared_data / "silica_zeolites.extxyz", index="::10"))
    kinds = Counter(atoms.info["topology"] for atoms in structures)
    split = split_structures(structures, usage=0.5, seed=2)
    assert all(abs(Counter(a.info["topology"] for a in split.train)[kind] - 0.4 * n) <= 2 for kind, n in kinds.items())
    energies = reference_energies(structures)
    assert set(energies) == {"O", "Si"}
    assert 2 * energies["O"] + energies["Si"] == pytest.approx(
        np.mean([get_labels(a).energy / (len(a) / 3) for a in structures]), abs=0.5
    )


def test_single_atom_and_slab_are_fine():
    slab = bulk("MgO", "rocksalt", a=4.2, cubic=True)
    slab.pbc = (True, True, False)
    slab.cell[2] = 0
    validate_structures([Atoms("H"), slab], require=())
