"""The reference potential of runs and checks: its tasks, its files, its place in the verdict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT

from mdl_physpretrain.dynamics import Runs
from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.potentials import CGCNN
from mdl_physpretrain.potentials.identity import package_versions
from mdl_physpretrain.statistics.reference import REFERENCE_POTENTIAL
from mdl_physpretrain.structures import write_structures
from mdl_physpretrain.workflow import plan as plans
from mdl_physpretrain.workflow.check import check
from mdl_physpretrain.workflow.check_suite import probe_names
from mdl_physpretrain.workflow.config import RunConfig
from mdl_physpretrain.workflow.config_files import load_config
from mdl_physpretrain.workflow.folder import preflight
from mdl_physpretrain.workflow.run_suite import RunSuite
from mdl_physpretrain.workflow.stages.reference import look_at_reference
from mdl_physpretrain.workflow.task import Task

LJ = {"reference_potential": "ase.calculators.lj:LennardJones"}
OTHERS = tuple(name for name in probe_names() if name != "md")


class Nothing(Calculator):
    """No forces at all: atoms fly freely."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012 - ASE's name and type

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": 0.0, "forces": np.zeros((len(self.atoms), 3)), "stress": np.zeros(6)}


class Picky(EMT):
    """Fails in the middle of a simulation."""

    def calculate(self, atoms=None, *args, **kwargs):
        if atoms.has("momenta") and abs(atoms.positions - atoms.positions.round(1)).max() > 0.049:
            raise RuntimeError("no thank you")
        return super().calculate(atoms, *args, **kwargs)


def tasks(**md: Any) -> dict[str, Task]:
    config = RunConfig.model_validate({"data": {"source": "demo"}, "seeds": [3, 4], "md": md})
    return {task.name: task for task in plans.plan(config)}


def test_it_is_simulated_once_for_all_networks_under_every_condition() -> None:
    without, beside = tasks(), tasks(**LJ, also=[{"ensemble": "npt", "temperature": 750}])
    names = [name for name, task in beside.items() if task.stage == "reference"]
    assert names == ["reference potential", "reference errors", "reference md", "reference md npt-750K"]
    assert not [task for task in without.values() if task.stage == "reference"]
    assert beside["reference md npt-750K"].scratch[0] == "reference/md-seed-3@npt-750K.runs.npz"
    order = list(beside)
    assert order.index("reference potential") < order.index("teacher"), "it is looked at before anything takes long"
    assert set(names) < set(beside["md"].needs)
    assert "reference/md-seed-3.csv" in beside["md"].inputs
    # velocities and noise: those of the first seed for all, else of each seed
    assert [without[f"md seed {seed} baseline"].section[0] for seed in (3, 4)] == [3, 4]
    assert [beside[f"md seed {seed} baseline"].section[0] for seed in (3, 4)] == [3, 3]
    config = RunConfig.model_validate({"data": {"source": "demo"}, "seeds": [3, 4], "md": LJ})
    suite = RunSuite(config, Path())
    seeds = {suite.simulation(arm, seed, "")["seed"] for arm, seed in
             (("baseline", 3), ("pretrained", 4), (REFERENCE_POTENTIAL, 3))}  # fmt: skip
    assert len(seeds) == 1


def test_what_its_results_depend_on(monkeypatch: pytest.MonkeyPatch) -> None:
    first = tasks(**LJ)["reference md"]
    more = tasks(**LJ, reference_structures=5)["reference md"]
    assert more.section == first.section, "more structures go on with what is there"
    assert more.growing != first.growing
    assert tasks(**LJ, reference_potential_args={"sigma": 2.0})["reference md"].section != first.section
    assert tasks(**LJ, temperature=7)["reference md"].section != first.section
    assert tasks(**LJ, engine="batched")["reference md"].section == first.section
    assert first.section[0][0]["ase"], "the version of the potential's package"
    monkeypatch.setattr(plans, "versions_of", lambda text: {"ase": "0.0"})
    assert tasks(**LJ)["reference md"].section != first.section


def test_versions_of_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_of_two_packages.py").write_text("import yaml\nfrom pandas import DataFrame\nimport torch, json\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert set(package_versions("mine_of_two_packages")) == {"PyYAML", "pandas"} or set(
        package_versions("mine_of_two_packages")
    ) == {"pyyaml", "pandas"}
    assert package_versions("pandas.io") == {"pandas": pd.__version__}
    assert package_versions("module_that_does_not_exist") == {}


