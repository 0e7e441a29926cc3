"""Replay of all labels, or of those beyond the data, whichever the network needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms

import mdl_physpretrain as pp
from mdl_physpretrain.augmentation.thermal import disorder
from mdl_physpretrain.errors import CheckpointError, ConfigError, StructureError
from mdl_physpretrain.graphs.batch import build_batch, collate
from mdl_physpretrain.loop import rounds
from mdl_physpretrain.potentials import Prediction
from mdl_physpretrain.structures import get_labels
from mdl_physpretrain.structures.labels import Labels, set_labels
from mdl_physpretrain.training import EFSLoss, pretrain_finetune, replay_scope
from mdl_physpretrain.training.replay_scope import beyond_data, chosen_scope, comparable_frames, noted_error

SMALL: dict[str, Any] = {"epochs": 2, "batch_size": 4, "seed": 3}


@pytest.fixture
def frames(rocksalt: list[Atoms]) -> list[Atoms]:
    """Frames of the same atoms, labelled by one potential."""
    true = pp.ZBL(inner=0.6, outer=1.3).double()
    frames = disorder(list(pp.label(rocksalt, true)), n_aug=2, amplitude=0.05, compression=0.0, shear=0.0)
    frames = list(pp.label(frames, true))
    for k, atoms in enumerate(frames):
        atoms.info["structure_id"] = f"frame-{k}"
    return frames


@pytest.fixture
def replay(frames: list[Atoms]) -> list[Atoms]:
    """Labels of another potential near and far from the frames."""
    teacher = pp.ZBL(inner=0.5, outer=1.2).double()
    children = disorder(frames, n_aug=1, amplitude=0.02, compression=0.0, shear=0.0)
    children += disorder(frames[:8], n_aug=2, amplitude=0.35, seed=1)
    for k, atoms in enumerate(children):
        atoms.info["structure_id"] = f"child-{k}"
    return list(pp.label(children, teacher, anchor=True, parents=frames, change_error=0.3))


def test_labels_say_how_wrong_changes_are(replay: list[Atoms], tmp_path: Path) -> None:
    assert noted_error(replay) == 0.3
    pp.write_structures(tmp_path / "a.extxyz", replay)
    assert noted_error(pp.read_structures(tmp_path / "a.extxyz")) == 0.3
    again = pp.label(replay, pp.ZBL(inner=0.5, outer=1.2).double())
    assert noted_error(again) is None


def test_beyond_the_data_is_above_nearly_all_of_its_forces(frames: list[Atoms], replay: list[Atoms]) -> None:
    sizes = np.concatenate([np.linalg.norm(get_labels(a).forces, axis=1) for a in frames])
    limit = np.percentile(sizes, 99)
    largest = np.percentile([np.abs(get_labels(a).stress).max() for a in frames], 99)
    kept = beyond_data(replay, frames)
    assert 0 < len(kept) < len(replay)
    originals = {atoms.info["structure_id"]: atoms for atoms in replay}
    for atoms in kept:
        labels, before = get_labels(atoms), get_labels(originals[atoms.info["structure_id"]])
        np.testing.assert_array_equal(atoms.arrays["forces_counted"], np.linalg.norm(before.forces, axis=1) > limit)
        np.testing.assert_array_equal(labels.forces, before.forces)
        assert labels.energy == before.energy
        assert (labels.stress is not None) == bool(np.abs(before.stress).max() > largest)
        assert atoms.arrays["forces_counted"].any() or labels.stress is not None
    gone = [a for a in replay if a.info["structure_id"] not in {k.info["structure_id"] for k in kept}]
    assert max(np.linalg.norm(get_labels(a).forces, axis=1).max() for a in gone) <= limit
    assert all("forces_counted" not in atoms.arrays for atoms in replay)  # copies
    assert [len(k) for k in beyond_data(kept, frames)] == [len(k) for k in kept]


def test_data_without_forces_have_nothing_beyond(frames: list[Atoms], replay: list[Atoms]) -> None:
    bare = [set_labels(a.copy(), Labels(energy=get_labels(a).energy)) for a in frames]
    assert beyond_data(replay, bare) == []
    assert comparable_frames(bare, None) == []


def test_forces_that_do_not_count_are_no_error(frames: list[Atoms]) -> None:
    atoms = frames[0].copy()
    atoms = set_labels(atoms, get_labels(frames[0]))
    atoms.set_array("forces_counted", np.arange(len(atoms)) < 2)
    batch = collate([build_batch(atoms, 4.0, torch.float64), build_batch(frames[1], 4.0, torch.float64)])
    wrong = batch.forces.clone()
    wrong[2 : len(atoms)] += 100.0
    loss = EFSLoss(0.0, 1.0, 0.0)
    assert float(loss(Prediction(batch.energy, wrong, batch.stress), batch)) == 0
    wrong[1] += 0.5
    expected = 0.5 / (2 + len(frames[1]))
    assert float(loss(Prediction(batch.energy, wrong, batch.stress), batch)) == pytest.approx(expected)


@pytest.mark.parametrize("value", [np.ones(8), np.ones(8, dtype=int), np.ones((8, 3), dtype=bool), np.array(["y"] * 8)])
def test_odd_masks_are_refused(frames: list[Atoms], tmp_path: Path, value: np.ndarray) -> None:
    atoms = set_labels(frames[0].copy(), get_labels(frames[0]))
    atoms.arrays["forces_counted"] = value
    words = "frame-0, field forces_counted: must be true or false"
    with pytest.raises(StructureError, match=words):
        build_batch(atoms, 4.0)
    with pytest.raises(StructureError, match=words):
        beyond_data([atoms], frames[1:] + [set_labels(a.copy(), Labels(forces=np.zeros((8, 3)))) for a in frames] * 99)
    with pytest.raises(StructureError, match=words):
        pp.train("cgcnn", [atoms, *frames[1:]], directory=tmp_path / "a", epochs=1)
    (again,) = pp.label([atoms], pp.ZBL(inner=0.5, outer=1.2).double())
    assert "forces_counted" not in again.arrays


def test_another_mask_is_another_training(frames: list[Atoms], tmp_path: Path) -> None:
    masked = [set_labels(a.copy(), get_labels(a)) for a in frames]
    for shift in (0, 1):
        for atoms in masked:
            atoms.set_array("forces_counted", np.arange(len(atoms)) % 2 == shift)
        words = {"model_args": {"cutoff": 4.0, "dim1": 8, "dim2": 8, "gc_count": 1}, "epochs": 1}
        if not shift:
            pp.train("cgcnn", masked, directory=tmp_path / "a", **words)
            continue
        with pytest.raises(CheckpointError):
            pp.train("cgcnn", masked, directory=tmp_path / "a", **words)


def _network(frames: list[Atoms]) -> pp.EnergyModel:
    return pp.train("cgcnn", frames, model_args={"cutoff": 4.0, "dim1": 8, "dim2": 8, "gc_count": 1}, epochs=1, seed=0)


def _weights(model: pp.EnergyModel) -> dict[str, torch.Tensor]:
    return {k: v for k, v in model.state_dict().items() if v.is_floating_point()}


def _noting(replay: list[Atoms], error: Any) -> list[Atoms]:
    copies = [set_labels(a.copy(), get_labels(a)) for a in replay]
    for atoms in copies:
        atoms.info["change_error"] = error
    return copies


@pytest.mark.parametrize(("error", "scope"), [(1e6, "beyond_data"), (1e-6, "all")])
def test_auto_takes_what_the_network_needs(
    frames: list[Atoms], replay: list[Atoms], tmp_path: Path, error: float, scope: str
) -> None:
    start = _network(frames)
    noted = _noting(replay, error)
    common = {"val": frames[:3], "replay": noted, **SMALL}
    chosen = pp.finetune(start, frames, replay_scope="auto", directory=tmp_path / "auto", **common)
    given = pp.finetune(start, frames, replay_scope=scope, directory=tmp_path / scope, **common)
    other = pp.finetune(start, frames, replay_scope={"beyond_data": "all", "all": "beyond_data"}[scope], **common)
    for name, value in _weights(given).items():
        torch.testing.assert_close(_weights(chosen)[name], value, rtol=0, atol=0)
    assert any(not torch.equal(v, _weights(other)[k]) for k, v in _weights(given).items())
    assert chosen.metadata["replay_scope"] == given.metadata["replay_scope"] == scope
    facts = json.loads((tmp_path / "auto" / "replay.json").read_text())
    assert (facts["scope"], facts["teacher_error"]) == (scope, error)
    assert 0 < facts["network_error"] < 10
    history = (tmp_path / "auto" / "history.csv").read_text().splitlines()
    assert len(history) == 1 + SMALL["epochs"]
    stored = pp.load_model(tmp_path / "auto" / "best.pt")
    for name, value in _weights(given).items():
        torch.testing.assert_close(_weights(stored)[name], value, rtol=0, atol=0)
    again = pp.finetune(start, frames, replay_scope="auto", directory=tmp_path / "auto", **common)  # finished
    for name, value in _weights(given).items():
        torch.testing.assert_close(_weights(again)[name], value, rtol=0, atol=0)


def test_the_network_has_to_be_clearly_better_in_training_and_in_validation(frames: list[Atoms]) -> None:
    network = _network(frames)
    both = comparable_frames(frames, frames[:3])
    assert [len(structures) for structures, _ in both] == [len(frames), 3]
    sizes = {"n_beyond": 3, "n_all": 9}
    of_training, of_validation = (chosen_scope(network, [part], 1.0, **sizes).network_error for part in both)
    assert of_training is not None
    assert of_validation is not None
    assert chosen_scope(network, both, 1.0, **sizes).network_error == max(of_training, of_validation)
    better, equal = (chosen_scope(network, both[:1], of_training / ratio, **sizes) for ratio in (0.66, 0.67))
    assert (better.scope, better.n_labels) == ("beyond_data", 3)
    assert (equal.scope, equal.n_labels) == ("all", 9)


def test_large_sets_are_compared_on_whole_groups_of_frames(
    frames: list[Atoms], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_scope, "MOST_STRUCTURES", 6)
    alone = [Atoms("H" * n, positions=np.eye(n, 3) * 9) for n in range(2, 9)]  # frames of nothing else
    alone = [set_labels(atoms, Labels(energy=0.0, forces=np.zeros((len(atoms), 3)))) for atoms in alone]
    first, second = (comparable_frames([*alone, *frames], None) for _ in range(2))
    assert [a.info["structure_id"] for a in first[0][0]] == [a.info["structure_id"] for a in second[0][0]]
    assert len(first[0][0]) == 6
    assert all("structure_id" in atoms.info for atoms in first[0][0])


def test_without_frames_or_noted_errors_all_labels_are_replayed(
    rocksalt: list[Atoms], frames: list[Atoms], replay: list[Atoms]
) -> None:
    parents = list(pp.label(rocksalt, pp.ZBL(inner=0.6, outer=1.3).double()))
    single = [atoms for k, atoms in enumerate(parents) if k == 0]
    assert comparable_frames(single, None) == []
    start = _network(frames)
    assert pp.finetune(start, single, replay=_noting(replay, 1e6), **SMALL).metadata["replay_scope"] == "all"
    bare = [set_labels(a.copy(), get_labels(a)) for a in replay]
    for atoms in bare:
        del atoms.info["change_error"]
    assert pp.finetune(start, frames, replay=bare, **SMALL).metadata["replay_scope"] == "all"
    assert "replay_scope" not in pp.finetune(start, frames, **SMALL).metadata


def test_what_is_wrong_with_the_data_is_said_before_any_training(frames: list[Atoms], replay: list[Atoms]) -> None:
    start = _network(frames)
    forces = get_labels(frames[1]).forces.copy()
    forces[0, 0] = np.nan
    broken = [frames[0], set_labels(frames[1].copy(), Labels(energy=0.0, forces=forces))]
    for scope in ("auto", "beyond_data", "all"):
        with pytest.raises(StructureError, match="frame-1"):
            pp.finetune(start, broken, replay=replay, replay_scope=scope, **SMALL)
    weights = {"replay": replay, "replay_weights": [1.0] * len(replay), **SMALL}
    with pytest.raises(ConfigError, match="replay_weights"):
        pp.finetune(start, frames, replay_scope="beyond_data", **weights)
    assert pp.finetune(start, frames, **weights).metadata["replay_scope"] == "all"
    for value in ("bad", 0.0, float("nan"), True, [1.0]):
        odd = _noting(replay, value)
        with pytest.raises(StructureError, match="field change_error: must be a positive number"):
            pp.finetune(start, frames, replay=odd, **SMALL)
    with pytest.raises(ConfigError, match="replay_scope"):
        pp.finetune(start, frames, replay=replay, replay_scope="some", **SMALL)


def test_a_loop_replays_what_its_finetuning_did(
    frames: list[Atoms], replay: list[Atoms], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def stop(potential: Any, structures: Any, **options: Any) -> Any:
        seen.update(options)
        raise KeyboardInterrupt

    monkeypatch.setattr(rounds, "finetune", stop)
    core = beyond_data(replay, frames)
    options = pp.recipe.Finetune(replay_scope="auto", replay_fraction=0.3)
    loop = pp.recipe.Loop(rounds=1)
    data = rounds.LoopData(frames, None, core, None, loop, pp.recipe.Augment(), options, pp.recipe.MD)
    with pytest.raises(KeyboardInterrupt):
        rounds._trained(data, _network(frames), replay[-1:], 1, Path("unused"), False)
    assert seen["replay_scope"] == "all"
    assert seen["replay"] == [*core, *replay[-1:]]


def test_an_accepted_round_of_a_loop_keeps_the_scope(frames: list[Atoms], replay: list[Atoms], tmp_path: Path) -> None:
    start = _network(frames)
    start.metadata["replay_scope"] = "beyond_data"
    options = pp.recipe.Finetune(replay_fraction=0.3, batch_size=4)
    loop = pp.recipe.Loop(rounds=1, epochs=1)
    labels = beyond_data(replay, frames)
    data = rounds.LoopData(frames, None, labels, None, loop, pp.recipe.Augment(), options, pp.recipe.MD)
    trained = rounds._trained(data, start, replay[-1:], 1, tmp_path, False)
    assert trained.metadata["replay_scope"] == "beyond_data"
    assert not (tmp_path / "replay.json").exists()


def test_too_few_labels_beyond_the_data_are_no_replay(frames: list[Atoms], replay: list[Atoms], tmp_path: Path) -> None:
    start = _network(frames)
    near = _noting(replay[: len(frames)], 1e6)  # hardly displaced: nothing is beyond
    assert len(beyond_data(near, frames)) < len(near)
    chosen = pp.finetune(start, frames, replay=near, replay_fraction=0.9, directory=tmp_path / "a", **SMALL)
    assert chosen.metadata["replay_scope"] == "all"
    assert not (tmp_path / "a" / "beyond-data").exists()
    bare = [set_labels(a.copy(), Labels(energy=get_labels(a).energy)) for a in frames]
    with pytest.warns(UserWarning, match="no label is beyond the data"):
        pp.finetune(start, bare, replay=near, replay_scope="beyond_data", **SMALL)


BEYOND, ALL = (1e6, "beyond_data"), (1e-6, "all")


@pytest.mark.parametrize(
    ("error", "scope", "killed"),
    [(*BEYOND, "first"), (*BEYOND, "between"), (*ALL, "first"), (*ALL, "between"), (*ALL, "second"), (*ALL, "damaged")],
)
def test_an_interrupted_choice_goes_on(
    frames: list[Atoms],
    replay: list[Atoms],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: float,
    scope: str,
    killed: str,
) -> None:
    start = _network(frames)
    words = {"val": frames[:3], "replay": _noting(replay, error), **SMALL}
    whole = pp.finetune(start, frames, directory=tmp_path / "whole", **words)

    real, calls = pretrain_finetune.train, []

    def interrupted(*given: Any, **options: Any) -> Any:
        calls.append(options["directory"])
        if (len(calls) == 1 and killed == "first") or (len(calls) == 2 and killed in ("second", "damaged")):
            real(*given, **options)
            raise KeyboardInterrupt
        return real(*given, **options)

    def broken(*given: Any, **options: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pretrain_finetune, "train", interrupted)
        if killed == "between":
            patch.setattr(pretrain_finetune, "chosen_scope", broken)
        with pytest.raises(KeyboardInterrupt):
            pp.finetune(start, frames, directory=tmp_path / "parts", **words)
    assert not (tmp_path / "parts" / "replay.json").exists()
    if killed == "damaged":  # as a run puts a damaged one aside
        first = tmp_path / "parts" / "beyond-data" / "last.ckpt"
        first.rename(first.with_name("last.damaged.ckpt"))
    resumed = pp.finetune(start, frames, directory=tmp_path / "parts", **words)
    assert resumed.metadata["replay_scope"] == whole.metadata["replay_scope"] == scope
    for name, value in _weights(whole).items():
        torch.testing.assert_close(_weights(resumed)[name], value, rtol=0, atol=0)
    assert (tmp_path / "parts" / "replay.json").read_text() == (tmp_path / "whole" / "replay.json").read_text()


def test_a_finished_choice_is_not_overwritten(frames: list[Atoms], replay: list[Atoms], tmp_path: Path) -> None:
    start = _network(frames)
    noted = _noting(replay, 1e6)
    pp.finetune(start, frames, replay=noted, directory=tmp_path / "auto", **SMALL)
    kept = (tmp_path / "auto" / "best.pt").read_bytes()
    for words in ({}, {"replay": noted, "replay_scope": "all"}, {"replay": noted, "replay_scope": "beyond_data"}):
        with pytest.raises(CheckpointError, match="replay_scope 'auto'"):
            pp.finetune(start, frames, directory=tmp_path / "auto", **words, **SMALL)
    with pytest.raises(CheckpointError):  # other data
        pp.finetune(start, frames[1:], replay=noted, directory=tmp_path / "auto", **SMALL)
    pp.finetune(start, frames, replay=noted, directory=tmp_path / "auto", **SMALL)  # the same: nothing to do
    with pytest.raises(CheckpointError, match="replay_scope 'auto'"):
        pp.train(start, frames, directory=tmp_path / "auto", epochs=1)
    assert (tmp_path / "auto" / "best.pt").read_bytes() == kept
    pp.finetune(start, frames, directory=tmp_path / "plain", **SMALL)
    with pytest.raises(CheckpointError, match="chose no labels"):
        pp.finetune(start, frames, replay=noted, directory=tmp_path / "plain", **SMALL)


@pytest.mark.parametrize(("error", "growth"), [(0.05, 3.0), (0.25, 3.0), (0.5, 1.5), (0.9, 1.0), (2.0, 1.0)])
def test_labels_beyond_the_data_keep_a_quarter_of_the_change(error: float, growth: float) -> None:
    assert replay_scope.error_growth(error) == pytest.approx(growth)


@pytest.mark.parametrize(("lost", "closer", "kept"), [(0, 0, 1.5), (2, 1, 0.5), (2, 2, 1.5), (2, 4, 1.5), (5, 5, 0.5)])
def test_a_trial_decides_how_closely_labels_are_held_to(
    frames: list[Atoms],
    replay: list[Atoms],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    lost: int,
    closer: int,
    kept: float,
) -> None:
    """Three times the tolerance, unless a network with the usual one loses fewer trajectories of five."""
    tolerances: list[tuple[float, str]] = []
    tried: list[str] = []
    made: dict[str, Any] = {}
    train = pretrain_finetune.train

    def noting(*arguments: Any, **options: Any) -> Any:
        tolerances.append((options["replay_tolerance"], options["directory"].name))
        made[options["directory"].name] = train(*arguments, **options)
        return made[options["directory"].name]

    def trial(potential: Any, folder: Path) -> tuple[int, int]:
        tried.append(folder.name)
        return lost if folder.name == "beyond-data" else closer, 5

    monkeypatch.setattr(pretrain_finetune, "train", noting)
    monkeypatch.setattr(pretrain_finetune, "error_growth", lambda error: 3.0)
    labels = _noting(replay, 1e6)  # a network knows more than such a teacher
    options = {"replay": labels, "replay_tolerance": 0.5, "directory": tmp_path / "a", **SMALL}
    chosen = pp.finetune(_network(frames), frames, trial=trial, **options)
    folders = ["beyond-data", *(["beyond-data-closer"] if lost else [])]
    assert tried == folders
    assert tolerances == list(zip([1.5, 0.5], folders, strict=False))
    note = json.loads((tmp_path / "a" / "replay.json").read_text())
    assert (note["scope"], note["lost"], note["simulated"]) == ("beyond_data", lost, 5)
    assert note["lost_closer"] == (closer if lost else None)
    assert note["tolerance"] == chosen.metadata["replay_tolerance"] == kept
    source = folders[kept == 0.5]
    assert (tmp_path / "a" / "best.pt").read_bytes() == (tmp_path / "a" / source / "best.pt").read_bytes()
    assert chosen is made[source]
    again = pp.finetune(_network(frames), frames, trial=trial, **options)  # nothing is trained anew
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), chosen.parameters(), strict=True))


def test_nothing_is_tried_without_a_trial_or_where_all_labels_are_replayed(
    frames: list[Atoms], replay: list[Atoms], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tolerances: list[tuple[float, str]] = []
    train = pretrain_finetune.train

    def noting(*arguments: Any, **options: Any) -> Any:
        tolerances.append((options["replay_tolerance"], options["directory"].name))
        return train(*arguments, **options)

    def trial(potential: Any, folder: Path) -> tuple[int, int]:
        raise AssertionError

    monkeypatch.setattr(pretrain_finetune, "train", noting)
    options = {"replay_tolerance": 0.5, **SMALL}
    labels = _noting(replay, 1e6)
    pp.finetune(_network(frames), frames, replay=labels, directory=tmp_path / "b", **options)
    assert tolerances == [(0.5, "beyond-data")]
    with pytest.raises(ConfigError, match="replay_trial: give 'trial'"):
        pp.finetune(_network(frames), frames, replay=labels, replay_trial=4, **options)
    tolerances.clear()
    labels = _noting(replay, 1e-6)  # a better teacher
    pp.finetune(_network(frames), frames, replay=labels, trial=trial, directory=tmp_path / "c", **options)
    assert tolerances[-1] == (0.5, "c")
