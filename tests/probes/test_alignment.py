"""Angles between forces: known ones, random ones, those inside a hybrid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.lj import LennardJones
from scipy.spatial.transform import Rotation
from scipy.stats import kstest
from typer.testing import CliRunner

from mdl_physpretrain.cli import app
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.graphs.batch import AtomicBatch, build_batch
from mdl_physpretrain.potentials import CGCNN, EAM, ZBL, EnergyModel, Sum, predict
from mdl_physpretrain.probes.force_alignment import (
    RANDOM,
    alignment_summary,
    alignment_table,
    force_angles,
    hybrid_angles,
    hybrid_parts,
    null_density,
)
from mdl_physpretrain.report.alignment import alignment_figure
from mdl_physpretrain.report.drawing import draw
from mdl_physpretrain.structures import write_structures


class Given(Calculator):
    """Forces that stand in the structure."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, name: str) -> None:
        super().__init__()
        self.array = name

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": 0.0, "forces": atoms.arrays[self.array]}


class Opposite(EnergyModel):
    """A potential turned upside down."""

    def __init__(self, model: EnergyModel) -> None:
        super().__init__(model.cutoff, {})
        self.model = model

    def energies(self, batch: AtomicBatch, vectors: torch.Tensor) -> torch.Tensor:
        return -self.model.energies(batch, vectors)


@pytest.fixture
def eam() -> EAM:
    torch.manual_seed(1)
    return EAM(["O", "Mg"], cutoff=4.0, n_basis=2).double()


@pytest.fixture
def network(rocksalt: list[Atoms]) -> CGCNN:
    torch.manual_seed(2)
    return CGCNN(cutoff=4.0, dim1=12, dim2=12, gc_count=2, post_fc_count=1, edge_dim=16).double().eval()


def cloud(n: int, **forces: np.ndarray) -> Atoms:
    atoms = Atoms(f"Ar{n}", np.arange(3 * n).reshape(n, 3) * 5.0)
    for name, values in forces.items():
        atoms.set_array(name, values)
    return atoms


def test_the_same_and_the_opposite(rocksalt: list[Atoms], eam: EAM) -> None:
    same = force_angles(eam, eam, rocksalt)
    assert len(same) == sum(map(len, rocksalt))
    assert same["angle"].max() == 0
    assert np.allclose(force_angles(eam, Opposite(eam), rocksalt)["angle"], 180)
    by_hand = np.linalg.norm(predict(eam, build_batch(rocksalt[1], 4.0, torch.float64)).forces.detach(), axis=1)
    second = same[same["structure_id"] == same["structure_id"].unique()[1]]
    assert np.allclose(second["force"], by_hand)
    assert list(second["element"]) == rocksalt[1].get_chemical_symbols()
    assert list(second["atom"]) == list(range(8))


@pytest.mark.parametrize("degrees", [1e-6, 12.5, 90.0, 133.0, 179.999999])
def test_a_known_rotation(degrees: float) -> None:
    rng = np.random.default_rng(3)
    forces = rng.normal(size=(40, 3))
    axes = np.cross(forces, rng.normal(size=(40, 3)))  # perpendicular, or the angle would be smaller
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    turned = Rotation.from_rotvec(np.radians(degrees) * axes).apply(forces) * rng.uniform(0.1, 9, (40, 1))
    atoms = cloud(40, one=forces, two=turned)
    assert np.allclose(force_angles(Given("one"), Given("two"), [atoms])["angle"], degrees, rtol=0, atol=1e-9)


def test_random_directions_have_the_null_density() -> None:
    rng = np.random.default_rng(4)
    clouds = [cloud(200, one=rng.normal(size=(200, 3)), two=rng.normal(size=(200, 3))) for _ in range(50)]
    for k, atoms in enumerate(clouds):
        atoms.info["structure_id"] = f"cloud-{k}"
        atoms.positions += k  # or ASE takes the second for the first
    angles = force_angles(Given("one"), Given("two"), clouds, min_force=1e-9)
    summary = alignment_summary(angles)
    mine, null = summary.loc["all"], summary.loc[RANDOM]
    standard_deviation = np.degrees(np.sqrt(np.pi**2 / 4 - 2))  # of sin(x) / 2
    assert mine["mean_error"] == pytest.approx(standard_deviation / np.sqrt(len(angles)), rel=0.3)
    for name in ("mean", "median"):
        assert mine[name] == pytest.approx(null[name], abs=4 * mine["mean_error"])
    for limit in (30, 60, 90):
        assert mine[f"below_{limit}"] == pytest.approx(null[f"below_{limit}"], abs=0.02)
    assert null["below_30"] == pytest.approx(0.0669873)
    x = np.linspace(0, 180, 100_001)
    below = np.cumsum(null_density(x)) * (x[1] - x[0])
    assert below[-1] == pytest.approx(1)
    assert kstest(angles["angle"], lambda a: np.interp(a, x, below)).pvalue > 1e-3
    assert null_density(-1.0) == null_density(181.0) == 0


