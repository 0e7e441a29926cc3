"""The whole suite for potentials whose answers are known."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.io import read, write

from mdl_physpretrain import source_graph
from mdl_physpretrain.dynamics import Runs
from mdl_physpretrain.dynamics.traces import TrajectoryWriter, trajectory_name
from mdl_physpretrain.errors import CheckpointError, ConfigError, StructureError
from mdl_physpretrain.potentials import CGCNN
from mdl_physpretrain.report import build
from mdl_physpretrain.report.read import read_run
from mdl_physpretrain.structures import get_labels
from mdl_physpretrain.workflow.check import CheckResult, check

ONE_CURVE: dict[str, Any] = {"wide_pairs": "none"} | dict.fromkeys(
    ("bond_structures", "invariance_structures", "eos_structures"), 0
)
QUICK: dict[str, Any] = {
    "steps": 20, "trajectory_interval": 5, "nve_structures": 2, "nve_steps": 40, "compressed": 1, "probe": ONE_CURVE,
}  # fmt: skip


class Nothing(Calculator):
    """No forces at all: atoms fly freely."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012 - ASE's name and type

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": 0.0, "forces": np.zeros((len(self.atoms), 3)), "stress": np.zeros(6)}


@pytest.fixture
def metals() -> list[Atoms]:
    """Three labelled copper and nickel cells of eight atoms."""
    found = []
    for k, symbol in enumerate(("Cu", "Ni", "Cu")):
        atoms = bulk(symbol, "fcc", cubic=True) * (2, 1, 1)
        if k == 2:
            atoms.symbols[:4] = "Ni"
        atoms.rattle(0.03, seed=k)
        atoms.calc = EMT()
        atoms.get_forces(), atoms.get_stress()
        atoms.info["structure_id"] = f"m/{k}"
        found.append(atoms)
    return found


def run(structures: list[Atoms], folder: Path, potentials: dict[str, Any] | None = None, **options: Any) -> CheckResult:
    return check(potentials or {"emt": EMT, "free": Nothing}, structures, output=folder, **{**QUICK, **options})


@pytest.fixture
def answers() -> Callable[[CheckResult, str], dict[str, str]]:
    def of(found: CheckResult, name: str) -> dict[str, str]:
        mine = found.answers[found.answers["arm"] == name]
        return dict(zip(mine["question"], mine["verdict"], strict=True))

    return of


def test_all_questions_are_answered(metals, tmp_path, answers) -> None:
    found = run(metals, tmp_path, temperature=3000.0, timestep=2.0, steps=60, report=False)
    emt, free = answers(found, "emt"), answers(found, "free")
    assert emt["energy is conserved"] == "not judged", "0.08 ps"
    assert emt["errors"] == free["errors"] == "value"
    assert free["two atoms repel"] == "no", "without forces nothing repels"
    assert free["MD stays physical"] == "no", "at 3000 K free atoms run into each other"
    assert free["energy is conserved"] == "not judged"

    efs = found.tables["efs"].set_index("arm")
    assert efs.loc["emt", ["energy_mae", "forces_mae", "stress_mae"]].max() < 1e-6, "it made the labels"
    mean = np.mean([abs(get_labels(a).energy) for a in metals])
    assert efs.loc["free", "energy_mae"] == pytest.approx(mean)
    assert set(efs["split"]) == {"test"}
    assert set(found.tables["diatomics"]["pair"]) == {"Ni-Ni", "Ni-Cu", "Cu-Cu"}
    assert set(found.tables["compression"]["structure_id"]) == {"m/0"}
    assert set(found.tables["nve"]["structure_id"]) == {"m/0", "m/1"}
    runs = found.tables["physicality"]
    assert runs.groupby(["arm", "ensemble"]).size().to_dict() == {
        ("emt", "nve"): 2, ("emt", "nvt"): 3, ("free", "nve"): 2, ("free", "nvt"): 3,
    }  # fmt: skip
    assert (found.pairs[0].reference, found.pairs[0].potential, found.pairs[0].n_pairs) == ("emt", "free", 3)
    assert found.unanswered == {}
    for kind, table in found.tables.items():
        assert len(pd.read_csv(tmp_path / f"{kind}.csv")) == len(table), kind
    told = json.loads((tmp_path / "check.json").read_text())
    assert told["version"] == 1
    assert told["settings"]["temperature"] == 3000.0
    assert told["structures"] == ["m/0", "m/1", "m/2"]
    assert told["potentials"] == {"emt": "EMT", "free": "Nothing"}


