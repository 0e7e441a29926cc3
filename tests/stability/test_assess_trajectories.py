"""The table from trajectories of any code."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from ase import Atoms
from ase.build import bulk
from ase.io import write

from mdl_physpretrain.dynamics.assessment import assess
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.stability.limits import Limits


@pytest.fixture
def solid() -> list[Atoms]:
    """A rattled crystal that drifts through the cell boundaries."""
    rng = np.random.default_rng(1)
    crystal = bulk("MgO", "rocksalt", a=4.2, cubic=True)
    frames = []
    for k in range(40):
        atoms = crystal.copy()
        atoms.positions += rng.normal(scale=0.05, size=(8, 3)) + k * np.array([0.3, -0.2, 0.1])
        frames.append(atoms)
    return frames


def only(table: pd.DataFrame) -> pd.Series:
    assert len(table) == 1
    return table.iloc[0]


def test_a_solid_is_physical(solid):
    row = only(assess(solid))
    assert row.physical
    assert row.reason == ""
    assert row.first_unphysical_step is pd.NA
    assert row.steps_done == 39
    half = solid[0].get_all_distances(mic=True)[~np.eye(8, dtype=bool)].min() / 2
    assert only(assess(solid, limits=Limits(variant="paper"))).overlap_threshold == pytest.approx(half)
    assert row.overlap_threshold == pytest.approx(max(half, 0.5 * (1.41 + 0.66)))  # covalent radii of Mg and O
    smallest = min(f.get_all_distances(mic=True)[~np.eye(8, dtype=bool)].min() for f in solid)
    assert row.min_distance == pytest.approx(smallest)
    assert np.isnan(row.temperature_mean)


def test_wrapped_trajectories_are_unwrapped(solid):
    expected = only(assess(solid, wrapped=False))
    for frame in solid:
        frame.wrap()
    row = only(assess(solid))
    assert row.lindemann_global == pytest.approx(expected.lindemann_global, rel=1e-9)
    assert row.lindemann_local == pytest.approx(expected.lindemann_local, rel=1e-9)
    assert only(assess(solid, wrapped=False)).lindemann_global > 2 * row.lindemann_global


def test_wrapped_in_a_changing_skewed_cell():
    rng = np.random.default_rng(3)
    first = Atoms("Si4", rng.uniform(0, 5, (4, 3)), cell=[[5, 0, 0], [2.4, 5, 0], [-1, 2, 5]], pbc=True)
    first.positions = first.cell.cartesian_positions(
        [[0.1, 0.1, 0.1], [0.6, 0.2, 0.3], [0.2, 0.7, 0.6], [0.7, 0.6, 0.9]]
    )
    frames = []
    for k in range(30):
        atoms = first.copy()
        atoms.set_cell(first.cell.array * (1 + 0.05 * np.sin(k)), scale_atoms=True)
        atoms.positions += rng.normal(scale=0.1, size=(4, 3)) + 0.25 * k
        frames.append(atoms)
    expected = only(assess(frames, wrapped=False))
    for atoms in frames:
        atoms.wrap()
    assert only(assess(frames)).lindemann_global == pytest.approx(expected.lindemann_global, rel=1e-9)


def test_overlap_counts_at_the_threshold_and_names_the_pair(solid):
    pair = Atoms("LiO", [[0, 0, 0], [0, 0, 2.0]])
    near = [pair.copy() for _ in range(3)]
    near[2].positions[1, 2] = 1.0  # exactly half
    row = only(assess(near))
    assert row.overlap
    assert row.closest_pair == "Li-O"
    assert row.first_unphysical_step == 2
    assert row.reason == "overlap, lindemann"  # 2, 2, 1 Å is a large fluctuation, too
    near[2].positions[1, 2] = 1.0 + 1e-9
    assert not only(assess(near)).overlap
    # across the cell boundary
    solid[20].positions[3] = solid[20].positions[0] + [3.7, 0, 0]
    assert only(assess(solid)).first_unphysical_step == 20
    assert not only(assess(solid, limits=Limits(overlap_fraction=0.1, pair_fraction=0.1))).overlap


def test_the_threshold_is_that_of_the_pair(solid):
    """Two large atoms overlap while a bond to hydrogen, which is shorter, is sound."""
    frames = [Atoms("W2OH", [[0, 0, 0], [0, 0, z], [5, 5, 0], [5, 5, 0.96]]) for z in (2.8, 2.79, 1.55)]
    row = only(assess(frames))
    assert row.overlap
    assert row.closest_pair == "H-O"
    assert row.overlap_threshold == pytest.approx(0.5 * (0.31 + 0.66))
    assert row.overlap_threshold < row.min_distance
    assert row.detail.startswith("W-W 1.55 Å apart, overlap below 1.62 Å")
    frames = [Atoms("W2", [[0, 0, 0], [0, 0, z]], cell=[9, 9, 9], pbc=True) for z in (2.8, 2.81, 1.615)]
    row = only(assess(frames))
    assert row.min_distance < row.overlap_threshold == pytest.approx(1.62)
    assert row.detail == "W-W 1.615 Å apart, overlap below 1.620 Å"
    paper = only(assess(frames, limits=Limits(variant="paper")))
    assert (paper.overlap, paper.overlap_threshold) == (False, pytest.approx(1.4))


def test_one_atom_cells_overlap_with_their_own_image():
    frames = [bulk("Al", "fcc", a=a) for a in (4.05, 3.0, 2.0)]
    row = only(assess(frames, limits=Limits(volume_change=20)))
    assert row.overlap
    assert row.lindemann_global == 0
    assert row.first_unphysical_step == 2
    row = only(assess(frames))
    assert (row.first_unphysical_step, row.reason, row.detail[:6]) == (1, "explosion, overlap", "Al-Al ")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_is_never_stable(solid, value):
    until_then = only(assess(solid[:25]))
    solid[25].positions[4, 1] = value
    row = only(assess(solid))
    assert row.nan
    assert not row.physical
    assert (row.first_unphysical_step, row.reason) == (25, "nan")
    assert row.lindemann_global == until_then.lindemann_global


def test_melting_is_dated_when_the_running_index_crosses(solid):
    rng = np.random.default_rng(2)
    melt = solid[:30]
    for _ in range(90):
        atoms = melt[-1].copy()
        atoms.positions += rng.normal(scale=0.25, size=(8, 3))
        melt.append(atoms)
    row = only(assess(melt, limits=Limits(overlap_fraction=0.01, pair_fraction=0.01)))
    assert row.lindemann_violation
    assert row.reason == "lindemann"
    assert 30 < row.first_unphysical_step < 119
    assert row.lindemann_local >= row.lindemann_global
    later = only(assess(melt, limits=Limits(overlap_fraction=0.01, pair_fraction=0.01, min_frames=110)))
    assert later.first_unphysical_step >= 109
    loose = Limits(
        overlap_fraction=0.01, pair_fraction=0.01, lindemann_local=9.0, lindemann_global=9.0, start_deviation=9.0
    )
    assert only(assess(melt, limits=loose)).physical


def test_printed_variant_is_the_mean_without_the_root(solid):
    frames = [Atoms("O2", [[0, 0, 0], [0, 0, z]]) for z in (1.0, 1.2, 1.4)]
    row = only(assess(frames, limits=Limits(variant="printed")))
    assert row.lindemann_global == pytest.approx(np.var([1.0, 1.2, 1.4]) / 1.2)


def test_explosion_by_temperature_or_volume(solid):
    for atoms in solid:
        atoms.set_momenta(np.full((8, 3), 1.0))
    assert not only(assess(solid)).exploded
    solid[7].set_momenta(np.full((8, 3), 20.0))
    row = only(assess(solid))
    assert row.exploded
    assert row.first_unphysical_step == 7
    assert only(assess(solid, temperature=1e5)).physical
    big = [solid[0], solid[1].copy()]
    big[1].set_cell(big[1].cell * 2.2, scale_atoms=True)
    assert only(assess(big)).exploded


def test_files_patterns_and_steps(solid, tmp_path):
    for k, frame in enumerate(solid):
        frame.info["step"] = 10 * k
        frame.wrap()
    write(tmp_path / "a.extxyz", solid)
    write(tmp_path / "b.traj", solid)
    write(tmp_path / "c.xyz", solid, format="extxyz")
    table = assess(tmp_path / "*.*")
    assert table.structure_id.tolist() == ["a", "b", "c"]
    assert (table.steps_done == 390).all()
    expected = only(assess(solid))
    np.testing.assert_allclose(table.lindemann_global, expected.lindemann_global, rtol=1e-5)
    thinned = assess([tmp_path / "b.traj"], interval=3)
    assert only(thinned).steps_done == 390
    assert assess([solid, str(tmp_path / "a.extxyz")]).structure_id.tolist() == ["trajectory", "a"]


def test_lammps_dump(solid, tmp_path):
    lines = []
    for k, atoms in enumerate(solid):
        atoms.wrap()
        lines += ["ITEM: TIMESTEP", str(k), "ITEM: NUMBER OF ATOMS", "8", "ITEM: BOX BOUNDS pp pp pp"]
        lines += ["0.0 4.2"] * 3 + ["ITEM: ATOMS id type element x y z"]
        rows = [
            f"{i + 1} {1 if s == 'Mg' else 2} {s} {x:.10f} {y:.10f} {z:.10f}"
            for i, (s, (x, y, z)) in enumerate(zip(atoms.symbols, atoms.positions, strict=True))
        ]
        lines += rows[::-1] if k % 2 else rows  # dumps are not sorted
    (tmp_path / "md.dump").write_text("\n".join(lines) + "\n")
    row = only(assess(tmp_path / "md.dump", format="lammps-dump-text"))
    assert row.formula == "Mg4O4"
    assert row.lindemann_global == pytest.approx(only(assess(solid)).lindemann_global, rel=1e-6)


def test_bad_files_are_named(solid, tmp_path):
    path = tmp_path / "md.extxyz"
    write(path, solid)
    path.write_text(path.read_text()[:-300])
    with pytest.raises(StructureError, match=r"md.extxyz, structure 39: .* of 8 atoms present after line"):
        assess(path)
    path.write_text("")
    with pytest.raises(StructureError, match=r"md.extxyz"):
        assess(path)
    with pytest.raises(StructureError, match=r"gone.extxyz.*no such file"):
        assess(tmp_path / "gone.extxyz")
    with pytest.raises(StructureError, match="no file matches"):
        assess(str(tmp_path / "*.lammps"))
    solid[5].symbols[0] = "Ca"
    write(path, solid)
    with pytest.raises(StructureError, match=r"md.extxyz.*frame 5.*not those of the first"):
        assess(path)
    with pytest.raises(ConfigError, match="nothing to assess"):
        assess([])
    with pytest.raises(ConfigError, match="interval"):
        assess(solid, interval=0)


@pytest.mark.parametrize(
    "options",
    [
        {"variant": "other"},
        {"overlap_fraction": 1.0},
        {"lindemann_local": 0},
        {"temperature": -5},
        {"volume_change": 1.0},
        {"min_frames": 1},
        {"pair_fraction": 0.0},
        {"start_deviation": -1.0},
        {"energy": 0.0},
        {"force": 0.0},
    ],
)
def test_limits_out_of_range(options):
    with pytest.raises(ConfigError):
        Limits(**options)


def test_what_follows_a_blank_line_is_looked_at(solid, tmp_path):
    """ASE stops reading there."""
    write(tmp_path / "md.xyz", solid[:20], format="extxyz")
    solid[20].positions[1] = solid[20].positions[0] + 0.3
    write(tmp_path / "b.xyz", solid[20:], format="extxyz")
    (tmp_path / "md.xyz").write_text((tmp_path / "md.xyz").read_text() + "\n\n" + (tmp_path / "b.xyz").read_text())
    row = only(assess(tmp_path / "md.xyz"))
    assert (row.steps_done, row.overlap, row.first_unphysical_step) == (39, True, 20)
    assert only(assess(tmp_path / "md.xyz", index=":20")).physical
    assert only(assess(tmp_path / "md.xyz", index="-20:")).steps_done == 19


def test_one_unreadable_file_costs_its_own_row(solid, tmp_path):
    for name in "abc":
        write(tmp_path / f"{name}.xyz", solid, format="extxyz")
    (tmp_path / "b.xyz").write_text((tmp_path / "b.xyz").read_text()[:-300])
    table = assess(str(tmp_path / "*.xyz")).set_index("structure_id")
    assert table.verdict.tolist() == ["physical", "unreadable", "physical"]
    assert "b.xyz" in table.reason["b"]
    assert not table.physical["b"]


def test_a_cell_and_a_periodicity_for_files_without(solid, tmp_path):
    expected = only(assess(solid))
    for frame in solid:
        frame.wrap()
        frame.set_pbc(False)
        frame.set_cell(None)
    write(tmp_path / "a.xyz", solid, format="extxyz")
    with pytest.warns(UserWarning, match=r"1 of 1 trajectories have no periodic cell \(first: a\): images"):
        row = only(assess(tmp_path / "a.xyz"))
    assert "images are not looked at" in row.detail
    for cell in ([4.2] * 3, [4.2, 4.2, 4.2, 90, 90, 90], np.eye(3) * 4.2):
        row = only(assess(tmp_path / "a.xyz", cell=cell))
        assert row.lindemann_global == pytest.approx(expected.lindemann_global, rel=1e-5)
        assert row.physical
    assert "images" in only(assess(tmp_path / "a.xyz", cell=[4.2] * 3, pbc=False)).detail
    with pytest.raises(ConfigError, match="three lengths"):
        assess(tmp_path / "a.xyz", cell=[4.2])


def test_the_paper_s_verdict_is_kept(solid):
    """It allows the volume to double."""
    big = [a.copy() for a in solid]
    for k, atoms in enumerate(big):
        atoms.set_cell(atoms.cell.array * (1 + 0.3 * k / 39), scale_atoms=True)
    row = only(assess(big))
    assert (row.physical, row.verdict, row.reason, row.physical_paper) == (
        False,
        "unphysical",
        "explosion, lindemann",
        True,
    )
    assert row.detail == "volume out of bounds"
    for variant in ("paper", "printed"):
        assert only(assess(big, limits=Limits(variant=variant))).physical


def test_frames_are_sorted_by_their_step(solid, tmp_path):
    for k, frame in enumerate(solid):
        frame.info["step"] = 10 * k
        frame.wrap()
    expected = only(assess(solid))
    write(tmp_path / "a.xyz", [*solid[20:], *solid[:25]], format="extxyz")
    with pytest.warns(UserWarning, match="not in the order of their steps"):
        row = only(assess(tmp_path / "a.xyz"))
    assert (row.steps_done, row.physical) == (390, True)
    assert row.lindemann_global == pytest.approx(expected.lindemann_global, rel=1e-6)