def test_atoms_without_a_direction_are_left_out(eam: EAM) -> None:
    forces = np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 9e-4], [0, 0, 0]])
    other = np.array([[1.0, 0, 0], [0, 2e-4, 0], [0, 0, 1.0], [0, 0, 0]])
    atoms = cloud(4, one=forces, two=other)
    angles = force_angles(Given("one"), Given("two"), [atoms])
    assert list(angles["angle"].isna()) == [False, True, True, True]
    row = alignment_summary(angles).loc["all"]
    assert (row["n_atoms"], row["left_out"], row["mean"]) == (1, 3, 0)
    assert np.isnan(row["mean_error"])
    assert list(force_angles(Given("one"), Given("two"), [atoms], min_force=1e-4)["angle"].isna()) == [False] * 3 + [
        True
    ]
    lone = force_angles(eam, eam, [Atoms("O")])
    assert lone["angle"].isna().all()
    nothing = alignment_summary(lone)
    assert nothing.loc["all", "n_atoms"] == 0
    assert np.isnan(nothing.loc["all", "mean"])
    assert alignment_figure(lone) is None


def test_the_parts_of_a_hybrid(rocksalt: list[Atoms], network: CGCNN, eam: EAM) -> None:
    hybrid = Sum([network, eam])
    assert hybrid_parts(hybrid) == (network, eam)
    assert hybrid_parts(Sum([Sum([network, ZBL().double()]), eam])) == (network, eam)
    for other in (network, eam, Sum([network, ZBL()])):
        assert hybrid_parts(other) is None
        with pytest.raises(ConfigError, match="not the sum of a network and an EAM"):
            hybrid_angles(other, rocksalt)
    angles = hybrid_angles(hybrid, rocksalt)
    pd.testing.assert_frame_equal(angles, force_angles(network, eam, rocksalt))
    batch = build_batch(rocksalt[0], 4.0, torch.float64)
    mine, its, both = (predict(m, batch).forces.detach().numpy() for m in (network, eam, hybrid))
    assert np.allclose(mine + its, both)
    cosine = (mine * its).sum(1) / np.linalg.norm(mine, axis=1) / np.linalg.norm(its, axis=1)
    assert np.allclose(angles["angle"][: len(mine)], np.degrees(np.arccos(cosine)))
    two = hybrid_parts(Sum([network, eam, EAM(["O", "Mg"], cutoff=3.0).double()]))
    assert two is not None
    assert isinstance(two[1], Sum)


def test_arms_are_compared_with_what_the_paper_compares(rocksalt: list[Atoms], network: CGCNN, eam: EAM) -> None:
    own = EAM(["O", "Mg"], cutoff=3.5, n_basis=1).double()
    arms: dict[str, Any] = {
        "pretrained": network,
        "core": Sum([network, ZBL().double()]),
        "hybrid": Sum([network, own]),
    }
    table = alignment_table(arms, eam, rocksalt)
    assert table.groupby("arm")["against"].unique().map(list).to_dict() == {
        "pretrained": ["teacher"], "core": ["teacher"], "hybrid": ["own EAM"],
    }  # fmt: skip
    for arm, pair in {"pretrained": (network, eam), "core": (arms["core"], eam), "hybrid": (network, own)}.items():
        mine = table[table["arm"] == arm].drop(columns=["arm", "against"]).reset_index(drop=True)
        pd.testing.assert_frame_equal(mine, force_angles(*pair, rocksalt))
    assert list(alignment_summary(table).index) == ["pretrained", "core", "hybrid", RANDOM]