def test_same_velocities_and_same_noise_for_every_potential(metals, tmp_path) -> None:
    """Two potentials without forces follow the same path, whatever else runs beside them."""
    potentials = {"a": Nothing, "between": EMT, "b": lambda: Nothing()}
    run(metals, tmp_path, potentials, seeds=(0, 1), skip=("diatomics", "compression", "errors"), report=False)
    positions = {}
    for name in ("a", "b", "between"):
        for seed in (0, 1):
            runs = Runs.load(tmp_path / f"seed-{seed}/md/{name}.runs.npz")
            positions[name, seed] = np.concatenate([r.positions for r in runs])
            first = read(tmp_path / f"seed-{seed}/md/{name}.trajectories" / trajectory_name("m/1"), 0)
            positions[name, seed, "start"] = first.get_velocities()
    for seed in (0, 1):
        np.testing.assert_array_equal(positions["a", seed], positions["b", seed])
        np.testing.assert_array_equal(positions["a", seed, "start"], positions["between", seed, "start"])
        assert np.abs(positions["a", seed] - positions["between", seed]).max() > 1e-4
    assert np.abs(positions["a", 0] - positions["a", 1]).max() > 1e-3, "another seed, other noise"
    assert np.abs(positions["a", 0, "start"] - positions["a", 1, "start"]).max() > 1e-3


def test_a_structure_does_not_depend_on_its_neighbours_in_the_list(metals, tmp_path) -> None:
    skip = ("diatomics", "compression", "errors", "nve", "rdf")
    run(metals, tmp_path / "all", {"emt": EMT}, skip=skip, report=False)
    run(metals[2:], tmp_path / "one", {"emt": EMT}, skip=skip, report=False)
    all_, one = (Runs.load(tmp_path / f"{n}/seed-0/md/emt.runs.npz") for n in ("all", "one"))
    np.testing.assert_array_equal(all_[2].positions, one[0].positions)


def test_a_second_call_goes_on(metals, tmp_path, monkeypatch) -> None:
    calls = {"n": 0}

    class Counting(EMT):
        def calculate(self, *args, **kwargs):
            calls["n"] += 1
            return super().calculate(*args, **kwargs)

    before = run(metals, tmp_path, {"a": Counting}, report=False)
    first, calls["n"] = calls["n"], 0
    again = run(metals, tmp_path, {"a": Counting}, report=False)
    assert calls["n"] <= 2 < first, "only the look at every element before the work"
    for kind, table in before.tables.items():
        pd.testing.assert_frame_equal(table, again.tables[kind])
    assert Runs.load(tmp_path / "seed-0/md/a.runs.npz")[0].frame_step.tolist() == list(range(21))
    predictions = tmp_path / "seed-0/evaluate/a.predictions.csv"
    content, calls["n"] = predictions.read_text(), 0
    predictions.unlink()
    run(metals, tmp_path, {"a": Counting}, report=False)
    assert calls["n"] <= 2 + 3 * len(metals), "the errors alone are asked again"
    assert predictions.read_text() == content
    calls["n"] = 0
    with_other = run(metals, tmp_path, {"a": Counting, "b": LennardJones}, report=False)
    assert calls["n"] <= 2
    assert set(with_other.tables["efs"]["arm"]) == {"a", "b"}
    alone = run(metals, tmp_path, {"b": LennardJones}, report=False)
    assert set(alone.tables["physicality"]["arm"]) == {"b"}, "what is not asked for is not in the tables"


