import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell
from ase.geometry.analysis import Analysis
from ase.io import write

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.probes.pair_distribution import rdf, rdf_error


def curve(table, pair):
    return table[table["pair"] == pair]["g"].to_numpy()


def coordination(table, pair, density, r_from, r_to):
    part = table[(table["pair"] == pair) & table["r"].between(r_from, r_to)]
    width = table["r"].iloc[1] - table["r"].iloc[0]
    shells = 4 / 3 * np.pi * ((part["r"] + width / 2) ** 3 - (part["r"] - width / 2) ** 3)
    return float((part["g"] * shells).sum() * density)


@pytest.mark.parametrize("cell", ["primitive", "cubic", "skewed"])
def test_shells_of_fcc(cell):
    a = 4.0
    atoms = bulk("Cu", "fcc", a=a, cubic=cell == "cubic")  # smaller than r_max
    if cell == "skewed":
        atoms = make_supercell(atoms, [[1, 3, 0], [0, 1, 0], [2, 0, 1]])
    table = rdf([atoms], r_max=6.0, bins=600)
    density = 4 / a**3
    shells = {a / np.sqrt(2): 12, a: 6, a * np.sqrt(1.5): 24, a * np.sqrt(2): 12}
    for r, number in shells.items():
        assert coordination(table, "Cu-Cu", density, r - 0.05, r + 0.05) == pytest.approx(number)
    assert coordination(table, "Cu-Cu", density, 0, 6.0) == pytest.approx(54)
    assert table.attrs == {"n_frames": 1, "n_pairs": {"Cu-Cu": len(atoms) ** 2 / 2}}


def test_unlike_neighbours_of_rocksalt():
    table = rdf([bulk("MgO", "rocksalt", a=4.2)], r_max=3.5, bins=350)
    assert list(dict.fromkeys(table["pair"])) == ["O-O", "O-Mg", "Mg-Mg"]
    assert coordination(table, "O-Mg", 4 / 4.2**3, 0, 3.5) == pytest.approx(6)
    assert coordination(table, "O-O", 4 / 4.2**3, 0, 3.5) == pytest.approx(12)


