"""A whole run, as small as it can be, on the command line."""

import json

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from mdl_physpretrain.cli import app
from mdl_physpretrain.ownership import LEFT
from mdl_physpretrain.potentials import load_model
from mdl_physpretrain.structures import get_labels, read_structures, write_structures
from mdl_physpretrain.workflow.plan import STAGES

CONFIG = """\
name: Rock salt
preset: algorithm1
data: {source: mgo.extxyz, fractions: [0.5, 0.25, 0.25]}
seeds: [0, 1]
teacher: {epochs: 2, cutoff: 4.5, force: true}
augment: {n_aug: 2, pull: 0.3, perturb: 0.3, max_force: null}
backbone: {name: cgcnn, args: {dim1: 8, dim2: 8, gc_count: 1, cutoff: 4.0}}
pretrain: {epochs: 2}
finetune: {epochs: 2}
arms:
  baseline: {pretrain: false}
  pretrained: {replay: 0.3}
  hybrid: {pretrain: false, hybrid: joint, optimizer: sam}
md:
  n_structures: 2
  steps: 20
  trajectory_interval: 5
  reference: reference.extxyz
  also: [{ensemble: npt, temperature: 200, steps: 6}, {ensemble: nve, n_structures: 1, steps: 200}]
probe: {n_compressed: 1}
"""
ARMS = ("baseline", "pretrained", "hybrid")
FILES = """config.yaml README.md environment.json timings.json efs.csv physicality.csv diatomics.csv alignment.csv
diatomic_flags.csv compression.csv compression_flags.csv rdf.csv rdf_errors.csv nve.csv
data/train.extxyz data/val.extxyz data/test.extxyz data/summary.json
teacher/teacher.pt teacher/examination.json teacher/history.csv teacher/errors.json teacher/curves.csv
teacher/decomposition.csv augment/coverage.csv
augment/labelled.extxyz augment/filter.json augment/min_distances.csv
seed-0/pretrain/best.pt seed-0/pretrain/last.ckpt seed-0/pretrain/history.csv
seed-1/baseline/best.pt seed-1/pretrained/best.pt seed-1/pretrained/history.csv
seed-0/md/baseline.csv seed-0/md/pretrained.csv seed-1/md/hybrid@npt-200K.csv report/index.html"""


def _call(*words):
    return CliRunner().invoke(app, [str(w) for w in words])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    import numpy as np
    from ase.build import bulk
    from labelled_cells import random_labels

    folder = tmp_path_factory.mktemp("run")
    rng = np.random.default_rng(7)
    structures = []
    for k in range(8):
        atoms = bulk("MgO", "rocksalt", a=4.2, cubic=True)
        atoms.positions += rng.normal(scale=0.05, size=(8, 3))
        structures.append(random_labels(atoms, rng, f"mgo-{k}"))
    write_structures(folder / "mgo.extxyz", structures)
    _reference(folder / "reference.extxyz", structures[1::2], rng)
    config = folder / "config.yaml"
    config.write_text(CONFIG)
    result = _call("run", config, "-o", folder / "run", "--jobs", "1")
    assert result.exit_code == 0, result.output
    return config, folder / "run", result.output


def _reference(path, structures, rng):
    """Trajectories of some of the structures that stand for DFT MD."""
    from ase.io import write

    frames = []
    for atoms in structures:
        for _ in range(5):
            moved = atoms.copy()
            moved.rattle(0.1, rng=rng)
            frames.append(moved)
    write(path, frames)


def _statuses(run):
    return {row["stage"]: row["status"] for row in json.loads((run / "timings.json").read_text())}


def test_every_file_of_the_run_folder_is_there(finished):
    _, run, output = finished
    missing = [name for name in FILES.split() if not (run / name).is_file()]
    assert not missing
    assert "Report: " in output
    assert "pretrained" in output
    assert set(_statuses(run).values()) == {"done"}
    assert not list(run.rglob("*.part"))