@pytest.mark.parametrize(
    ("md", "message"),
    [
        ("{reference_structures: 3}", "'reference_structures' is about 'reference_potential', which is not given"),
        ("{reference_potential_args: {a: 1}}", "'reference_potential_args' is about 'reference_potential'"),
        ("{reference_potential: net.pt, reference_potential_args: {a: 1}}", "those of a 'module:factory'"),
        (
            "{reference_potential: 'no_such_module:Thing'}",
            "md.reference_potential: cannot import 'no_such",
        ),
        ("{reference_potential: 'ase.calculators.lj:Lennard'}", "md.reference_potential: .*has no 'Lennard'"),
        ("{reference_potential: gone.pt}", r"md.reference_potential: .*gone.pt"),
    ],
)
def test_a_reference_that_cannot_be_is_told_before_any_work(tmp_path: Path, md: str, message: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"data: {{source: demo}}\nmd: {md}\n")
    with pytest.raises(Exception, match=message) as told:
        preflight(load_config(path))
    assert type(told.value).__module__ == "mdl_physpretrain.errors"


def test_elements_that_it_does_not_know_are_told_before_training(rocksalt: list[Atoms], tmp_path: Path) -> None:
    write_structures(tmp_path / "data" / "test.extxyz", rocksalt[:2])
    md = {"reference_potential": "ase.calculators.emt:EMT"}
    config = RunConfig.model_validate({"data": {"source": "demo"}, "md": md})
    with pytest.raises(ConfigError, match=r"md\.reference_potential: .*MgO|md\.reference_potential: .*EMT"):
        look_at_reference(config, tmp_path, False)
    lj = RunConfig.model_validate({"data": {"source": "demo"}, "md": LJ})
    assert look_at_reference(lj, tmp_path, False) == ["reference/potential.json"]
    words = json.loads((tmp_path / "reference" / "potential.json").read_text())["potential"]
    assert words.startswith("ase.calculators.lj:LennardJones (ase ")


def test_a_checkpoint_of_a_network(rocksalt: list[Atoms], tmp_path: Path) -> None:
    net = CGCNN(cutoff=4.0, dim1=4, dim2=4).eval()
    net.save(tmp_path / "net.pt")
    (tmp_path / "c.yaml").write_text("data: {source: demo}\nmd: {reference_potential: net.pt}\n")
    config = load_config(tmp_path / "c.yaml")
    assert config.md.reference_potential == str(tmp_path / "net.pt"), "of the file's folder"
    preflight(config)
    task = {task.name: task for task in plans.plan(config)}["reference md"]
    assert str(tmp_path / "net.pt") in task.inputs
    assert task.modules == (CGCNN.__module__,)


@pytest.fixture
def metals() -> list[Atoms]:
    cells = []
    for k, symbol in enumerate(("Cu", "Ni", "Cu")):
        atoms = bulk(symbol, "fcc", cubic=True)
        atoms.rattle(0.03, seed=k)
        atoms.info["structure_id"] = f"m/{k}"
        cells.append(atoms)
    return cells


def run(structures: list[Atoms], folder: Path, **options: Any) -> Any:
    defaults: dict[str, Any] = {"steps": 40, "temperature": 3000.0, "timestep": 4.0, "trajectory_interval": None}
    defaults |= {"skip": OTHERS, "report": False, "seeds": (0, 1)}
    potentials = options.pop("potentials", {"free": Nothing, "emt": EMT})
    return check(potentials, structures, output=folder, **{**defaults, **options})


