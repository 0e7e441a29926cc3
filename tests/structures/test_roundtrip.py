"""What is written is read back: labels, identifiers, tags, arrays, constraints."""

from __future__ import annotations

import json

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian

from mdl_physpretrain.structures import get_labels, read_structures, write_structures

FORMATS = ["extxyz", "xyz", "json", "db", "traj", "extxyz.gz", "json.gz"]

TRICKY_INFO = {
    "number-like": "007",
    "exponent": "1e5",
    "boolean-like": "T",
    "nan-like": "nan",
    "empty": "",
    "blank": "two words",
    "quotes": "a \"b\" 'c' {d} [e] \\f",
    "newline": "a\nb",
    "unicode": "Å³ café",
    "json-like": '_JSON {"a": 1}',
    "comma": "1,2",
    "equals": "a=b",
    "none": None,
    "true": True,
    "count": 3,
    "ratio": 0.1 + 0.2,
    "vector": np.array([1.0, 2.5, -1e-17]),
    "one": np.array([1.5]),
    "mask": np.array([True, False]),
    "matrix": np.arange(6.0).reshape(2, 3),
    "words": ["x", "y z"],
    "nested": {"a": {"b": 2}},
}


def provenance(structures: list[Atoms]) -> list[Atoms]:
    """What augmentation and labelling leave in structures."""
    rng = np.random.default_rng(3)
    for k, atoms in enumerate(structures):
        atoms.info |= {
            "parent_id": f"p {k}",
            "aug_round": k,
            "aug_pull": 1.0 / 3.0,
            "aug_perturb": 0.2,
            "aug_seed": 2**40,
        }
        atoms.info |= {"label_source": "eam", "config_type": f"kind{k % 3}"}
        atoms.arrays["aug_displacement"] = rng.normal(scale=1e-3, size=(len(atoms), 3))
    return structures