def test_tables_have_a_row_for_every_seed_arm_and_structure(finished):
    _, run, _ = finished
    physicality = pd.read_csv(run / "physicality.csv")
    assert physicality.groupby(["ensemble", "temperature", "steps"]).size().to_dict() == {
        ("nvt", 300.0, 20): 2 * 3 * 2,
        ("npt", 200.0, 6): 2 * 3 * 2,
        ("nve", 300.0, 200): 2 * 3 * 1,
    }
    assert set(physicality.groupby(["seed", "arm"]).size()) == {5}
    assert {"ensemble", "temperature", "timestep", "steps", "overlap", "physical"} <= set(physicality)
    errors = pd.read_csv(run / "efs.csv")
    assert set(map(tuple, errors[["seed", "arm", "split"]].to_numpy())) == {
        (s, a, p) for s in (0, 1) for a in ARMS for p in ("train", "val", "test")
    }
    assert errors["forces_mae"].notna().all()
    curves = pd.read_csv(run / "diatomics.csv")
    assert set(curves["pair"]) == {"O-O", "O-Mg", "Mg-Mg"}
    last = curves.sort_values("r").groupby(["arm", "seed", "pair"]).last()
    assert (last["energy"] == 0).all()


def test_other_probes_have_a_row_for_every_seed_and_arm(finished):
    _, run, _ = finished
    everyone = {(s, a) for s in (0, 1) for a in ARMS}
    for name, size in (("diatomic_flags", 3), ("compression_flags", 1), ("nve", 1)):
        table = pd.read_csv(run / f"{name}.csv")
        assert table.groupby(["seed", "arm"]).size().to_dict() == dict.fromkeys(everyone, size), name
    curves = pd.read_csv(run / "compression.csv")
    assert curves["scale"].min() == pytest.approx(0.7)
    parts = pd.read_csv(run / "teacher" / "decomposition.csv").set_index("part")["forces_mae"]
    assert {"morse", "embedding", "full"} <= set(parts.index)


def test_rdfs_are_those_of_the_trajectories_and_measured_against_the_reference(finished):
    from ase.io import read

    from mdl_physpretrain.probes.pair_distribution import rdf

    _, run, _ = finished
    table = pd.read_csv(run / "rdf.csv")
    assert {(s, a) for s, a in table[["seed", "arm"]].itertuples(index=False)} == {
        (s, a) for s in (0, 1) for a in ARMS
    } | {(0, "reference")}
    errors = pd.read_csv(run / "rdf_errors.csv")
    simulated = set(pd.read_csv(run / "physicality.csv").query("ensemble == 'nvt'")["structure_id"])
    known = {a.info["structure_id"] for a in read(run.parent / "reference.extxyz", ":")}
    assert set(errors["structure_id"]) == simulated & known
    name = sorted(simulated & known)[0]
    frames = read(run / "seed-0" / "md" / "baseline.trajectories" / f"{name}.extxyz", ":")
    expected = rdf(frames[int(0.2 * len(frames)) :])
    own = table[(table["arm"] == "baseline") & (table["seed"] == 0) & (table["structure_id"] == name)]
    both = own.assign(r=own["r"].round(4)).merge(expected.assign(r=expected["r"].round(4)), on=["pair", "r"])
    assert len(both) == len(own) == len(expected)
    assert both["g_x"].to_numpy() == pytest.approx(both["g_y"].to_numpy(), abs=1e-4)


def test_labels_provenance_and_metadata_are_kept(finished):
    _, run, _ = finished
    labelled = read_structures(run / "augment" / "labelled.extxyz")
    facts = json.loads((run / "augment" / "filter.json").read_text())
    assert len(labelled) == facts["n_kept"] == facts["n_before"] - facts["n_removed"]
    assert all(a.info["label_source"] == "eam-anchored" and "parent_id" in a.info for a in labelled)
    assert all(get_labels(a).stress is not None for a in labelled)
    model = load_model(run / "seed-0" / "pretrained" / "best.pt")
    assert model.metadata["elements"] == ["Mg", "O"]
    summary = json.loads((run / "data" / "summary.json").read_text())
    assert (summary["n_train"], summary["n_val"], summary["n_test"]) == (4, 2, 2)
    assert summary["trivial"]["forces_mae"] > 0


