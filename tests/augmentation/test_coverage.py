"""Coverage of distances per pair of elements, and structures that provide it."""

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.data import covalent_radii

from mdl_physpretrain.augmentation.coverage import cover, coverage_table, uncovered
from mdl_physpretrain.errors import ConfigError, StructureError


def _zincblende(count: int = 6) -> list[Atoms]:
    """InP cells: no two P are closer than about 4.1 Å."""
    rng = np.random.default_rng(3)
    cells = []
    for k in range(count):
        atoms = bulk("InP", "zincblende", a=5.87, cubic=True)
        atoms.positions += rng.normal(0, 0.03, (8, 3))
        atoms.info["structure_id"] = f"inp-{k}"
        cells.append(atoms)
    return cells


def _distance(atoms: Atoms, pair: str) -> np.ndarray:
    first, second = pair.split("-")
    every = atoms.get_all_distances(mic=True) + 1e9 * np.eye(len(atoms))
    return every[np.ix_(atoms.symbols == first, atoms.symbols == second)]


def test_table_counts_structures_per_pair_and_bin():
    atoms = Atoms("O2Si", [[0, 0, 0], [1.5, 0, 0], [0, 1.62, 0]], info={"structure_id": "a"})
    other = Atoms("O2", [[0, 0, 0], [1.31, 0, 0]], info={"structure_id": "b"})
    table = coverage_table([atoms, other], inner=0.5, width=0.1, wanted=1)
    assert set(table["pair"]) == {"O-O", "O-Si"}
    oxygen = table[table["pair"] == "O-O"]
    assert oxygen["low"].iloc[0] == pytest.approx(0.5 * 2 * covalent_radii[8])
    assert oxygen["high"].iloc[-1] == pytest.approx((1.5 + 1.31) / 2)  # median of the nearest
    assert np.allclose(oxygen["low"].to_numpy()[1:], oxygen["high"].to_numpy()[:-1])
    seen = oxygen[oxygen["count"] > 0]
    assert len(seen) == 1
    assert seen["low"].iloc[0] <= 1.31 < seen["high"].iloc[0]
    again = coverage_table([other], table, wanted=1)
    assert again["count"].sum() == 1
    assert uncovered(table)[0].startswith("O-O 0.66-")


def test_pair_that_never_comes_near_is_named_up_to_the_reach():
    far = Atoms("HF", [[0, 0, 0], [9.0, 0, 0]])
    table = coverage_table([far], inner=0.5, reach=8.0)
    (stretch,) = uncovered(table)
    assert stretch == f"H-F {0.5 * (covalent_radii[1] + covalent_radii[9]):.2f}-8.00 Å"


def test_pairs_that_the_data_keep_apart_are_covered():
    cells = _zincblende()
    before = coverage_table(cells, wanted=3)
    assert sum(stretch.startswith("P-P 1.18-") for stretch in uncovered(before)) == 1
    made = cover(cells, per_bin=3, disorder=0.0)
    assert made.missing == {}
    assert uncovered(coverage_table([*cells, *made], before, wanted=3)) == []
    for atoms in made:
        pair, target = atoms.info["aug_pair"], atoms.info["aug_distance"]
        assert np.abs(_distance(atoms, pair) - target).min() < 1e-6


def test_no_other_pair_comes_near():
    clearance = 0.75
    for atoms in cover(_zincblende(), per_bin=2, disorder=0.1, clearance=clearance, inner=0.55):
        every = atoms.get_all_distances(mic=True)
        radii = covalent_radii[atoms.numbers]
        share = (every / (radii[:, None] + radii))[np.triu_indices(len(atoms), 1)]
        target = atoms.info["aug_distance"]
        below = share < clearance - 2e-3
        assert below.sum() <= 1
        assert share.min() >= 0.55 - 1e-9
        if below.any():
            assert np.isclose(every[np.triu_indices(len(atoms), 1)][below], target).all()


def test_work_is_spread_and_labels_are_not_inherited():
    cells = _zincblende()
    made = cover(cells, per_bin=4)
    uses = [sum(a.info["parent_id"] == c.info["structure_id"] for a in made) for c in cells]
    assert max(uses) - min(uses) <= 0.2 * max(uses) + 1
    assert all(a.calc is None for a in made)
    parents = {c.info["structure_id"]: c for c in cells}
    for atoms in made:
        parent = parents[atoms.info["parent_id"]]
        assert np.array_equal(atoms.positions - parent.positions, atoms.arrays["aug_displacement"])
    assert len({a.info["structure_id"] for a in made}) == len(made)


def test_seed_decides_and_order_does_not():
    cells = _zincblende(4)
    one, two = cover(cells, per_bin=2, seed=5), cover(cells[::-1], per_bin=2, seed=5)
    assert all(np.array_equal(a.positions, b.positions) for a, b in zip(one, two, strict=True))
    other = cover(cells, per_bin=2, seed=6)
    assert not any(np.array_equal(a.positions, b.positions) for a, b in zip(one, other, strict=True))


def test_an_atom_cannot_meet_its_own_image():
    lonely = bulk("Al", "fcc", a=4.05)
    lonely.info["structure_id"] = "al"
    table = coverage_table([lonely])
    assert table.empty  # one atom: no pair of different atoms to teach
    assert cover([lonely]) == []


@pytest.mark.parametrize(
    "option", [{"per_bin": 0}, {"inner": 0.0}, {"width": -1.0}, {"clearance": -0.1}, {"seed": -1}, {"slack": np.nan}]
)
def test_options_out_of_range(option):
    with pytest.raises(ConfigError):
        cover(_zincblende(1), **option)


def test_unusable_structures():
    with pytest.raises(StructureError):
        cover([])
    broken = _zincblende(1)
    broken[0].positions[0, 0] = np.nan
    with pytest.raises(StructureError, match="inp-0"):
        cover(broken)