def test_other_settings_in_the_same_folder_are_refused(metals, tmp_path) -> None:
    run(metals, tmp_path, {"a": EMT}, skip=("diatomics", "compression", "nve"), report=False)
    with pytest.raises(ConfigError, match=r"temperature 300\.0 instead of 500\.0: choose another output folder"):
        run(metals, tmp_path, {"a": EMT}, temperature=500.0)
    with pytest.raises(CheckpointError, match="another potential"):
        run(metals, tmp_path, {"a": lambda: EMT()}, skip=("diatomics", "compression", "nve", "errors"))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    with pytest.raises(ConfigError, match="is the folder of a run"):
        run(metals, tmp_path / "run")


def test_rdf_against_itself_and_against_another_crystal(metals, tmp_path) -> None:
    skip = ("diatomics", "compression", "errors", "nve")
    first = run(metals, tmp_path / "first", {"emt": EMT}, skip=skip, report=False)
    assert "rdf_errors" not in first.tables
    assert {"m/0", "m/1", "m/2", "all"} == set(first.tables["rdf"]["structure_id"])
    own = read(tmp_path / "first/seed-0/md/emt.trajectories" / trajectory_name("m/0"), ":")
    write(tmp_path / "same.extxyz", own)
    for atoms in own:
        atoms.set_cell(atoms.cell * 1.1, scale_atoms=True)
        del atoms.info["structure_id"]
    (tmp_path / "other").mkdir()
    write(tmp_path / "other" / trajectory_name("m/0"), own)
    same = run(
        metals, tmp_path / "first", {"emt": EMT}, skip=skip, references=[str(tmp_path / "same.extxyz")], report=False
    )
    again = [str(tmp_path / "other" / "*")]
    other = run(metals, tmp_path / "two", {"emt": EMT}, skip=skip, references=again, report=False)
    errors = [t.tables["rdf_errors"] for t in (same, other)]
    assert set(errors[0]["structure_id"]) == {"m/0"}, "only the structures with a reference count"
    assert errors[0]["error"].max() == pytest.approx(0, abs=1e-9)
    assert errors[1].set_index("pair")["error"]["all"] > 0.1
    assert set(other.tables["rdf"]["arm"]) == {"emt", "reference"}
    with pytest.raises(ConfigError, match="is of one of the structures"):
        run(metals[1:2], tmp_path / "three", {"emt": EMT}, skip=skip, references=[str(tmp_path / "same.extxyz")])
    with pytest.raises(StructureError, match="no such file"):
        run(metals, tmp_path / "three", {"emt": EMT}, references=[str(tmp_path / "gone.xyz")])


@pytest.mark.parametrize("name", ["m/0", "a b:c", "x+y=z.1"])
def test_trajectories_are_called_as_simulate_calls_them(tmp_path, name) -> None:
    writer = TrajectoryWriter(tmp_path, [name], interval=1, file_format="extxyz", timestep=1.0)
    assert writer.paths[name].name == trajectory_name(name)


def test_a_calculator_that_fails_at_a_question_answers_the_others(metals, tmp_path, answers) -> None:
    class Picky(EMT):
        def calculate(self, atoms=None, *args, **kwargs):
            if len(atoms) == 2:
                raise RuntimeError("no molecules, please")
            return super().calculate(atoms, *args, **kwargs)

    with pytest.warns(UserWarning, match="picky could not answer diatomics: .*no molecules, please"):
        found = run(metals, tmp_path, {"picky": Picky}, skip=("compression", "nve"), report=False)
    got = answers(found, "picky")
    assert got["two atoms repel"] == "unanswered"
    assert got["MD stays physical"] == "yes"


def test_a_network(rocksalt, tmp_path) -> None:
    net = CGCNN(cutoff=4.0, dim1=4, dim2=4).eval()
    net.metadata = {"elements": ["O", "Mg"]}
    found = run(rocksalt[:2], tmp_path, {"net": net}, report=False, seeds=(0, 7))
    assert set(found.tables["physicality"]["seed"]) == {0, 7}
    assert set(found.tables["rdf"]["seed"]) == {0, 7}
    assert found.tables["efs"]["n_structures"].tolist() == [2]