def test_molecules_slabs_and_calculators(zoo: dict[str, Atoms]) -> None:
    torch.manual_seed(5)
    structures = [zoo[name] for name in ("molecule", "slab", "chain", "triclinic", "tiny")]
    for name, atoms in zoo.items():
        atoms.rattle(0.05, seed=6)
        atoms.info["structure_id"] = name
    eam = EAM(["H", "O", "Mg", "Si", "Al"], cutoff=4.0, n_basis=2)
    pair = LennardJones(sigma=2.0, epsilon=0.1, rc=4.0, smooth=True)
    angles = force_angles(eam, lambda: LennardJones(sigma=2.0, epsilon=0.1, rc=4.0, smooth=True), structures)
    assert list(angles["structure_id"].unique()) == ["molecule", "slab", "chain", "triclinic", "tiny"]
    slab = angles[angles["structure_id"] == "slab"]
    atoms = zoo["slab"].copy()
    atoms.calc = pair
    expected, mine = atoms.get_forces(), predict(eam, build_batch(zoo["slab"], 4.0)).forces.detach().numpy()
    cosine = (expected * mine).sum(1) / np.linalg.norm(expected, axis=1) / np.linalg.norm(mine, axis=1)
    assert np.allclose(slab["angle"], np.degrees(np.arccos(cosine)), atol=0.05)
    assert np.allclose(slab["reference_force"], np.linalg.norm(expected, axis=1))


def test_the_figure_is_drawn(rocksalt: list[Atoms], network: CGCNN, eam: EAM, tmp_path: Path) -> None:
    table = alignment_table({"pretrained": network, "hybrid": Sum([network, eam])}, eam, rocksalt)
    table = pd.concat([table.assign(seed=k) for k in range(2)])
    notes: dict[str, str] = {}
    drawn = draw({"alignment": lambda: alignment_figure(table)}, tmp_path, notes)
    assert not notes
    assert (tmp_path / "alignment.png").stat().st_size > 10_000
    assert [panel.title for panel, _ in drawn["alignment"].svgs] == ["All atoms", "Mg", "O"]
    assert [entry.label for entry in drawn["alignment"].legend] == [
        "pretrained / teacher", "hybrid / own EAM", RANDOM,
    ]  # fmt: skip


def test_refusals(rocksalt: list[Atoms], eam: EAM) -> None:
    with pytest.raises(ConfigError, match="min_force"):
        force_angles(eam, eam, rocksalt, min_force=0.0)
    with pytest.raises(StructureError, match="no structures"):
        force_angles(eam, eam, [])
    with pytest.raises(ConfigError, match="no models"):
        alignment_table({}, eam, rocksalt)
    strange = Atoms("Fe2", [[0, 0, 0], [2, 0, 0]], info={"structure_id": "iron"})
    with pytest.raises(StructureError, match=r"iron.*Fe is unknown"):
        force_angles(eam, eam, [strange])
    broken = cloud(2, one=np.full((2, 3), np.nan))
    with pytest.raises(StructureError, match="NaN or infinite forces"):
        force_angles(Given("one"), Given("one"), [broken])


def test_command(rocksalt: list[Atoms], network: CGCNN, eam: EAM, tmp_path: Path) -> None:
    write_structures(tmp_path / "data.extxyz", rocksalt)
    Sum([network, eam]).save(tmp_path / "hybrid.pt")
    network.save(tmp_path / "network.pt")
    eam.save(tmp_path / "eam.pt")

    def call(*words: object) -> Any:
        return CliRunner().invoke(app, ["align", *map(str, words), "--device", "cpu"])

    for k, words in enumerate((("network.pt", "eam.pt"), ("hybrid.pt", "parts"))):
        out = tmp_path / f"out-{k}"
        reference = words[1] if words[1] == "parts" else tmp_path / words[1]
        result = call(tmp_path / words[0], reference, tmp_path / "data.extxyz", "--out", out)
        assert result.exit_code == 0, result.output
        assert RANDOM in result.output
        angles = pd.read_csv(out / "alignment.csv")
        assert np.allclose(angles["angle"], force_angles(network, eam, rocksalt)["angle"], atol=1e-6)
        summary = pd.read_csv(out / "alignment_summary.csv", index_col="arm")
        assert summary.loc[words[0].removesuffix(".pt"), "mean"] == pytest.approx(angles["angle"].mean())
        assert (out / "alignment.png").is_file()
    refused = call(tmp_path / "network.pt", "parts", tmp_path / "data.extxyz")
    assert refused.exit_code == 2
    assert "not the sum of a network and an EAM" in refused.stderr
