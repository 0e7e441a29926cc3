"""MatterTune, unmodified, with the plugin's data: labels, cache, teachers, epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.io import write
from mattertune_jobs import MODELS, folder_fixture, labels, lmo_fixture, plugin_fixture, student  # noqa: F401 - pytest finds them by name

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.graphs.batch import build_batch
from mdl_physpretrain.potentials import load_model
from mdl_physpretrain.recipe import Recipe
from mdl_physpretrain.structures import get_labels

pytestmark = [pytest.mark.hosts, pytest.mark.usefixtures("plugin")]


def test_labels_are_cached_clean_and_split_by_parent(lmo: list[Atoms], monkeypatch) -> None:
    from mattertune.registry import data_registry

    moving = [a.copy() for a in lmo]
    for copy, original in zip(moving, lmo, strict=True):
        copy.calc = original.calc
        copy.set_velocities(np.ones((len(copy), 3)))
        copy.set_constraint(FixAtoms([0]))
    inner = {"type": "atoms_list", "atoms_list": moving}
    whole = data_registry.construct(labels(dataset=inner, include_dataset=True)).create_dataset()
    assert all(not a.constraints and not a.has("momenta") for a in whole)
    mine = {a.info["structure_id"]: a for a in whole}
    for atoms in lmo:
        found = get_labels(mine[atoms.info["structure_id"]])
        np.testing.assert_allclose(found.forces, get_labels(atoms).forces, atol=1e-8)
        assert mine[atoms.info["structure_id"]].get_total_energy() == pytest.approx(get_labels(atoms).energy)

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("labelled again")

    monkeypatch.setattr("mdl_physpretrain.hosts.mattertune.labelling.augmented_labels", never)
    parts = {}
    for part in ("train", "validation", "all"):
        config = data_registry.construct(labels(part=part, validation_share=0.3))
        config.prepare_data()
        parts[part] = [a.info["structure_id"] for a in config.create_dataset().structures]
        assert parts[part] == [a.info["structure_id"] for a in config.create_dataset().structures]
    assert sorted(parts["train"] + parts["validation"]) == sorted(parts["all"])
    assert parts["validation"]
    assert not {_parent(whole, i) for i in parts["train"]} & {_parent(whole, i) for i in parts["validation"]}
    assert parts["all"] != sorted(parts["all"])  # shuffled
    other = data_registry.construct(labels(part="all", seed=1)).create_dataset()
    assert [a.info["structure_id"] for a in other.structures] != parts["all"]
    with pytest.raises(AssertionError, match="labelled again"):
        data_registry.construct(labels(augment={"n_aug": 3})).create_dataset()


def test_defaults_are_those_of_the_recipe(plugin) -> None:
    whole = Recipe()
    data = plugin.EAMLabelledDatasetConfig.model_fields
    assert data["teacher"].default == whole.teacher
    assert data["augment"].default == whole.augment
    assert data["validation_share"].default == whole.pretrain.val_fraction
    assert plugin.ReplayRecipeConfig.model_fields["fraction"].default == whole.finetune.replay_fraction
    assert plugin.PhysicsPretrainRecipeConfig().shift_energies == whole.finetune.shift_energies
    assert plugin.SAMRecipeConfig().rho == whole.finetune.rho


def _parent(dataset: Any, identifier: str) -> str:
    return next(str(a.info["parent_id"]) for a in dataset.structures if a.info["structure_id"] == identifier)


def test_other_teachers_and_missing_stress(folder: Path, lmo: list[Atoms]) -> None:
    from ase.build import bulk
    from mattertune.registry import data_registry

    copper = []
    rng = np.random.default_rng(0)
    for k in range(4):
        atoms = bulk("Cu", cubic=True)
        atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
        atoms.info["structure_id"] = f"cu-{k}"
        atoms.calc = EMT()
        found = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        found |= {"stress": atoms.get_stress()} if k else {}
        atoms.calc = SinglePointCalculator(atoms, **found)
        copper.append(atoms)
    write(folder / "small.extxyz", copper)
    emt = {"calculator": "ase.calculators.emt:EMT"}
    options = labels(teacher=emt, augment={"n_aug": 2, "pull": 0.3, "perturb": 0.2, "anchor": False})
    dataset = data_registry.construct(options).create_dataset()
    assert len(dataset) == 8
    for atoms in dataset.structures[:2]:
        bare = atoms.copy()
        bare.calc = EMT()
        np.testing.assert_allclose(bare.get_forces(), get_labels(atoms).forces, atol=1e-8)
        np.testing.assert_allclose(bare.get_stress(), atoms.get_stress(), atol=1e-8)
    anchored = labels(teacher=emt, augment={"n_aug": 2, "pull": 0.3, "perturb": 0.2})
    with pytest.raises(StructureError, match="missing_stress"):
        data_registry.construct(anchored).create_dataset()
    kept = data_registry.construct(anchored | {"missing_stress": "drop"}).create_dataset()
    assert {a.info["parent_id"] for a in kept.structures} == {"cu-1", "cu-2", "cu-3"}
    assert len(data_registry.construct(anchored | {"missing_stress": "allow"}).create_dataset()) == 8
    # a network of ours teaches as well as any calculator
    student("cgcnn", copper[1:]).save(folder / "net.pt")
    taught = labels(teacher={"checkpoint": "net.pt"}, augment={"n_aug": 1, "anchor": False, "max_force": None})
    first = data_registry.construct(taught).create_dataset().structures[0]
    with torch.no_grad():
        expected = load_model(folder / "net.pt")(build_batch(first, MODELS["cgcnn"]["cutoff"])).item()
    assert get_labels(first).energy == pytest.approx(expected, rel=1e-6)
    with pytest.raises(ConfigError, match=r"teacher\.checkpoint"):
        data_registry.construct(labels(teacher={"checkpoint": "no.pt"}, augment={"anchor": False})).create_dataset()


def test_epochs_hold_all_of_one_and_a_share_of_the_other() -> None:
    from mdl_physpretrain.hosts.mattertune.recipe_order import EpochDataset

    base, extra = [f"a{k}" for k in range(12)], [f"b{k}" for k in range(40)]
    data: Any = EpochDataset(base, extra, fraction=0.25, seed=2)
    orders = []
    for epoch in (0, 1, 0):
        data.set_epoch(epoch)
        orders.append([data[k] for k in range(len(data))])
        assert sorted(x for x in orders[-1] if x[0] == "a") == sorted(base)
        assert len({x for x in orders[-1] if x[0] == "b"}) == 4
    assert orders[0] == orders[2] != orders[1]
    assert {x for x in orders[0] if x[0] == "b"} != {x for x in orders[1] if x[0] == "b"}