def test_wrong_input_is_told_before_any_work(metals, rocksalt, tmp_path) -> None:
    net = CGCNN(cutoff=4.0, dim1=4, dim2=4).eval()
    net.metadata = {"elements": ["Cu"]}
    cases: list[tuple[Any, list[Atoms], dict[str, Any], str]] = [
        ({"emt": EMT}, rocksalt, {}, r"potential emt: .*EMT"),
        ({"emt": EMT, "net": net}, metals, {}, "potential net: .*was not trained on Ni"),
        ({"reference": EMT}, metals, {}, "cannot be called 'reference'"),
        ({"a/b": EMT}, metals, {}, "cannot be called 'a/b'"),
        ({}, metals, {}, "no potential"),
        ({"emt": EMT}, metals, {"seeds": (1, 1)}, "seeds must be different"),
        ({"emt": EMT}, metals, {"steps": -1}, "steps must be an integer"),
        ({"emt": EMT}, metals, {"ensemble": "nxt"}, "ensemble must be"),
        ({"emt": EMT}, metals, {"skip": ("all",)}, "skip must be among"),
        ({"emt": EMT}, metals, {"compressed": 0}, "compressed must be"),
        ({"emt": EMT}, metals, {"md_structures": ("m/1", "m/9")}, "md_structures: no structure m/9 is given"),
    ]
    for potentials, structures, options, message in cases:
        with pytest.raises(ConfigError, match=message):
            check(potentials, structures, output=tmp_path / "out", **{**QUICK, **options})
        assert not list(tmp_path.glob("out/seed-*")), message
        assert not (tmp_path / "out" / "check.json").exists(), message


def test_unlabelled_structures_have_no_errors(metals, tmp_path) -> None:
    bare = [Atoms(a.numbers, a.positions, cell=a.cell, pbc=True, info={"structure_id": f"{k}"}) for k, a in
            enumerate(metals)]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = run(bare, tmp_path, {"emt": EMT}, skip=("nve", "diatomics", "compression"), report=False)
    assert "efs" not in found.tables
    assert found.tables["physicality"]["structure_id"].tolist() == ["0", "1", "2"]


def test_md_of_other_code_is_put_aside_and_done_again(metals, tmp_path, monkeypatch) -> None:
    skip = ("errors", "stiffness", "diatomics", "compression", "nve", "rdf", "diffusion")
    before = run(metals[:1], tmp_path, {"emt": EMT}, skip=skip, report=False)
    file = tmp_path / "seed-0/md/emt.runs.npz"
    old, digest = file.read_bytes(), source_graph._digest
    kernel = "mdl_physpretrain.graphs.edge_kernel"
    monkeypatch.setattr(source_graph, "_digest", lambda module: "other" if module == kernel else digest(module))
    events = []
    again = run(
        metals[:1], tmp_path, {"emt": EMT}, skip=skip, report=False,
        listener=lambda event, task, seconds: events.append((event, task.name)),
    )  # fmt: skip
    assert events == [("start", "md emt seed 0"), ("done", "md emt seed 0")]
    assert (tmp_path / ".replaced" / "md-emt-seed-0" / "emt.runs.npz").read_bytes() == old
    pd.testing.assert_frame_equal(before.tables["physicality"], again.tables["physicality"])


def test_md_of_older_versions_is_put_aside_but_not_that_of_other_potentials(metals, tmp_path) -> None:
    """Their starts were hashed with SHA-256: they cannot be compared, and nothing of them may be lost."""
    skip = ("errors", "stiffness", "diatomics", "compression", "nve", "rdf", "diffusion")
    before = run(metals[:1], tmp_path, {"emt": EMT}, skip=skip, report=False)
    file, record = tmp_path / "seed-0/md/emt.runs.npz", tmp_path / ".stages/md-emt-seed-0.json"
    runs = Runs.load(file)
    runs[0].input_hash = "5" * 64
    runs.save(file)
    old = file.read_bytes()
    record.write_text(json.dumps({"task": "md emt seed 0", "fingerprint": "6" * 64, "seconds": 1.0, "outputs": {}}))
    with pytest.raises(CheckpointError, match="another potential"):
        run(metals[:1], tmp_path, {"emt": lambda: EMT()}, skip=skip, report=False)
    assert file.read_bytes() == old
    with pytest.warns(UserWarning, match=r"md emt seed 0: done again; what was there is kept in .*\.replaced"):
        again = run(metals[:1], tmp_path, {"emt": EMT}, skip=skip, report=False)
    assert (tmp_path / ".replaced" / "md-emt-seed-0" / "emt.runs.npz").read_bytes() == old
    pd.testing.assert_frame_equal(before.tables["physicality"], again.tables["physicality"])
    metals[0].rattle(0.01, seed=9)
    with pytest.raises(CheckpointError, match="holds another structure m/0"):
        run(metals[:1], tmp_path, {"emt": EMT}, skip=skip, report=False)


