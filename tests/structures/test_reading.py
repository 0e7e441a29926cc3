"""Sources, label names, and bad input: each ends in a message that says where."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

import mdl_physpretrain
from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.structures import get_labels, read_structures, write_structures


@pytest.fixture
def two_files(tmp_path, rocksalt):
    write_structures(tmp_path / "a.extxyz", rocksalt[:3])
    write_structures(tmp_path / "b.json", rocksalt[3:])
    return tmp_path


def strip_ids(structures):
    for atoms in structures:
        atoms.info.pop("structure_id", None)
    return structures


def test_globs_lists_and_memory(two_files, rocksalt):
    ids = [atoms.info["structure_id"] for atoms in rocksalt]
    assert [a.info["structure_id"] for a in read_structures(str(two_files / "[ab].*"))] == ids
    assert [a.info["structure_id"] for a in read_structures([two_files / "b.json", str(two_files / "a*")])] == ids[
        3:
    ] + ids[:3]
    mixed = read_structures([rocksalt[7], [two_files / "a.extxyz"]])
    assert [a.info["structure_id"] for a in mixed] == [ids[7], *ids[:3]]
    assert mixed[0] is not rocksalt[7]
    assert rocksalt[7].get_potential_energy() == mixed[0].get_potential_energy()


def test_index(two_files):
    path = two_files / "a.extxyz"
    assert [a.info["structure_id"] for a in read_structures(path, index=-1)] == ["mgo-2"]
    assert [a.info["structure_id"] for a in read_structures(path, index="::2")] == ["mgo-0", "mgo-2"]
    with pytest.raises(StructureError, match="out of range: it has 3"):
        read_structures(path, index=5)
    with pytest.raises(StructureError, match="not an index or a slice"):
        read_structures(path, index="first")


def test_ids_are_made_from_stem_and_position(tmp_path, rocksalt):
    strip_ids(rocksalt)
    for folder in ("one", "two"):
        write_structures(tmp_path / folder / "run.extxyz", rocksalt[:2])
    names = [a.info["structure_id"] for a in read_structures(str(tmp_path / "*" / "run.extxyz"))]
    assert names == ["run-0", "run-1", "two-run-0", "two-run-1"]
    assert [a.info["structure_id"] for a in read_structures(tmp_path / "one/run.extxyz", index="1:")] == ["run-1"]
    ase.io.write(tmp_path / "t.traj", rocksalt[:4])
    assert [a.info["structure_id"] for a in read_structures(tmp_path / "t.traj", index="1::2")] == ["t-1", "t-3"]
    assert [a.info["structure_id"] for a in read_structures(tmp_path / "t.traj", index=-1)] == ["t-3"]


def test_duplicate_ids(tmp_path, rocksalt):
    write_structures(tmp_path / "a.extxyz", rocksalt[:3])
    write_structures(tmp_path / "b.extxyz", [rocksalt[4], rocksalt[1]])
    both = str(tmp_path / "*.extxyz")
    with pytest.raises(StructureError, match=r"mgo-1.*a\.extxyz at position 1 and in .*b\.extxyz at position 1"):
        read_structures(both)
    with pytest.raises(StructureError, match="the same file was given twice"):
        read_structures([tmp_path / "a.extxyz"] * 2)
    names = [a.info["structure_id"] for a in read_structures(both, duplicates="rename")]
    assert names == ["mgo-0", "mgo-1", "mgo-2", "mgo-4", "mgo-1~2"]


def test_vasp_and_database(tmp_path):
    atoms = bulk("Cu", cubic=True)
    ase.io.write(tmp_path / "POSCAR", atoms, format="vasp")
    (read,) = read_structures(tmp_path / "POSCAR")
    assert read.info["structure_id"] == "POSCAR-0"
    assert np.allclose(read.positions, atoms.positions)
    atoms.calc = EMT()
    atoms.get_forces(), atoms.get_stress()
    ase.io.write(tmp_path / "x.db", [atoms, atoms])
    first, second = read_structures(tmp_path / "x.db")
    assert (first.info["structure_id"], second.info["structure_id"]) == ("x-0", "x-1")
    assert np.allclose(get_labels(first).stress, atoms.get_stress(voigt=False))
    assert len(read_structures(tmp_path / "x.db", index="1:")) == 1
    ase.io.write(tmp_path / "ase.json", [atoms, atoms], format="json")  # ASE's own JSON, not MatDeepLearn's
    assert [len(a) for a in read_structures(tmp_path / "ase.json")] == [4, 4]
    with ase.db.connect(tmp_path / "kvp.db") as database:
        database.write(atoms, structure_id="my-cu", config_type="bulk", data={"vector": [1, 2, 3]})
    (row,) = read_structures(tmp_path / "kvp.db")
    assert (row.info["structure_id"], row.info["config_type"], list(row.info["vector"])) == ("my-cu", "bulk", [1, 2, 3])


@pytest.mark.parametrize("prefix", ["REF_", "dft_", "DFT_"])
def test_other_label_names(tmp_path, rocksalt, prefix):
    structures = []
    for atoms in rocksalt:
        plain = Atoms(atoms)
        plain.calc = None
        plain.info[f"{prefix}energy"] = atoms.get_potential_energy()
        plain.arrays[f"{prefix}forces"] = atoms.get_forces()
        plain.info[f"{prefix}virial"] = -atoms.get_stress(voigt=False) * atoms.get_volume()
        structures.append(plain)
    ase.io.write(tmp_path / "r.extxyz", structures)
    for a, b in zip(rocksalt, read_structures(tmp_path / "r.extxyz"), strict=True):
        assert b.get_potential_energy() == pytest.approx(a.get_potential_energy())
        assert np.allclose(a.get_forces(), b.get_forces(), atol=1e-7)
        assert np.allclose(a.get_stress(), b.get_stress(), rtol=1e-10)
        assert not [key for key in (*b.info, *b.arrays) if key.startswith(prefix)]  # no stale copy stays


def test_explicit_keys_and_disagreement(tmp_path, rocksalt):
    for k, atoms in enumerate(rocksalt):
        atoms.info["REF_energy"] = -100.0 - k
        atoms.info["my_virial"] = np.eye(3) * 2.0
    write_structures(tmp_path / "x.extxyz", rocksalt)
    with pytest.warns(UserWarning, match=r"'energy' and 'REF_energy' differ.*energy_key"):
        plain = read_structures(tmp_path / "x.extxyz")
    assert plain[1].get_potential_energy() == rocksalt[1].get_potential_energy()
    chosen = read_structures(tmp_path / "x.extxyz", energy_key="REF_energy", stress_key="my_virial")
    assert [a.get_potential_energy() for a in chosen] == [-100.0 - k for k in range(8)]
    assert chosen[0].get_stress()[:3] == pytest.approx([-2.0 / chosen[0].get_volume()] * 3)
    with pytest.raises(StructureError, match=r"field RFE_energy: no structure has it as energy; .*REF_energy"):
        read_structures(tmp_path / "x.extxyz", energy_key="RFE_energy")


def test_labels_in_info_and_arrays_of_memory(rocksalt):
    atoms = rocksalt[0]
    bare = Atoms(atoms)
    bare.calc = None
    bare.info |= {"energy": -3.0, "stress": np.arange(6.0)}
    bare.arrays["forces"] = atoms.get_forces()
    (read,) = read_structures(bare)
    assert get_labels(read).energy == -3.0
    assert np.array_equal(read.get_stress(), np.arange(6.0))
    assert np.array_equal(read.get_forces(), atoms.get_forces())
    assert "energy" in bare.info  # the caller's structure is left alone


def test_required_labels(tmp_path, rocksalt):
    del rocksalt[5].calc.results["stress"]
    write_structures(tmp_path / "x.extxyz", rocksalt)
    assert len(read_structures(tmp_path / "x.extxyz", require=("energy", "forces"))) == 8
    with pytest.raises(StructureError, match=r"x\.extxyz, structure mgo-5, field stress: required, but 1 of 8"):
        read_structures(tmp_path / "x.extxyz", require=("energy", "stress"))
    with pytest.raises(StructureError, match="'force' is not a label"):
        read_structures(tmp_path / "x.extxyz", require=("force",))


def test_missing_things(tmp_path):
    with pytest.raises(StructureError, match=r"nothing\.extxyz: no such file"):
        read_structures(tmp_path / "nothing.extxyz")
    with pytest.raises(StructureError, match=r"\*\.extxyz: no file matches"):
        read_structures(str(tmp_path / "*.extxyz"))
    with pytest.raises(StructureError, match="is a folder"):
        read_structures(tmp_path)
    with pytest.raises(StructureError, match="empty list of sources"):
        read_structures([])
    with pytest.raises(StructureError, match="from a int"):
        read_structures(3)
    for name in ("e.extxyz", "e.json", "e.traj"):
        (tmp_path / name).touch()
        with pytest.raises(StructureError, match=rf"{name}: the file is empty"):
            read_structures(tmp_path / name)
    (tmp_path / "n.json").write_text("[]")
    with pytest.raises(StructureError, match=r"n\.json: there is no structure"):
        read_structures(tmp_path / "n.json")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads and writes everything")
def test_no_permission(two_files, rocksalt):
    (two_files / "a.extxyz").chmod(0)
    with pytest.raises(StructureError, match=r"a\.extxyz: cannot be read: Permission denied"):
        read_structures(two_files / "a.extxyz")
    two_files.chmod(0o500)
    with pytest.raises(StructureError, match=r"new\.extxyz: cannot be written: Permission denied"):
        write_structures(two_files / "new.extxyz", rocksalt)
    two_files.chmod(0o700)


def test_unwritable_folder(tmp_path, rocksalt):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StructureError, match=r"out\.extxyz: cannot be written: (Not a directory|File exists)"):
        write_structures(tmp_path / "file" / "out.extxyz", rocksalt)


@pytest.mark.parametrize("suffix", ["extxyz", "json", "traj", "db", "extxyz.gz", "json.gz"])
def test_truncation_anywhere_names_the_file(tmp_path, rocksalt, suffix):
    path = tmp_path / f"cut.{suffix}"
    write_structures(path, rocksalt)
    whole = path.read_bytes()
    for share in (0.03, 0.31, 0.5, 0.77, 0.93):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(StructureError, match=rf"cut\.{suffix}"):
            read_structures(path)


def test_cut_inside_the_last_number(tmp_path, rocksalt):
    ase.io.write(tmp_path / "c.extxyz", rocksalt[:1])
    text = (tmp_path / "c.extxyz").read_text()
    (tmp_path / "c.extxyz").write_text(text[:-4])
    with pytest.raises(StructureError, match=r"the last number .* is cut off"):
        read_structures(tmp_path / "c.extxyz")
    write_structures(tmp_path / "d.extxyz", rocksalt[:1])  # digits vary here: a cut cannot be proven
    (tmp_path / "d.extxyz").write_text((tmp_path / "d.extxyz").read_text()[:-4])
    with pytest.warns(UserWarning, match=r"d\.extxyz: no newline at the end"):
        read_structures(tmp_path / "d.extxyz")
    (tmp_path / "c.extxyz").write_text(text[:-1])  # only the final newline is missing: fine
    assert len(read_structures(tmp_path / "c.extxyz")) == 1


FRAME = '1\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3{extra} {info}\n{row}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FRAME.format(extra="", info="", row="Qq 0 0 0"), "field species: unknown element 'Qq'"),
        (FRAME.format(extra="", info="", row="Cu 0 0 zero"), "line 3: '0 0 zero' is not numeric"),
        (FRAME.format(extra="", info="", row="Cu 0 0"), "line 3: 3 columns instead of 4"),
        (FRAME.format(extra=":forces:R:3", info="", row="Cu 0 0 0"), "line 3: 4 columns instead of 7"),
        (FRAME.format(extra=":forces:R:2", info="", row="Cu 0 0 0 1 1"), r"field forces: shape \(1, 2\)"),
        (FRAME.format(extra=":forces:Q:3", info="", row="Cu 0 0 0 1 1 1"), "unknown column type 'Q'"),
        (
            FRAME.format(extra="", info="energy=much", row="Cu 0 0 0"),
            "structure 0, field energy: 'much' is not numeric",
        ),
        (FRAME.format(extra="", info='stress="1 2 3"', row="Cu 0 0 0"), "line 2: .*3x3"),
        ("two\n\nCu 0 0 0\n", "line 1: expected a number of atoms, found 'two'"),
        ("2\n\nCu 0 0 0\n", "1 of 2 atoms present after line 1; the file is truncated"),
        ('1\nLattice="4 0 0"\nCu 0 0 0\n', "field Lattice: line 2: .*3x3 matrix"),
        ("1\nProperties=species:S:1\nCu\n", "field pos: no three columns of positions"),
    ],
)
def test_malformed_extxyz(tmp_path, text, message):
    (tmp_path / "bad.extxyz").write_text(text)
    with pytest.raises(StructureError, match=message) as caught:
        read_structures(tmp_path / "bad.extxyz")
    assert "bad.extxyz" in str(caught.value)


def test_damage_behind_good_frames_is_not_skipped(tmp_path, rocksalt):
    path = tmp_path / "a.extxyz"
    write_structures(path, rocksalt[:2])
    good = path.read_text()
    path.write_text(good + "\n\n" + good.replace("mgo-", "other-"))  # blank lines, where ASE's reader stops
    assert len(read_structures(path)) == 4
    path.write_text(good + "\n\ngarbage\n")
    with pytest.raises(StructureError, match="structure 2: line 23: expected a number of atoms, found 'garbage'"):
        read_structures(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"structure_id": "a"}]', "structure a, field atomic_numbers: the key is missing"),
        ('[{"atomic_numbers": [1, 8], "positions": [[0, 0, 0]]}]', "structure 0, field positions: expected 2 x 3"),
        ('[{"atomic_numbers": [1], "positions": [[0, 0, 0]], "y": [1, 2]}]', "field y: expected 1 numbers"),
        ('[{"atomic_numbers": [1], "positions": [[0, 0, 0]], "y": "low"}]', "field y: expected 1 numbers"),
        ('[{"atomic_numbers": [1], "positions": [[0, 0, 0]], "forces": [[1, 2]]}]', "field forces: expected 1 x 3"),
        ('[{"atomic_numbers": [1e308], "positions": [[0, 0, 0]]}]', "field atomic_numbers: expected a list of numbers"),
        ('[{"atomic_numbers": [8.5], "positions": [[0, 0, 0]]}]', "field atomic_numbers: expected a list of numbers"),
        ('[{"atomic_numbers": [-1], "positions": [[0, 0, 0]]}]', "unknown element: atomic number -1"),
        (f'[{{"atomic_numbers": [1], "positions": [[0, 0, 0]], "y": 1{"0" * 400}}}]', "field y: expected 1 numbers"),
        ('[{"atomic_numbers": [1], "positions": [[0, 0, 0]], "pbc": [1, 0]}]', "field pbc: expected three booleans"),
        ("[1, 2]", "structure 0: expected a dictionary, found int"),
        ("3", "expected MatDeepLearn's list"),
        ('[{"a": 1},', "not valid JSON at line 1"),
    ],
)
def test_malformed_json(tmp_path, text, message):
    (tmp_path / "bad.json").write_text(text)
    with pytest.raises(StructureError, match=message) as caught:
        read_structures(tmp_path / "bad.json")
    assert "bad.json" in str(caught.value)


@pytest.mark.parametrize("name", ["cells.txt", "cells.cif", "vasprun.xml"])
def test_extxyz_under_another_name_is_recognised(tmp_path, rocksalt, name):
    write_structures(tmp_path / "cells.extxyz", rocksalt)
    (tmp_path / "cells.extxyz").rename(tmp_path / name)
    stem = name.partition(".")[0]
    with pytest.raises(StructureError, match=rf"{name}.*looks like extxyz, so call it {stem}\.extxyz$") as caught:
        read_structures(tmp_path / name)
    assert ": )" not in str(caught.value)
    (tmp_path / name).write_text("12 words\nand some more\n")
    with pytest.raises(StructureError) as caught:
        read_structures(tmp_path / name)
    assert "looks like" not in str(caught.value)


def test_binary_noise(tmp_path):
    noise = np.random.default_rng(0).bytes(2000)
    for name in ("n.extxyz", "n.json", "n.traj", "n.db", "n.extxyz.gz", "n.cif", "n.what", "POSCAR"):
        (tmp_path / name).write_bytes(noise)
        with pytest.raises(StructureError, match=name):
            read_structures(tmp_path / name)


def test_demo_is_read_by_name():
    if not (Path(mdl_physpretrain.__file__).parent / "data" / "demo.extxyz").is_file():
        pytest.skip("the packaged demo.extxyz is not there (yet)")
    structures = read_structures("demo")
    assert len(structures) > 10
    assert all(get_labels(a).energy is not None and get_labels(a).forces is not None for a in structures)
    assert len({a.info["structure_id"] for a in structures}) == len(structures)


def test_missing_demo(tmp_path, monkeypatch):
    monkeypatch.setattr("mdl_physpretrain.structures.datasets.files", lambda package: tmp_path)
    with pytest.raises(StructureError, match="shipped demo data is missing"):
        read_structures("demo")


def test_public_dataset_from_a_local_mirror(tmp_path, rocksalt, monkeypatch):
    write_structures(tmp_path / "P-GAP-20.extxyz", strip_ids(rocksalt))
    monkeypatch.setenv("PHYSPRETRAIN_DATASETS", str(tmp_path))
    structures = read_structures("load-atoms:P-GAP-20", index=":3")
    assert [a.info["structure_id"] for a in structures] == ["P-GAP-20-0", "P-GAP-20-1", "P-GAP-20-2"]
    assert structures[0].get_potential_energy() == rocksalt[0].get_potential_energy()


ENTRY = "name: {0}\nyear: 2020\ncategory: Potential Fitting\nlicense: CC BY 4.0\ndescription: a local stand-in\n"


@pytest.fixture
def no_network(monkeypatch):
    backend = pytest.importorskip("load_atoms.database.backend")

    def refuse(*args):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(backend, "download", refuse)
    monkeypatch.setattr("load_atoms.database.internet.download", refuse)


@pytest.mark.filterwarnings("ignore:Checksum mismatch")
@pytest.mark.parametrize("name", ["P-GAP-20", "SiO2-GAP-22"])
def test_public_dataset_through_load_atoms(tmp_path, rocksalt, no_network, name):
    """load-atoms itself, its importers included, on raw files that are already there."""
    raw = tmp_path / "raw-downloads" / name
    raw.mkdir(parents=True)
    (tmp_path / "database-entries").mkdir()
    (tmp_path / "database-entries" / f"{name}.yaml").write_text(ENTRY.format(name))
    expected = [a.get_stress() for a in rocksalt]
    for atoms in strip_ids(rocksalt):
        atoms.info["config_type"] = "bulk"
        atoms.info["virials"] = -atoms.get_stress(voigt=False) * atoms.get_volume()
        del atoms.calc.results["stress"]
    if name == "P-GAP-20":
        ase.io.write(raw / "P_GAP_20_fitting_data.xyz", rocksalt, format="extxyz")
    else:
        ase.io.write(tmp_path / "d.xyz", rocksalt, format="extxyz")
        with zipfile.ZipFile(raw / "sio2_potential_data.zip", "w") as archive:
            archive.write(tmp_path / "d.xyz", "sio2_potential_data/database/dataset.scan.2.xyz")
    structures = read_structures(f"load-atoms:{name}", datasets_root=tmp_path)
    assert [a.info["structure_id"] for a in structures] == [f"{name}-{k}" for k in range(8)]
    assert structures[0].info["config_type"] == "bulk"
    for a, b, stress in zip(rocksalt, structures, expected, strict=True):
        assert b.get_potential_energy() == pytest.approx(a.get_potential_energy())
        assert np.allclose(b.get_forces(), a.get_forces(), atol=1e-7)
        assert np.allclose(b.get_stress(), stress, rtol=1e-6)


def test_public_dataset_errors(tmp_path, no_network):
    with pytest.raises(StructureError, match=r"load-atoms:P-GAP-2: cannot be loaded; did you mean 'P-GAP-20'"):
        read_structures("load-atoms:P-GAP-2", datasets_root=tmp_path)
    with pytest.raises(StructureError, match=r"no route to host.*PHYSPRETRAIN_DATASETS"):
        read_structures("load-atoms:SiO2-GAP-22", datasets_root=tmp_path)
    with pytest.raises(StructureError, match="not a dataset's name"):
        read_structures("load-atoms:../x", datasets_root=tmp_path)


def test_load_atoms_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "load_atoms.database.backend", None)
    with pytest.raises(StructureError, match=r"pip install 'mdl-physpretrain\[datasets\]'"):
        read_structures("load-atoms:P-GAP-20", datasets_root=tmp_path)