def random_frames(n_frames=3, n=60, seed=0):
    rng = np.random.default_rng(seed)
    cell = np.array([[14.0, 0, 0], [1.5, 13.5, 0], [-1.0, 2.0, 14.2]])
    numbers = rng.permutation([8] * (n // 2) + [14] * (n - n // 2))
    return [
        Atoms(numbers, rng.random((n, 3)) @ (cell * s), cell=cell * s, pbc=True) for s in 1 + 0.02 * np.arange(n_frames)
    ]


def test_partials_equal_a_histogram_of_minimum_image_distances():
    frames = random_frames()
    table = rdf(frames, r_max=5.0, bins=50)
    edges = np.linspace(0, 5.0, 51)
    for a, b in (("O", "O"), ("O", "Si"), ("Si", "Si")):
        expected = []
        for atoms in frames:
            first, second = (np.flatnonzero(atoms.symbols == s) for s in (a, b))
            r = atoms.get_all_distances(mic=True)[np.ix_(first, second)]
            number = np.histogram(r[r > 0], edges)[0]
            expected.append(number * atoms.cell.volume / (len(first) * len(second) * 4 / 3 * np.pi * np.diff(edges**3)))
        np.testing.assert_allclose(curve(table, f"{a}-{b}"), np.mean(expected, axis=0), rtol=1e-10)


def test_equals_ase():
    frames = random_frames()
    for atoms in frames:
        atoms.numbers[:] = 18
    theirs = np.mean(Analysis(frames).get_rdf(5.0, 50), axis=0)
    assert theirs.max() > 0
    np.testing.assert_allclose(curve(rdf(frames, r_max=5.0, bins=50), "Ar-Ar"), theirs, rtol=1e-10)


def test_ideal_gas_is_one_at_any_density_of_the_frame():
    rng = np.random.default_rng(1)
    frames = [
        Atoms("Ar400", rng.random((400, 3)) * edge, cell=[edge] * 3, pbc=True) for edge in np.linspace(15, 30, 60)
    ]
    g = curve(rdf(frames, r_max=6.0, bins=12), "Ar-Ar")[3:]
    np.testing.assert_allclose(g, 1 - 1 / 400, atol=0.04)


def test_files_skip_and_a_choice_of_pairs(tmp_path):
    frames = random_frames()
    write(tmp_path / "a.extxyz", frames)
    write(tmp_path / "b.traj", frames[::-1])
    kept = rdf([*frames[1:], *frames[:2][::-1]], r_max=5.0, pairs=["Si-O"])
    read = rdf([tmp_path / "a.extxyz", tmp_path / "b.traj"], r_max=5.0, skip=1, pairs=[("O", "Si")])
    np.testing.assert_allclose(read["g"], kept["g"], rtol=1e-6)
    assert set(read["pair"]) == {"O-Si"}
    assert read.attrs["n_frames"] == 4
    np.testing.assert_allclose(rdf(tmp_path / "a.extxyz", r_max=5.0)["g"], rdf(frames, r_max=5.0)["g"], rtol=1e-6)


def test_molecules_are_normalised_by_number():
    water = Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    table = rdf([water], r_max=4.0, bins=40)
    part = table[table["pair"] == "H-O"]
    shells = 4 / 3 * np.pi * ((part["r"] + 0.05) ** 3 - (part["r"] - 0.05) ** 3)
    assert float((part["g"] * shells).sum()) / (4 / 3 * np.pi * 4.0**3) == pytest.approx(1)  # 2 of 2 pairs are in range


def test_error_by_hand():
    frames = random_frames()
    reference = rdf(frames, r_max=5.0)
    assert (rdf_error(reference, reference)["error"] == 0).all()
    found = reference.copy()
    found.loc[found["pair"] == "O-O", "g"] *= 1.5
    error = rdf_error(found, reference).set_index("pair")["error"]
    assert error[["O-O", "O-Si", "Si-Si"]].tolist() == pytest.approx([0.5, 0, 0])
    number = {"O-O": 450, "O-Si": 900, "Si-Si": 450}
    size = {pair: curve(reference, pair).sum() for pair in number}
    expected = 0.5 * 450 * size["O-O"] / sum(number[p] * size[p] for p in number)
    assert error["all"] == pytest.approx(expected)
    equal = rdf_error(found, reference, weights=dict.fromkeys(number, 1.0)).set_index("pair")["error"]["all"]
    assert equal == pytest.approx(0.5 * size["O-O"] / sum(size.values()))


def test_error_of_peaks_that_do_not_meet_is_two_and_of_unexpected_neighbours_infinite():
    near, far = (Atoms("Ar2", [[0, 0, 0], [d, 0, 0]]) for d in (2.02, 3.02))
    one, other = rdf([near], r_max=4.0), rdf([far], r_max=4.0)
    scale = curve(one, "Ar-Ar").sum() / curve(other, "Ar-Ar").sum()
    assert rdf_error(one, other)["error"].tolist() == pytest.approx([1 + scale] * 2)
    nothing = rdf([Atoms("Ar2", [[0, 0, 0], [9, 0, 0]])], r_max=4.0)
    assert rdf_error(one, nothing)["error"].tolist() == [np.inf] * 2
    assert rdf_error(nothing, nothing)["error"].tolist() == [0.0] * 2


def test_tables_that_do_not_belong_together():
    a = rdf(random_frames(), r_max=5.0)
    with pytest.raises(ConfigError, match="pairs differ"):
        rdf_error(a[a["pair"] != "O-O"], a)
    with pytest.raises(ConfigError, match="distances"):
        rdf_error(rdf(random_frames(), r_max=5.0, bins=60), a)
    with pytest.raises(ConfigError, match="distances"):
        rdf_error(rdf(random_frames(), r_max=4.0), a)


@pytest.mark.parametrize("options", [{"r_max": 0}, {"bins": 0}, {"skip": -1}, {"pairs": ["O"]}, {"pairs": ["O-Mn"]}])
def test_options_out_of_range(options):
    with pytest.raises(ConfigError):
        rdf(random_frames(), **options)


def test_no_frames_and_broken_frames(tmp_path):
    with pytest.raises(StructureError, match="no frames"):
        rdf(random_frames(), skip=3)
    with pytest.raises(StructureError, match="no such file"):
        rdf(tmp_path / "absent.extxyz")
    frames = random_frames()
    frames[1].positions[0] = np.nan
    with pytest.raises(StructureError, match="frame 1"):
        rdf(frames)
