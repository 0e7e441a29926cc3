"""Labels of a committee: whose they are, what they may be wrong by, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.build import bulk
from pydantic import ValidationError
from typer.testing import CliRunner

import mdl_physpretrain as pp
from mdl_physpretrain.cli import app
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.graphs.batch import build_batch
from mdl_physpretrain.potentials import EAM, predict
from mdl_physpretrain.structures import read_structures, write_structures
from mdl_physpretrain.structures.labels import Labels, get_labels, set_labels
from mdl_physpretrain.teacher.committee import committee_labels
from mdl_physpretrain.workflow.config import RunConfig
from mdl_physpretrain.workflow.plan import plan


def potential(depth: float) -> EAM:
    """Copper, with forces in proportion to the depth of its well."""
    model = EAM(["Cu"], cutoff=4.5, n_basis=1).double()
    with torch.no_grad():
        model.D.fill_(depth)
        model.alpha.fill_(1.5)
        model.rm.fill_(2.6)
        model.A.fill_(0.0)
    return model


def labelled(model: EAM, count: int, amplitude: float, seed: int) -> list[Atoms]:
    rng = np.random.default_rng(seed)
    cells = []
    for k in range(count):
        atoms = bulk("Cu", cubic=True)
        atoms.positions += rng.normal(scale=amplitude, size=(4, 3))
        out = predict(model, build_batch(atoms, model.cutoff, model.dtype))
        stress = out.stress[0].detach().numpy()
        set_labels(atoms, Labels(float(out.energy[0]), out.forces.detach().numpy(), stress))
        atoms.info["structure_id"] = f"cell-{k}"
        cells.append(atoms)
    return cells


def expecting(cells: list[Atoms], forces: float, stress: float = 0.0) -> list[Atoms]:
    for atoms in cells:
        atoms.arrays["forces_tolerance"] = np.full(len(atoms), forces)
        atoms.info["stress_tolerance"] = stress
    return cells


WIDE = labelled(potential(2.0), 3, 0.3, 5)  # data with forces larger than any label's


def test_the_smaller_expected_error_decides() -> None:
    truth, teacher = potential(0.5), potential(0.6)
    members = [potential(0.49), potential(0.51)]  # their mean is the truth
    val = labelled(truth, 4, 0.05, 0)
    cells = expecting(labelled(teacher, 3, 0.1, 1), 10.0, 10.0)
    mixed, agreement = committee_labels(cells, members, WIDE, val)
    assert (agreement.atoms, agreement.stresses) == (1.0, 1.0)
    assert agreement.forces_error < 1e-6
    assert (agreement.forces_factor, agreement.stress_factor) == (1.0, 1.0)
    low, high = (get_labels(labelled(member, 1, 0.1, 1)[0]).forces for member in members)
    spread = np.sqrt(((low - high) ** 2 / 4).mean(axis=1))
    np.testing.assert_allclose(mixed[0].arrays["forces_tolerance"], spread, rtol=1e-4, atol=1e-8)
    for atoms, own, right in zip(mixed, cells, labelled(truth, 3, 0.1, 1), strict=True):
        label = get_labels(atoms)
        np.testing.assert_allclose(label.forces, get_labels(right).forces, atol=1e-6)
        np.testing.assert_allclose(label.stress, get_labels(right).stress, atol=1e-6)
        assert label.energy == get_labels(own).energy, "the teacher's"
        assert own.arrays["forces_tolerance"].tolist() == [10.0] * 4, "copies"
    kept, agreement = committee_labels(expecting(cells, 1e-9), members, WIDE, val)
    assert (agreement.atoms, agreement.stresses) == (0.0, 0.0)
    for atoms, own in zip(kept, cells, strict=True):
        np.testing.assert_array_equal(get_labels(atoms).forces, get_labels(own).forces)
        assert atoms.arrays["forces_tolerance"].tolist() == [1e-9] * 4


def test_atoms_decide_one_by_one() -> None:
    cells = labelled(potential(0.6), 1, 0.1, 1)
    cells[0].arrays["forces_tolerance"] = np.array([10.0, 0.0, 10.0, 0.0])
    mixed, agreement = committee_labels(
        cells, [potential(0.4), potential(0.5)], WIDE, labelled(potential(0.5), 3, 0.05, 0)
    )
    same = (get_labels(mixed[0]).forces == get_labels(cells[0]).forces).all(axis=1)
    assert same.tolist() == [False, True, False, True]
    assert agreement.atoms == 0.5
    assert "stress_tolerance" not in mixed[0].info
    np.testing.assert_array_equal(get_labels(mixed[0]).stress, get_labels(cells[0]).stress)


def test_a_committee_that_agrees_and_is_wrong_is_not_believed() -> None:
    members = [potential(0.99), potential(1.01)]
    val = labelled(potential(0.5), 4, 0.05, 0)
    _, agreement = committee_labels(expecting(labelled(potential(0.6), 2, 0.1, 1), 0.001), members, WIDE, val)
    assert agreement.forces_factor == pytest.approx(50, rel=0.5)
    assert agreement.atoms == 0.0


def test_beyond_the_forces_of_the_data_the_teacher_is_believed() -> None:
    members = [potential(0.49), potential(0.51)]
    cells = expecting(labelled(potential(0.6), 6, 0.1, 1), 10.0, 10.0)
    data = labelled(potential(0.5), 20, 0.08, 3)
    mixed, agreement = committee_labels(cells, members, data, labelled(potential(0.5), 4, 0.05, 0))
    sizes = np.concatenate([np.linalg.norm(get_labels(a).forces, axis=1) for a in data])
    assert agreement.largest_force == pytest.approx(np.quantile(sizes, 0.99))
    own = np.concatenate([np.linalg.norm(get_labels(a).forces, axis=1) for a in cells]) <= agreement.largest_force
    taken = [(get_labels(a).forces != get_labels(b).forces).any(axis=1) for a, b in zip(mixed, cells, strict=True)]
    assert np.concatenate(taken).tolist() == own.tolist()
    assert 0 < own.sum() < len(own)
    for atoms, cell, mask in zip(mixed, cells, np.split(own, 6), strict=True):
        same = np.array_equal(get_labels(atoms).stress, get_labels(cell).stress)
        assert same == (not mask.all()), "one large force, and the stress is the teacher's"
    with pytest.raises(StructureError, match="where the data know forces: there are none"):
        committee_labels(cells, members, [bulk("Cu")], labelled(potential(0.5), 4, 0.05, 0))


def test_a_network_that_fails_leaves_the_label_to_the_teacher() -> None:
    members = [potential(0.49), potential(0.51)]
    cells = expecting(labelled(potential(0.6), 1, 0.1, 1), 10.0, 10.0)
    strange = Atoms("CuNi", [[0, 0, 0], [0, 0, 2.4]])
    set_labels(strange, Labels(1.0, np.ones((2, 3)), None))
    mixed, agreement = committee_labels(
        [*cells, *expecting([strange], 10.0)], members, WIDE, labelled(potential(0.5), 3, 0.05, 0)
    )
    assert get_labels(mixed[1]).forces.tolist() == np.ones((2, 3)).tolist()
    assert agreement.atoms == pytest.approx(4 / 6)


def test_what_can_be_no_committee_is_refused() -> None:
    cells, val = expecting(labelled(potential(0.6), 1, 0.1, 1), 0.1), labelled(potential(0.5), 2, 0.05, 0)
    one, other = potential(0.4), potential(0.5)
    with pytest.raises(ConfigError, match="two networks or more"):
        committee_labels(cells, [one], WIDE, val)
    with pytest.raises(ConfigError, match="are the same"):
        committee_labels(cells, [one, one], WIDE, val)
    with pytest.raises(StructureError, match="validation structures with forces: there are none"):
        committee_labels(cells, [one, other], WIDE, [])
    with pytest.raises(StructureError, match="no label has an expected error"):
        committee_labels(labelled(one, 1, 0.1, 1), [one, other], WIDE, val)
    strange = Atoms("CuNi", [[0, 0, 0], [0, 0, 2.4]], info={"structure_id": "odd"})
    set_labels(strange, Labels(1.0, np.ones((2, 3)), None))
    with pytest.raises(StructureError, match=r"odd.*a network of the committee fails"):
        committee_labels(cells, [one, other], WIDE, [*val, strange])


ARMS = {"plain": {"pretrain": False}, "finetuned": {"replay": 0.0}, "pretrained": {"replay": 0.3}}


@pytest.mark.parametrize(
    ("members", "words"),
    [
        (["plain", "strange"], "'strange' is no other arm (plain, finetuned)"),
        (["plain", "pretrained"], "'pretrained' is no other arm"),
        (["plain", "plain"], "names an arm twice"),
        (["plain"], "at least 2"),
    ],
)
def test_members_are_other_arms(members: list[str], words: str) -> None:
    arms = ARMS | {"pretrained": {"replay": 0.3, "committee": members}}
    with pytest.raises(ValidationError) as caught:
        RunConfig(data={"source": "demo"}, arms=arms)
    assert words in str(caught.value)


def test_a_committee_needs_replay_and_expected_errors() -> None:
    members = ["plain", "finetuned"]
    arms = ARMS | {"pretrained": {"replay": 0.0, "committee": members}}
    with pytest.raises(ValidationError, match="this arm has none"):
        RunConfig(data={"source": "demo"}, arms=arms)
    arms = ARMS | {"pretrained": {"replay": 0.3, "committee": members}}
    with pytest.raises(ValidationError, match=r"augment\.change_error"):
        RunConfig(data={"source": "demo"}, arms=arms, augment={"change_error": None})
    arms |= {"another": {"replay": 0.3, "committee": ["plain", "pretrained"]}}
    with pytest.raises(ValidationError, match="'pretrained' has a committee itself"):
        RunConfig(data={"source": "demo"}, arms=arms, augment={"change_error": "auto"})


def test_an_arm_with_a_committee_comes_after_its_members() -> None:
    arms = {"pretrained": {"replay": 0.3, "committee": ["plain", "finetuned"], "loop": 1}} | ARMS
    arms["pretrained"] = {"replay": 0.3, "committee": ["plain", "finetuned"], "loop": 1}
    tasks = plan(RunConfig(data={"source": "demo"}, arms=arms, seeds=[0], augment={"change_error": "auto"}))
    names = [task.name for task in tasks]
    task = tasks[names.index("finetune seed 0 pretrained")]
    for member in ("plain", "finetuned"):
        assert f"finetune seed 0 {member}" in task.needs
        assert f"seed-0/{member}/best.pt" in task.inputs
        assert names.index(f"finetune seed 0 {member}") < names.index(task.name)
    alone = plan(RunConfig(data={"source": "demo"}, arms=ARMS, seeds=[0], augment={"change_error": "auto"}))
    without = next(t for t in alone if t.name == "finetune seed 0 pretrained")
    assert task.section != without.section
    round_of_loop = tasks[names.index("loop seed 0 pretrained 1")]
    assert "seed-0/pretrained/replay.extxyz" in round_of_loop.inputs
    assert "augment/labelled.extxyz" not in round_of_loop.inputs


def test_a_run_and_the_single_steps_give_the_same_labels(tmp_path: Path) -> None:
    train, val = labelled(potential(0.5), 10, 0.1, 0), labelled(potential(0.5), 3, 0.1, 7)
    for part, cells in (("train", train), ("val", val)):
        for k, atoms in enumerate(cells):
            atoms.info["structure_id"] = f"{part}-{k}"
        write_structures(tmp_path / f"{part}.extxyz", cells)
    config = {
        "data": {"train": "train.extxyz", "val": "val.extxyz", "test": "val.extxyz"},
        "seeds": [0],
        "teacher": {"kind": "eam", "epochs": 2, "n_basis": 2, "cutoff": 4.5},
        "augment": {"n_aug": 2, "coverage": None, "thermal": None},
        "backbone": {
            "name": "cgcnn",
            "args": {
                "cutoff": 4.0,
                "dim1": 8,
                "dim2": 8,
                "gc_count": 1,
                "edge_dim": 8,
                "pre_fc_count": 1,
                "post_fc_count": 1,
            },
        },
        "pretrain": {"epochs": 1},
        "finetune": {"epochs": 2},
        "arms": ARMS | {"pretrained": {"replay": 0.3, "committee": ["plain", "finetuned"]}},
        "md": {"steps": 5, "n_structures": 1},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    runner = CliRunner()
    out = tmp_path / "out"
    for stage in ("prepare", "teacher", "augment", "pretrain", "finetune"):
        result = runner.invoke(app, ["run", str(tmp_path / "run.yaml"), "-o", str(out), "--only", stage])
        assert result.exit_code == 0, result.output
    known = json.loads((out / "seed-0/pretrained/committee.json").read_text())
    assert 0 <= known["atoms"] <= 1
    assert "committee: plain, finetuned" in (out / "README.md").read_text()
    networks = [str(out / f"seed-0/{name}/best.pt") for name in ("plain", "finetuned")]
    single = tmp_path / "replay.extxyz"
    step = ["committee", str(out / "augment/labelled.extxyz"), "-n", networks[0], "-n", networks[1]]
    result = runner.invoke(
        app, [*step, "--data", str(tmp_path / "train.extxyz"), "--val", str(tmp_path / "val.extxyz"), "-o", str(single)]
    )
    assert result.exit_code == 0, result.output
    assert f"{100 * known['atoms']:.0f} % of the forces" in result.output
    structures, agreement = committee_labels(read_structures(out / "augment/labelled.extxyz"), networks, train, val)
    assert agreement.to_dict() == pytest.approx(known)
    for atoms, written in zip(structures, read_structures(single), strict=True):
        np.testing.assert_allclose(get_labels(atoms).forces, get_labels(written).forces, atol=1e-6)
        np.testing.assert_allclose(atoms.arrays["forces_tolerance"], written.arrays["forces_tolerance"], atol=1e-6)
    result = runner.invoke(
        app, [*step, "--data", str(tmp_path / "train.extxyz"), "--val", str(tmp_path / "val.extxyz"), "-o", networks[0]]
    )
    assert result.exit_code != 0
    assert pp.load_model(networks[0]) is not None, "not overwritten"