def test_a_hybrid_is_compared_with_its_own_eam_and_the_others_with_the_teacher(finished):
    _, run, _ = finished
    angles = pd.read_csv(run / "alignment.csv")
    assert set(map(tuple, angles[["seed", "arm", "against"]].to_numpy())) == {
        (s, a, "own EAM" if a == "hybrid" else "teacher") for s in (0, 1) for a in ARMS
    }
    assert set(angles.groupby(["seed", "arm"]).size()) == {2 * 8}
    page = (run / "report" / "index.html").read_text()
    assert "random directions" in page
    hybrid = load_model(run / "seed-0" / "hybrid" / "best.pt")
    teacher = load_model(run / "teacher" / "teacher.pt").state_dict()
    assert any((value != teacher[name]).any() for name, value in hybrid.parts[1].state_dict().items())


def test_angles_of_arms_that_are_gone_go_too(finished, tmp_path):
    import shutil

    config, run, _ = finished
    shutil.copytree(run, tmp_path / "run")
    result = _call("run", config, "-o", tmp_path / "run", "--jobs", "1", "arms={baseline: {pretrain: false}}")
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "run" / "alignment.csv").exists()
    assert "random directions" not in (tmp_path / "run" / "report" / "index.html").read_text()


def test_arms_of_a_seed_are_paired(finished):
    """Same structures and starting velocities in all arms of a seed, others in another seed."""
    from mdl_physpretrain.dynamics import Runs

    _, run, _ = finished
    first = {
        (s, a): [float(r.trace_temperature[0]) for r in Runs.load(run / f"seed-{s}/md/{a}.runs.npz")]
        for s in (0, 1)
        for a in ARMS
    }
    assert first[0, "baseline"] == first[0, "pretrained"] == first[0, "hybrid"]
    assert first[0, "baseline"] != first[1, "baseline"]


def test_resolved_configuration_describes_the_same_run(finished):
    _, run, _ = finished
    shown = yaml.safe_load((run / "config.yaml").read_text())
    assert shown["md"]["steps"] == 20
    assert shown["finetune"]["learning_rate"] == 1e-3
    result = _call("run", run / "config.yaml", "-o", run, "--jobs", "1")
    assert result.exit_code == 0, result.output
    assert set(_statuses(run).values()) == {"skipped"}


def test_second_call_skips_everything_and_md_changes_redo_only_md(finished):
    config, run, _ = finished
    result = _call("run", config, "-o", run, "--jobs", "1")
    assert result.exit_code == 0, result.output
    assert set(_statuses(run).values()) == {"skipped"}
    result = _call("run", config, "-o", run, "--jobs", "1", "md.steps=10")
    assert result.exit_code == 0, result.output
    redone = {stage for stage, status in _statuses(run).items() if status == "done"}
    assert {stage.split()[0] for stage in redone} == {"md", "report"}
    assert set(pd.read_csv(run / "physicality.csv").query("ensemble == 'nvt'")["steps"]) == {10}


