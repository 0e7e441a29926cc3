"""Algorithm 1: geometry of the pulls, ladder, random numbers, provenance."""

import copy
import hashlib
import inspect
import pickle
from concurrent.futures import ProcessPoolExecutor

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.data import covalent_radii

import mdl_physpretrain as pp
from mdl_physpretrain.augmentation import TABLE_A1, augment, augment_iter, close_pairs, strength_ladder
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.structures.identifiers import stable_id


def _same(a: Atoms, b: Atoms) -> bool:
    return np.array_equal(a.positions, b.positions) and a.info == b.info and a == b


def test_ladder_is_table_a1():
    assert strength_ladder(1.0, 5) == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    assert strength_ladder(0.5, 10)[[0, -1]] == pytest.approx([0.5, 0.05])
    assert strength_ladder(2.0, 20)[[0, 1, -1]] == pytest.approx([2.0, 1.9, 0.1])
    assert strength_ladder(1.0, 5, "up") == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0])
    for row in TABLE_A1.values():
        ladder = strength_ladder(row["pull"], row["n_aug"])
        assert len(ladder) == row["n_aug"]
        assert ladder[0] == row["pull"]
        assert ladder[-1] > 0


@pytest.mark.parametrize(("convention", "closing"), [("paper", 2.0), ("authors", 1.0)])
def test_pull_closes_the_pair_along_its_axis(convention, closing):
    atoms = Atoms("CO", [[0, 0, 0], [0.3, 0.4, 1.2]], info={"structure_id": "co"})  # 1.3 Å apart
    axis = atoms.positions[1] / 1.3
    made = augment([atoms], n_aug=200, pull=0.3, n_sites=0, convention=convention, ladder="up")
    moves = np.array([m.arrays["aug_displacement"] for m in made])
    s = moves[:, 0] @ axis * 2 / closing
    np.testing.assert_allclose(moves[:, 0], -moves[:, 1], atol=1e-15)
    np.testing.assert_allclose(moves[:, 0], (s * closing / 2)[:, None] * axis, atol=1e-15)
    np.testing.assert_allclose([m.get_distance(0, 1) for m in made], 1.3 - closing * s, atol=1e-12)
    share = s[1:] / np.linspace(0, 0.3, 200)[1:]  # uniform in [0, 1)
    assert 0 <= share.min() < 0.05
    assert 0.95 < share.max() <= 1
    assert share.mean() == pytest.approx(0.5, abs=0.1)


def test_strong_pull_may_pass_through_and_the_limit_prevents_it():
    atoms = Atoms("CO", [[0, 0, 0], [1.3, 0, 0]], info={"structure_id": "co"})
    contact = covalent_radii[[6, 8]].sum()
    free = augment([atoms], n_aug=100, pull=1.0, n_sites=0, min_distance_factor=None)
    assert any(m.positions[0, 0] > m.positions[1, 0] for m in free)
    for convention in ("paper", "authors"):
        made = augment([atoms], n_aug=100, pull=3.0, n_sites=0, min_distance_factor=0.5, convention=convention)
        gaps = np.array([m.positions[1, 0] - m.positions[0, 0] for m in made])
        assert gaps.min() >= 0.5 * contact - 1e-12
        assert gaps.min() < 0.6 * contact  # the whole allowed range is used
    (still,) = augment([atoms], n_aug=1, pull=1.0, n_sites=0, min_distance_factor=1.5)
    assert np.array_equal(still.positions, atoms.positions)


def test_random_displacements_are_isotropic_and_bounded():
    rng = np.random.default_rng(0)
    atoms = Atoms("Si40", rng.uniform(0, 12, (40, 3)), cell=[12] * 3, pbc=True, info={"structure_id": "si"})
    made = augment([atoms], n_aug=100, n_pairs=0, n_sites=5, perturb=0.7)
    moves = np.array([m.arrays["aug_displacement"] for m in made])
    lengths = np.linalg.norm(moves, axis=2)
    assert ((lengths > 0).sum(axis=1) == 5).all()
    assert (lengths <= strength_ladder(0.7, 100)[:, None] + 1e-12).all()
    moved = lengths > 0
    assert (moved.sum(axis=0) > 0).all()  # every atom has its turn
    directions = moves[moved] / lengths[moved][:, None]
    assert np.abs(directions.mean(axis=0)).max() < 0.1
    assert np.diag(directions.T @ directions / len(directions)) == pytest.approx([1 / 3] * 3, abs=0.05)


