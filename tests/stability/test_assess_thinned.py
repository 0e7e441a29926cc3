"""Looking at every so many frames is said, and never leaves too few; labels under any name and in any unit."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from typer.testing import CliRunner

from mdl_physpretrain import assess, simulate
from mdl_physpretrain.cli import app
from mdl_physpretrain.potentials.calculator import ASECalculator
from mdl_physpretrain.structures import write_structures


def frames(n: int, sigma: float = 0.05) -> list[Atoms]:
    generator, start = np.random.default_rng(0), bulk("Cu", cubic=True) * (2, 1, 1)
    images = [start.copy() for _ in range(n)]
    for atoms in images[1:]:
        atoms.positions += generator.normal(scale=sigma, size=(len(start), 3))
    return images


@pytest.mark.parametrize(("n", "interval", "looks"), [(200, 1, None), (200, 4, 51), (200, 150, 21), (30, 29, None)])
def test_how_many_frames_were_looked_at(n: int, interval: int, looks: int | None) -> None:
    row = assess(frames(n), interval=interval).iloc[0]
    assert row["verdict"] == "physical"
    assert row["detail"] == ("" if looks is None else f"{looks} of {n} frames looked at")


def test_two_looks_do_not_make_a_liquid_physical() -> None:
    """Of two frames the index is small, whatever moves."""
    images = frames(41, sigma=1.0)
    assert assess(images, interval=40).iloc[0]["verdict"] == assess(images).iloc[0]["verdict"] == "unphysical"


def test_md_says_it_too(cgcnn: ASECalculator) -> None:
    start = bulk("Cu", cubic=True)
    with pytest.warns(UserWarning, match="interval 5: what happens between two looks is not seen"):
        row = assess(simulate(cgcnn, [start], steps=100, interval=5, temperature=10, stop_on=())).iloc[0]
    assert "21 of 101 frames looked at" in row["detail"]
    with pytest.warns(UserWarning, match="interval 50"):
        row = assess(simulate(cgcnn, [start], steps=100, interval=50, temperature=10, stop_on=())).iloc[0]
    assert "21 of 101 frames looked at" in row["detail"]
    assert "looked at" not in assess(simulate(cgcnn, [start], steps=30, temperature=10)).iloc[0]["detail"]


@pytest.fixture
def cgcnn() -> ASECalculator:
    from small_potentials import small

    return ASECalculator(small("cgcnn"))


def run(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["assess", *map(str, words)])
    return result.exit_code, result.output


def test_labels_under_any_name_and_unit(tmp_path) -> None:
    images = frames(30)
    for k, atoms in enumerate(images):
        atoms.info["dft_total"] = -10.0 if k < 20 else 1000.0  # kcal/mol: 5 eV/atom; eV: 126
        atoms.arrays["my_f"] = np.full((8, 3), 1.0)
    write_structures(tmp_path / "a.xyz", images)
    file = tmp_path / "a.xyz"
    assert "0 of 1 trajectories are unphysical" in run(file)[1]  # nobody knows that these are energies
    assert "1 of 1 trajectories are unphysical" in run(file, "--energy-key", "dft_total")[1]
    kcal = run(file, "--energy-key", "dft_total", "--units", "energy=kcal/mol", "--forces-key", "my_f")
    assert kcal[0] == 0
    assert "0 of 1 trajectories are unphysical" in kcal[1]
    hartree = run(file, "--forces-key", "my_f", "--units", "forces=Hartree/Bohr")
    assert "0 of 1" in hartree[1]  # 51 eV/Å
    for key in ("energy", "forces", "stress"):
        code, output = run(file, f"--{key}-key", "no_such")
        assert code == 2
        assert "no frame has 'no_such'" in output
        assert "dft_total" in output
    assert run(file, "--units", "energy=furlong")[0] == 2


@pytest.mark.parametrize("label", ["energy", "forces", "stress", "DFT_energy", "Virial"])
def test_a_label_that_is_nan_counts_in_any_frame(label: str, tmp_path) -> None:
    images = frames(60)
    for k, atoms in enumerate(images):
        value = np.nan if k == 33 else 0.5
        if label in ("energy", "forces", "stress"):
            whole = {"energy": value, "forces": np.full((8, 3), value), "stress": np.full(6, value)}
            atoms.calc = SinglePointCalculator(atoms, **{label: whole[label]})
        else:
            atoms.info[label] = value if "energy" in label else np.full((3, 3), value)
    row = assess([images], interval=2).iloc[0]
    assert row["verdict"] == "unphysical"
    assert (row["reason"], row["first_unphysical_step"]) == ("nan", 33)
    write_structures(tmp_path / "a.traj", images)
    assert "0 of 1" in run(tmp_path / "a.traj", "--nan-labels", "missing")[1]