def test_check_beside_a_reference(metals: list[Atoms], tmp_path: Path) -> None:
    alone = run(metals, tmp_path / "alone")
    found = run(metals, tmp_path / "beside", reference_potential=Nothing, reference_structures=2, report=True)
    table = found.tables["physicality"]
    of_reference = table[table["arm"] == REFERENCE_POTENTIAL]
    assert len(of_reference) == 4
    assert set(of_reference["structure_id"]) == {"m/0", "m/1"}
    free = table[table["arm"] == "free"].set_index(["structure_id", "seed"])
    twin = of_reference.set_index(["structure_id", "seed"])
    both = free.loc[twin.index]
    assert (both["min_distance"] - twin["min_distance"]).abs().max() < 1e-9, "same starts, velocities and noise"
    assert not both["physical"].all()
    assert not both["held_against"].astype(bool).any(), "what the reference loses, too"
    assert free["reference_verdict"].isna().sum() == 2
    plain = alone.tables["physicality"]
    same = table[table["arm"] != REFERENCE_POTENTIAL].reset_index(drop=True)[list(plain)]
    pd.testing.assert_frame_equal(same, plain, check_dtype=False)
    assert {pair.potential for pair in found.pairs} == {"emt"}
    finding = found.answers.set_index(["arm", "question"]).loc[("free", "MD stays physical")]
    assert "that the reference potential keeps" in finding["finding"]
    assert json.loads((tmp_path / "beside" / "check.json").read_text())["reference_potential"] == "Nothing"
    page = (tmp_path / "beside" / "report" / "index.html").read_text()
    assert "Beside the reference potential" in page
    assert "first 2 starts only" in page
    assert "too short for a claim" in page
    assert (tmp_path / "beside" / "report" / "tables" / "beside_reference.json").is_file()
    assert REFERENCE_POTENTIAL not in set(found.answers["arm"])


def test_a_potential_that_equals_its_reference_passes(metals: list[Atoms], tmp_path: Path) -> None:
    found = run(metals, tmp_path, potentials={"free": Nothing}, reference_potential=Nothing)
    table = found.tables["physicality"]
    assert (~table[table["arm"] == "free"]["physical"]).sum() > 0
    assert found.answers["verdict"].tolist() == ["yes"]
    worse = run(metals, tmp_path, potentials={"free": Nothing}, reference_potential=EMT, temperature=3000.0)
    assert worse.answers["verdict"].tolist() == ["no"], worse.answers["finding"].tolist()
    assert list((tmp_path / ".replaced").glob("md-of-the-reference-potential-seed-*")), "nothing of the other is lost"


def test_check_goes_on_and_adds_structures(metals: list[Atoms], tmp_path: Path) -> None:
    events: list[tuple[str, str]] = []

    def listen(event: str, task: Task, seconds: float) -> None:
        events.append((event, task.name))

    options: dict[str, Any] = {"potentials": {"emt": EMT}, "seeds": (0,), "listener": listen}
    name = "md of the reference potential seed 0"
    run(metals, tmp_path, **options, reference_potential=EMT, reference_structures=1)
    file = tmp_path / "reference" / "md-seed-0.runs.npz"
    first = Runs.load(file)[0].positions
    events.clear()
    run(metals, tmp_path, **options, reference_potential=EMT, reference_structures=1)
    assert ("skip", name) in events
    events.clear()
    more = run(metals, tmp_path, **options, reference_potential=EMT)
    assert ("resume", name) in events
    np.testing.assert_array_equal(Runs.load(file)[0].positions, first)
    assert len(Runs.load(file)) == 3
    assert more.tables["physicality"]["reference_verdict"].notna().sum() == 3
    less = run(metals, tmp_path, **options)
    assert "reference_verdict" not in less.tables["physicality"], "what is not asked for is not in the tables"


def test_a_reference_that_fails_takes_no_potential_with_it(metals: list[Atoms], tmp_path: Path) -> None:
    for atoms in metals:
        atoms.positions = atoms.positions.round(1)
    with pytest.warns(UserWarning, match="reference potential could not answer md: .*no thank you"):
        found = run(metals, tmp_path, potentials={"emt": EMT}, reference_potential=Picky, seeds=(0,))
    assert "reference_verdict" not in found.tables["physicality"]
    assert len(found.tables["physicality"]) == 3


def test_wrong_input_of_a_check(metals: list[Atoms], rocksalt: list[Atoms], tmp_path: Path) -> None:
    for structures, options, message in (
        (metals, {"reference_structures": 2}, "reference_structures is about a reference potential"),
        (metals, {"reference_potential": EMT, "reference_structures": 0}, "reference_structures must be an integer"),
        (rocksalt, {"potentials": {"free": Nothing}, "reference_potential": EMT}, "^reference potential: .*"),
    ):
        with pytest.raises(ConfigError, match=message):
            run(structures, tmp_path / "out", **options)
        assert not (tmp_path / "out" / "check.json").exists()