def test_more_structures_go_on_with_what_is_there(metals, tmp_path) -> None:
    skip = ("errors", "stiffness", "diatomics", "compression", "nve", "rdf", "diffusion")
    run(metals[:1], tmp_path, {"emt": EMT}, skip=skip, report=False)
    events = []
    found = run(
        metals, tmp_path, {"emt": EMT}, skip=skip, report=False,
        listener=lambda event, task, seconds: events.append(event),
    )  # fmt: skip
    assert events == ["resume", "done"]
    assert found.tables["physicality"]["structure_id"].tolist() == ["m/0", "m/1", "m/2"]
    assert not (tmp_path / ".replaced").exists()


def test_some_structures_are_simulated_and_all_are_examined(metals, tmp_path) -> None:
    skip = ("diatomics", "rdf", "diffusion")
    found = run(metals, tmp_path, {"emt": EMT}, skip=skip, md_structures=("m/1",), compressed=3, report=False)
    table = found.tables["physicality"]
    assert table.loc[table["label"].isna(), "structure_id"].tolist() == ["m/1"]
    assert table.loc[table["label"].notna(), "structure_id"].tolist() == ["m/0", "m/1"], "without thermostat"
    assert found.tables["compression"]["structure_id"].nunique() == 3
    more = run(metals, tmp_path, {"emt": EMT}, skip=skip, md_structures=("m/0", "m/1"), compressed=3, report=True)
    table = more.tables["physicality"]
    assert table.loc[table["label"].isna(), "structure_id"].tolist() == ["m/0", "m/1"]


def test_several_jobs_find_the_same(metals, tmp_path) -> None:
    skip = ("diatomics", "nve")
    one, two = (
        run(metals[:2], tmp_path / str(jobs), {"emt": EMT, "lj": LennardJones}, skip=skip, jobs=jobs, report=False)
        for jobs in (1, 2)
    )
    assert one.tables.keys() == two.tables.keys() >= {"msd", "diffusion", "rdf", "efs", "physicality", "compression"}
    for kind, table in one.tables.items():
        pd.testing.assert_frame_equal(table, two.tables[kind])
    timings = json.loads((tmp_path / "2" / "timings.json").read_text())
    assert {row["status"] for row in timings} == {"done"}


def test_sections_of_questions_asked_on_request_can_all_be_made(metals, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(build, "draw", lambda makers, folder, notes: {})
    asked: dict[str, Any] = {"wide_pairs": "homonuclear", "ensemble_fluctuations": True}
    asked |= dict.fromkeys(("bond_structures", "invariance_structures", "eos_structures"), 1)
    found = run(metals[:1], tmp_path, probe=asked)
    page = found.page.read_text()
    assert read_run(tmp_path).notes == {}
    assert "could not be made" not in page
    for section in ("diatomic_metrics", "bond_smoothness", "invariance", "eos"):
        assert f'id="{section}"' in page


def test_options_of_probes(metals, tmp_path) -> None:
    skip = ("errors", "diatomics", "compression", "nve", "rdf")
    found = run(
        metals[:1], tmp_path, {"emt": EMT}, skip=skip, steps=60, trajectory_interval=2, report=False,
        probe={"diffusion_blocks": 1, "diffusion_settling": 0.0},
    )  # fmt: skip
    assert found.tables["msd"]["t"].max() == pytest.approx(0.030)  # half of 31 frames 2 fs apart
    for probe, message in (
        ({"blocks": 1}, "no probe has an option 'blocks'"),
        ({"diffusion_blocks": 0}, "diffusion_blocks"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(metals[:1], tmp_path / "other", {"emt": EMT}, probe=probe)
