"""Close pairs against an independent search over all images."""

import itertools

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.geometry import get_distances

from mdl_physpretrain.augmentation import close_pairs, pair_min_distances
from mdl_physpretrain.errors import ConfigError, StructureError


def _brute_distances(atoms: Atoms, reach: int = 12) -> np.ndarray:
    """Minimum-image distances (n, n) by explicit images; the diagonal holds an atom's own images."""
    ranges = [range(-reach, reach + 1) if p else (0,) for p in atoms.pbc]
    best = np.full((len(atoms),) * 2, np.inf)
    for shift in itertools.product(*ranges):
        delta = atoms.positions[None] + np.array(shift) @ atoms.cell.array - atoms.positions[:, None]
        d = np.linalg.norm(delta, axis=2)
        if shift == (0, 0, 0):
            np.fill_diagonal(d, np.inf)
        best = np.minimum(best, d)
    return best


def _brute_pairs(atoms: Atoms, wanted: int) -> list[float]:
    d = _brute_distances(atoms)
    np.fill_diagonal(d, np.inf)
    taken: list[float] = []
    while len(taken) < wanted and np.isfinite(d).any():
        i, j = np.unravel_index(d.argmin(), d.shape)
        taken.append(d[i, j])
        d[[i, j]] = np.inf
        d[:, [i, j]] = np.inf
    return taken


@pytest.mark.parametrize("name", ["molecule", "chain", "triclinic", "tiny"])
def test_distances_match_brute_force(zoo, name):
    atoms = zoo[name]
    pairs = close_pairs(atoms, 10)
    assert len(pairs.i) == len(atoms) // 2
    assert pairs.distances == pytest.approx(_brute_pairs(atoms, 10), abs=1e-9)
    assert np.linalg.norm(pairs.vectors, axis=1) == pytest.approx(pairs.distances)


@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, True), (False, False, False)])
def test_random_cells_of_any_periodicity(pbc):
    rng = np.random.default_rng(3)
    for _ in range(5):
        cell = np.diag(rng.uniform(2, 7, 3)) + rng.uniform(-1.5, 1.5, (3, 3))
        atoms = Atoms("Si9", rng.uniform(-3, 9, (9, 3)), cell=cell, pbc=pbc)  # atoms outside the cell, too
        pairs = close_pairs(atoms, 3)
        assert pairs.distances == pytest.approx(_brute_pairs(atoms, 3), abs=1e-9)
        used = [*pairs.i, *pairs.j]
        assert len(set(used)) == 6
        assert (pairs.i != pairs.j).all()


def test_strongly_skewed_tiny_cell_needs_distant_images():
    # sheared by several lattice vectors: the nearest 27 images are not enough
    atoms = Atoms("SiO", [[0, 0, 0], [1.2, 1.4, 0.9]], cell=[3, 3.3, 3.6], pbc=True)
    skewed = make_supercell(atoms, [[1, 0, 0], [2, 1, 0], [-3, 2, 1]], wrap=False)
    assert close_pairs(skewed, 1).distances == pytest.approx(close_pairs(atoms, 1).distances)


def test_distant_atoms_are_found():
    atoms = Atoms("Ar4", [[0, 0, 0], [90, 0, 0], [0, 200, 0], [0, 200, 31]])
    assert close_pairs(atoms, 5).distances == pytest.approx([31, 90])


def test_equal_distances_are_ordered_by_index():
    pairs = close_pairs(bulk("NaCl", "rocksalt", a=5.6, cubic=True), 4)
    assert pairs.distances == pytest.approx([2.8] * 4)
    shaken = bulk("NaCl", "rocksalt", a=5.6, cubic=True)
    shaken.positions += 1e-12 * np.random.default_rng(0).normal(size=(8, 3))
    again = close_pairs(shaken, 4)
    assert (pairs.i == again.i).all()
    assert (pairs.j == again.j).all()
    np.testing.assert_allclose(pairs.vectors, again.vectors, atol=1e-9)


def test_one_atom_and_no_pairs(zoo):
    assert len(close_pairs(zoo["one_atom"], 3).i) == 0
    assert len(close_pairs(zoo["triclinic"], 0).i) == 0