def test_what_is_left_of_the_present_configuration_is_noted(finished, tmp_path, monkeypatch):
    """Interrupted with other options: the network is that of no table."""
    import shutil

    config, finished_run, _ = finished
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    assert "Use it" in _call("run", config, "-o", run, "--jobs", "1").output
    assert json.loads((run / LEFT).read_text()) == []
    assert yaml.safe_load((run / "config.yaml").read_text())["output"] == str(run)
    assert _call("run", config, "-o", run, "--jobs", "1", "--plan", "md.steps=9").exit_code == 0
    assert {name.split()[0] for name in json.loads((run / LEFT).read_text())} == {"md", "report"}

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mdl_physpretrain.workflow.stages.finetune.train_in_folder", interrupted)
        _call("run", config, "-o", run, "--jobs", "1", "finetune.learning_rate=2e-3")
    left = json.loads((run / LEFT).read_text())
    assert left[0] == "finetune seed 0 baseline"
    assert {"evaluate", "md", "md seed 1 pretrained"} < set(left)
    told = _call("run", config, "-o", run, "--only", "report", "--jobs", "1", "finetune.learning_rate=2e-3").output
    assert "not as this configuration and this version do it: finetune seed 0 baseline" in told
    assert "Use it" not in told
    assert _call("run", config, "-o", run, "--jobs", "1").exit_code == 0
    assert json.loads((run / LEFT).read_text()) == []
    assert _call("run", config, "-o", run, "--jobs", "1", "--only", "prepare", "--force").exit_code == 0
    assert json.loads((run / LEFT).read_text()) == [], "the data came out as they were"
    later = _call("run", config, "-o", run, "--jobs", "1", "--from", "md", "pretrain.epochs=3").output
    assert "pretrain seed 0" in json.loads((run / LEFT).read_text())
    assert "md seed 0 pretrained" in json.loads((run / LEFT).read_text()), "it hangs on the pretraining"
    assert "not as this configuration and this version do it: pretrain seed 0" in later


def test_only_and_unknown_stage(finished):
    config, run, _ = finished
    result = _call("run", config, "-o", run, "--only", "evaluate", "--force", "--jobs", "1", "md.steps=10")
    assert result.exit_code == 0, result.output
    statuses = _statuses(run)
    assert statuses["evaluate seed 0 baseline"] == "done"
    assert statuses["prepare"] == "not selected"
    result = _call("run", config, "-o", run, "--only", "nonsense")
    assert result.exit_code == 2
    assert all(stage in result.output for stage in STAGES)


def test_any_ase_calculator_can_teach(tmp_path):
    """Labels come from it, on its own energy scale, and no EAM is fitted."""
    import numpy as np
    from ase.build import bulk
    from ase.calculators.emt import EMT

    structures = []
    for k in range(6):
        atoms = bulk("Cu", "fcc", a=3.6, cubic=True)
        atoms.rattle(0.05, seed=k)
        atoms.info["structure_id"] = f"cu-{k}"
        atoms.calc = EMT()
        energy, forces = atoms.get_potential_energy() - 100.0, atoms.get_forces()
        from mdl_physpretrain.structures import set_labels
        from mdl_physpretrain.structures.labels import Labels

        structures.append(set_labels(atoms, Labels(energy, forces, None)))
    write_structures(tmp_path / "cu.extxyz", structures)
    (tmp_path / "c.yaml").write_text(
        "preset: algorithm1\ndata: {source: cu.extxyz, fractions: [0.6, 0.2, 0.2]}\nseeds: [0]\n"
        "teacher: {calculator: 'ase.calculators.emt:EMT'}\naugment: {n_aug: 2, pull: 0.2, perturb: 0.2}\n"
        "backbone: {name: cgcnn, args: {dim1: 8, dim2: 8, gc_count: 1, cutoff: 4.0}}\n"
        "pretrain: {epochs: 1}\nfinetune: {epochs: 1}\narms: {pretrained: {}}\nmd: {steps: 3}\n"
    )
    result = _call("run", tmp_path / "c.yaml", "-o", tmp_path / "run", "-j", "1")
    assert result.exit_code == 0, result.output
    assert [file.name for file in (tmp_path / "run" / "teacher").iterdir()] == ["examination.json"]
    labelled = read_structures(tmp_path / "run" / "augment" / "labelled.extxyz")
    assert {a.info["label_source"] for a in labelled} == {"emt-anchored"}
    # the two energy scales are 100 eV per cell apart: the network follows both
    histories = [pd.read_csv(tmp_path / "run" / "seed-0" / name / "history.csv") for name in ("pretrain", "pretrained")]
    assert all(np.isfinite(h["val_energy_mae"]).all() and h["val_energy_mae"].iloc[-1] < 5 for h in histories)