def same(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.shape(a) == np.shape(b) and np.array_equal(np.asarray(a), np.asarray(b))
    return a == b and (isinstance(b, np.generic) or type(a) is type(b))  # ASE's reader gives NumPy scalars


def assert_same(a: Atoms, b: Atoms) -> None:
    assert np.array_equal(a.numbers, b.numbers)
    assert np.array_equal(a.positions, b.positions)
    assert np.array_equal(a.cell.array, b.cell.array)
    assert np.array_equal(a.pbc, b.pbc)
    for name in ("energy", "forces", "stress"):
        x, y = getattr(get_labels(a), name), getattr(get_labels(b), name)
        assert (x is None) == (y is None), name
        assert x is None or np.array_equal(x, y), name
    assert set(a.info) == set(b.info)
    for key in a.info:
        assert same(a.info[key], b.info[key]), (key, a.info[key], b.info[key])
    assert set(a.arrays) == set(b.arrays)
    for key in a.arrays:
        assert same(a.arrays[key], b.arrays[key]), key


@pytest.mark.parametrize("suffix", FORMATS)
def test_labels_ids_provenance_survive_exactly(tmp_path, rocksalt, suffix):
    path = tmp_path / f"a.{suffix}"
    write_structures(path, provenance(rocksalt))
    again = read_structures(path)
    assert len(again) == len(rocksalt)
    for a, b in zip(rocksalt, again, strict=True):
        assert_same(a, b)
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize("suffix", ["extxyz", "json", "db", "traj"])
def test_random_structures_survive(tmp_path, suffix):
    rng = np.random.default_rng(0)
    structures = []
    for k in range(25):
        n = int(rng.integers(1, 6))
        atoms = Atoms(rng.integers(1, 100, n), rng.normal(scale=10.0 ** rng.integers(-3, 4), size=(n, 3)))
        if k % 2:
            atoms.cell, atoms.pbc = rng.normal(size=(3, 3)) * 5, rng.integers(0, 2, 3).astype(bool)
        atoms.info["structure_id"] = f"random {k}"
        labels = {"energy": rng.normal(), "forces": rng.normal(size=(n, 3)), "stress": rng.normal(size=6)}
        kept = {name: value for name, value in labels.items() if rng.random() < 0.6}
        if kept:
            atoms.calc = SinglePointCalculator(atoms, **kept)
        atoms.arrays["spin"] = rng.normal(size=n)
        atoms.arrays["vec"] = rng.normal(size=(n, 3))
        atoms.arrays["big"] = rng.integers(0, 2**50, n)
        structures.append(atoms)
    write_structures(tmp_path / f"r.{suffix}", structures)
    for a, b in zip(structures, read_structures(tmp_path / f"r.{suffix}"), strict=True):
        assert_same(a, b)


@pytest.mark.parametrize("suffix", ["extxyz", "json", "db", "traj"])
def test_tricky_info_and_arrays(tmp_path, rocksalt, suffix):
    atoms = rocksalt[0]
    atoms.info |= TRICKY_INFO
    atoms.info["structure_id"] = "0012"
    atoms.arrays["tensor"] = np.random.default_rng(1).normal(size=(8, 3, 3))
    atoms.arrays["column"] = np.arange(8.0).reshape(8, 1)
    atoms.arrays["names"] = np.array(["a", "b c", "", "d", "e", "f", "g", "h"], dtype=object)
    atoms.arrays["flag"] = np.arange(8) % 2 == 0
    atoms.arrays["magmoms"] = np.arange(8.0)  # a name that readers take for a result
    atoms.arrays["with blank:colon"] = np.arange(8)
    write_structures(tmp_path / f"t.{suffix}", atoms)
    assert_same(atoms, read_structures(tmp_path / f"t.{suffix}")[0])


@pytest.mark.parametrize("suffix", ["extxyz", "json", "db", "traj"])
def test_constraints_and_other_results_survive(tmp_path, rocksalt, suffix):
    a, b = rocksalt[:2]
    a.set_constraint(FixAtoms([0, 3]))
    b.set_constraint(FixCartesian(2, mask=(True, False, True)))
    a.calc.results |= {"charges": np.arange(8.0), "dipole": np.array([0.1, 0.2, 0.3])}
    write_structures(tmp_path / f"c.{suffix}", [a, b])
    x, y = read_structures(tmp_path / f"c.{suffix}")
    assert x.constraints[0].index.tolist() == [0, 3]
    assert np.ravel(y.constraints[0].index).tolist() == [2]
    assert np.asarray(y.constraints[0].mask).tolist() == [True, False, True]
    assert np.array_equal(x.calc.results["charges"], np.arange(8.0))
    assert np.array_equal(x.calc.results["dipole"], [0.1, 0.2, 0.3])


def test_ase_reads_our_extxyz_and_we_read_ases(tmp_path, rocksalt):
    provenance(rocksalt)
    write_structures(tmp_path / "ours.extxyz", rocksalt)
    for a, b in zip(rocksalt, ase.io.read(tmp_path / "ours.extxyz", ":"), strict=True):
        assert_same(a, b)
    ase.io.write(tmp_path / "theirs.extxyz", rocksalt)
    for a, b in zip(rocksalt, read_structures(tmp_path / "theirs.extxyz"), strict=True):
        assert np.allclose(a.positions, b.positions, atol=1e-8)
        assert np.allclose(a.get_forces(), b.get_forces(), atol=1e-8)
        assert np.allclose(a.get_stress(), b.get_stress(), rtol=1e-12)
        assert np.allclose(a.arrays["aug_displacement"], b.arrays["aug_displacement"], atol=1e-8)
        assert a.info == b.info


def test_json_is_what_matdeeplearn_reads(tmp_path, rocksalt):
    del rocksalt[1].calc.results["stress"]
    rocksalt[2].calc = None
    write_structures(tmp_path / "d.json", rocksalt)
    entries = json.loads((tmp_path / "d.json").read_text())
    assert {"structure_id", "atomic_numbers", "positions", "cell", "y", "forces", "stress"} <= set(entries[0])
    assert np.shape(entries[0]["stress"]) == (1, 3, 3)
    assert np.shape(entries[0]["cell"]) == (3, 3)
    assert entries[0]["y"] == rocksalt[0].get_potential_energy()
    assert "stress" not in entries[1]
    assert entries[2]["y"] is None


def test_foreign_matdeeplearn_entries(tmp_path):
    entry = {
        "structure_id": 17,
        "atomic_numbers": [8, 1, 1],
        "positions": [[0, 0, 0], [1, 0, 0], [0, 1, 0]],
        "cell": [[[9, 0, 0], [0, 9, 0], [0, 0, 9]]],
        "y": [[-14.5]],
        "forces": [[0, 0, 0.5]] * 3,
        "stress": [[[1, 2, 3], [2, 4, 5], [3, 5, 6]]],
        "velocity": [[1, 2, 3]] * 3,
        "band_gap": 1.5,
        "fingerprint": [1, 2, 3],
    }
    molecule = {k: v for k, v in entry.items() if k in {"atomic_numbers", "positions"}}
    (tmp_path / "m.json").write_text(json.dumps([entry, molecule]))
    first, second = read_structures(tmp_path / "m.json")
    assert first.info["structure_id"] == "17"
    assert first.get_potential_energy() == -14.5
    assert first.get_stress(voigt=False).tolist() == entry["stress"][0]
    assert first.pbc.all()
    assert first.info["band_gap"] == 1.5
    assert np.array_equal(first.info["fingerprint"], [1, 2, 3])
    assert first.arrays["velocity"].shape == (3, 3)
    assert second.info["structure_id"] == "m-1"
    assert not second.pbc.any()
    assert second.calc is None


def test_partial_labels_stay_partial(tmp_path, rocksalt):
    rocksalt[0].calc = None
    del rocksalt[1].calc.results["stress"]
    del rocksalt[2].calc.results["forces"]
    del rocksalt[3].calc.results["energy"]
    for suffix in ("extxyz", "json"):
        write_structures(tmp_path / f"p.{suffix}", rocksalt)
        again = [get_labels(atoms) for atoms in read_structures(tmp_path / f"p.{suffix}")]
        assert [x.energy is None for x in again[:4]] == [True, False, False, True]
        assert [x.forces is None for x in again[:4]] == [True, False, True, False]
        assert [x.stress is None for x in again[:4]] == [True, True, False, False]


def test_formats_that_lose_say_so(tmp_path, rocksalt):
    with pytest.warns(UserWarning, match="may not hold.*structure_id"):
        write_structures(tmp_path / "a.cif", rocksalt[:1])
    assert len(read_structures(tmp_path / "a.cif")) == 1


def test_failed_write_keeps_the_old_file(tmp_path, rocksalt, monkeypatch):
    path = tmp_path / "a.extxyz"
    write_structures(path, rocksalt[:2])
    before = path.read_bytes()
    rocksalt[1].positions = np.zeros((8, 3))

    def full_disk(stream, structures):
        stream.write("8\n")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mdl_physpretrain.structures.formats.write_extxyz", full_disk)
    with pytest.raises(ValueError, match=r"a\.extxyz: cannot be written: No space left"):
        write_structures(path, rocksalt)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.extxyz"]


@pytest.mark.parametrize("name", ["lmo_val", "inp", "mo_nb_ta_w", "silica_zeolites"])
def test_real_data_survives(tmp_path, shared_data, name):
    structures = read_structures(shared_data / f"{name}.extxyz", index=":40")
    reference = ase.io.read(shared_data / f"{name}.extxyz", ":40")
    for a, b in zip(structures, reference, strict=True):
        assert_same(a, b)
    for suffix in ("extxyz", "json"):
        write_structures(tmp_path / f"x.{suffix}", structures)
        for a, b in zip(structures, read_structures(tmp_path / f"x.{suffix}"), strict=True):
            assert_same(a, b)