def test_real_cells_against_ase(shared_data):
    for atoms in ase.io.read(shared_data / "lmo_train.extxyz", ":5"):
        pairs = close_pairs(atoms, 4)
        _, d = get_distances(atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        np.fill_diagonal(d, np.inf)
        assert pairs.distances[0] == pytest.approx(d.min())
        assert pairs.distances == pytest.approx(d[pairs.i, pairs.j])
        assert (np.diff(pairs.distances) >= -1e-6).all()


def test_minimum_distances(zoo):
    tiny = bulk("MgO", "rocksalt", a=4.2)  # one Mg, one O: like pairs are own images only
    tiny.info["structure_id"] = "tiny"
    zoo["molecule"].info["structure_id"] = "water"
    table = pair_min_distances([tiny, zoo["molecule"]])
    assert list(table.columns) == ["structure_id", "pair", "distance"]
    found = {(r.structure_id, r.pair): r.distance for r in table.itertuples()}
    water = _brute_distances(zoo["molecule"])
    assert found == pytest.approx(
        {
            ("tiny", "Mg-O"): 2.1,
            ("tiny", "Mg-Mg"): 4.2 / 2**0.5,
            ("tiny", "O-O"): 4.2 / 2**0.5,
            ("water", "H-O"): water[0, 1:].min(),
            ("water", "H-H"): water[1, 2],
        }
    )
    assert pair_min_distances([tiny], max_distance=2.5)["pair"].tolist() == ["Mg-O"]
    assert len(pair_min_distances([])) == 0
    with pytest.raises(ConfigError, match="max_distance"):
        pair_min_distances([tiny], max_distance=0)
    tiny.positions[0] = np.inf
    with pytest.raises(StructureError, match=r"tiny.*positions"):
        pair_min_distances([tiny])


def test_every_kind_takes_turns_and_shares_no_atom():
    import numpy as np
    from ase.build import bulk

    from mdl_physpretrain.augmentation.pairs import close_pairs, kinds_of_pairs

    atoms = bulk("MgO", "rocksalt", a=4.2, cubic=True).repeat((2, 1, 1))
    closest = close_pairs(atoms, 6)
    assert {frozenset(p) for p in zip(atoms.symbols[closest.i], atoms.symbols[closest.j], strict=True)} == {
        frozenset(("Mg", "O"))
    }
    pairs, chosen = kinds_of_pairs(atoms, 6, 20, np.random.default_rng(0))
    full = atoms.get_all_distances(mic=True)
    for row in chosen:
        row = row[row >= 0]
        touched = np.concatenate([pairs.i[row], pairs.j[row]])
        assert len(set(touched.tolist())) == len(touched)
        kinds = ["".join(sorted(atoms.symbols[[a, b]])) for a, b in zip(pairs.i[row], pairs.j[row], strict=True)]
        assert {"MgMg", "MgO", "OO"} == set(kinds)
        np.testing.assert_allclose(pairs.distances[row], full[pairs.i[row], pairs.j[row]])
        np.testing.assert_allclose(np.linalg.norm(pairs.vectors[row], axis=1), pairs.distances[row])
    assert len({tuple(r) for r in chosen.tolist()}) > 10  # rounds differ


def test_every_kind_brings_like_atoms_together():
    import numpy as np
    from ase.build import bulk

    from mdl_physpretrain.augmentation import augment

    atoms = bulk("MgO", "rocksalt", a=4.2, cubic=True)
    atoms.info["structure_id"] = "mgo"
    options = {"n_aug": 20, "n_pairs": 4, "pull": 1.0, "n_sites": 0, "perturb": 0.0, "seed": 1}
    nearest = {}
    for choice in ("closest", "every-kind"):
        made = augment([atoms], pairs=choice, min_distance_factor=0.6, **options)
        oxygen = [a[a.numbers == 8].get_all_distances(mic=True) for a in made]
        nearest[choice] = min(d[d > 0].min() for d in oxygen)
        again = augment([atoms], pairs=choice, min_distance_factor=0.6, **options)
        assert all(np.array_equal(a.positions, b.positions) for a, b in zip(made, again, strict=True))
    assert nearest["every-kind"] < 1.6 < nearest["closest"]
    assert nearest["every-kind"] >= 0.6 * 2 * 0.66 - 1e-9