def test_pull_crosses_the_cell_boundary():
    atoms = Atoms("SiO", [[0.2, 5, 5], [9.0, 5, 5]], cell=[10] * 3, pbc=True, info={"structure_id": "b"})
    made = augment([atoms], n_aug=5, pull=0.4, n_sites=0)
    for m in made:
        move = m.arrays["aug_displacement"]
        assert move[0, 0] < 0 < move[1, 0]  # towards each other through the boundary
        assert m.get_distance(0, 1, mic=True) == pytest.approx(1.2 - 2 * move[1, 0])


def test_provenance_and_no_labels(rocksalt):
    rocksalt[0].info.update(config_type="bulk", dft_energy=-3.0, label_source="dft")
    rocksalt[0].arrays["dft_forces"] = np.ones((8, 3))
    before = copy.deepcopy(rocksalt)
    made = augment(rocksalt, n_aug=3, pull=0.3, perturb=0.6, seed=4)
    assert [m.info["structure_id"] for m in made[:4]] == ["mgo-0-aug0", "mgo-0-aug1", "mgo-0-aug2", "mgo-1-aug0"]
    assert made[0].info["config_type"] == "bulk"
    assert "dft_energy" not in made[0].info
    assert "label_source" not in made[0].info
    assert "dft_forces" not in made[0].arrays
    for k, m in enumerate(made):
        parent = rocksalt[k // 3]
        assert m.calc is None
        assert m.info["parent_id"] == parent.info["structure_id"]
        assert m.info["aug_round"] == k % 3
        assert m.info["aug_pull"] == pytest.approx([0.3, 0.2, 0.1][k % 3])
        assert m.info["aug_perturb"] == pytest.approx([0.6, 0.4, 0.2][k % 3])
        assert m.info["aug_seed"] == 4
        assert np.array_equal(m.positions - parent.positions, m.arrays["aug_displacement"])
        assert np.array_equal(m.cell.array, parent.cell.array)
    for old, new in zip(before, rocksalt, strict=True):  # the parents are untouched
        assert _same(old, new)
        assert new.calc is not None


def _augment_chunk(chunk):
    return list(augment(chunk, n_aug=3, seed=5))


def test_reproducible_whatever_the_order_subset_or_process(rocksalt):
    whole = {m.info["structure_id"]: m for m in augment(rocksalt, n_aug=3, seed=5)}
    backwards = augment(rocksalt[::-1], n_aug=3, seed=5)
    with ProcessPoolExecutor(2) as pool:
        parallel = [m for part in pool.map(_augment_chunk, [rocksalt[5:], rocksalt[:5]]) for m in part]
    for run in (backwards, parallel, augment(rocksalt[3:5], n_aug=3, seed=5)):
        assert all(_same(m, whole[m.info["structure_id"]]) for m in run)
    assert len(backwards) == len(parallel) == len(whole) == 24
    other = augment(rocksalt, n_aug=3, seed=6)
    assert not any(np.array_equal(m.positions, whole[m.info["structure_id"]].positions) for m in other)
    # structures do not share their random numbers
    a, b = (augment([rocksalt[k]], n_aug=1, n_pairs=0, n_sites=8)[0].arrays["aug_displacement"] for k in (0, 1))
    assert not np.allclose(a, b)


def test_seeding_does_not_depend_on_the_interpreter():
    atoms = Atoms("CO", [[0, 0, 0], [1.3, 0, 0]], info={"structure_id": "fixed"})
    (made,) = augment([atoms], n_aug=1, pull=1.0, n_sites=0, seed=3, pairs="closest", min_distance_factor=None)
    key = int.from_bytes(hashlib.blake2b(b"fixed", digest_size=8).digest(), "little")
    s = np.random.default_rng(np.random.SeedSequence([3, key])).random()
    assert made.positions[0, 0] == pytest.approx(s, abs=1e-15)


def test_all_kinds_of_structures(zoo):
    for name, atoms in zoo.items():
        atoms.info["structure_id"] = name
    with pytest.warns(UserWarning, match=r"1 of 6 structures .* one_atom"):
        made = augment(list(zoo.values()), n_aug=4, n_pairs=50, n_sites=50)
    assert made.skipped == ["one_atom"]
    assert len(made) == 5 * 4
    for m in made:
        assert np.isfinite(m.positions).all()
        assert (np.linalg.norm(m.arrays["aug_displacement"], axis=1) > 0).all()  # n_sites capped by the atoms
    again = pickle.loads(pickle.dumps(made))
    assert again.skipped == made.skipped
    assert len(again) == len(made)


def test_missing_and_duplicate_ids(zoo):
    triclinic, slab = zoo["triclinic"], zoo["slab"]
    moved = triclinic.copy()
    moved.rattle(0.01, seed=1)
    made = augment([triclinic, moved, slab], n_aug=1)
    assert len({m.info["parent_id"] for m in made}) == 3
    assert made[0].info["parent_id"] == stable_id(triclinic)
    with pytest.raises(StructureError, match="structures 0 and 2 have the same identifier"):
        augment([triclinic, slab, triclinic.copy()])


def test_iterator_gives_the_same(rocksalt):
    lazily = augment_iter(iter(rocksalt), n_aug=2, seed=9)
    eager = augment(rocksalt, n_aug=2, seed=9)
    assert all(_same(a, b) for a, b in zip(lazily, eager, strict=True))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n_aug": 0}, "n_aug"),
        ({"n_pairs": -1}, "n_pairs"),
        ({"n_sites": -1}, "n_sites"),
        ({"pull": -0.1}, "pull"),
        ({"perturb": float("nan")}, "perturb"),
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"convention": "ours"}, "convention"),
        ({"ladder": "sideways"}, "ladder"),
        ({"min_distance_factor": -1.0}, "min_distance_factor"),
    ],
)
def test_bad_options(rocksalt, options, match):
    with pytest.raises(ConfigError, match=match):
        augment(rocksalt, **options)


def test_bad_structures(rocksalt):
    with pytest.raises(StructureError, match="no structures"):
        augment([])
    rocksalt[2].positions[0, 0] = np.nan
    with pytest.raises(StructureError, match=r"mgo-2.*positions.*NaN"):
        augment(rocksalt)
    rocksalt[2].positions[0] = rocksalt[2].positions[1]
    with pytest.raises(StructureError, match=r"mgo-2.*atoms 0 and 1 are on top of each other"):
        augment(rocksalt)


def test_public_name_is_callable_however_it_was_imported(rocksalt):
    assert "n_pairs" in inspect.signature(pp.augment).parameters
    for _ in range(2):
        assert len(pp.augment(rocksalt, n_aug=2)) == 16


def test_real_structures(shared_data):
    structures = ase.io.read(shared_data / "lmo_train.extxyz", ":10")
    made = augment(structures, n_aug=4, n_pairs=2, pull=1.0, perturb=0.5, seed=1)
    assert len(made) == 40
    for k, parent in enumerate(structures):
        pairs = close_pairs(parent, 2)
        pulled = augment([parent], n_aug=1, n_pairs=2, pull=0.4, n_sites=0, pairs="closest")[0]
        for i, j, d in zip(pairs.i, pairs.j, pairs.distances, strict=True):
            closing = 2 * np.linalg.norm(pulled.arrays["aug_displacement"][i])
            assert pulled.get_distance(i, j, mic=True) == pytest.approx(abs(d - closing), abs=1e-9)
        assert made[4 * k].info["parent_id"] == parent.info["structure_id"]
