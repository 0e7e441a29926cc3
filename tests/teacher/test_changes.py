"""Changes between frames: which frames belong together, and what a teacher knows of their changes."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

import mdl_physpretrain as pp
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.graphs.batch import build_batch
from mdl_physpretrain.potentials import predict
from mdl_physpretrain.potentials.classical import ClassicalForceField
from mdl_physpretrain.probes.stiffness import change_errors
from mdl_physpretrain.stability.overlap import closest_pair
from mdl_physpretrain.structures.labels import Labels, set_labels
from mdl_physpretrain.teacher.by_composition import refuse_without_frames
from mdl_physpretrain.teacher.change_errors import measured_change_errors
from mdl_physpretrain.teacher.changes import change_skill, forces_change, frame_pairs
from mdl_physpretrain.teacher.kinds.classical import fit_classical
from mdl_physpretrain.teacher.trust import compare_teachers
from mdl_physpretrain.training.replay_scope import chosen_scope


def _frames(count: int = 6, rattle: float = 0.08) -> list[Atoms]:
    rng = np.random.default_rng(4)
    frames = []
    for k in range(count):
        atoms = bulk("MgO", "rocksalt", a=4.2, cubic=True)
        strain = rng.uniform(-0.03, 0.03, (3, 3))
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
        atoms.positions += rng.normal(0, rattle, (8, 3))
        atoms.info["structure_id"] = f"mgo-{k}"
        frames.append(atoms)
    return frames


def _labelled(model, frames, shift: float = 0.0):
    made = []
    for atoms in frames:
        out = predict(model, build_batch(atoms, model.cutoff, model.dtype))
        forces = out.forces.detach().double().numpy() + shift
        labels = Labels(float(out.energy), forces, out.stress[0].detach().double().numpy())
        made.append(set_labels(atoms.copy(), labels))
    return made


def _truth() -> ClassicalForceField:
    model = ClassicalForceField(["O", "Mg"]).double()
    with torch.no_grad():
        model.charges.copy_(torch.tensor([-1.3, 1.3]))
        model.strengths[0, 2], model.strengths[1, 1], model.strengths[0, 4] = 2.5, 6.7, 0.23
        model.base_energies.copy_(torch.tensor([-3.0, -1.0]))
    return model


def test_frames_of_the_same_atoms_are_found():
    frames = _frames(3)
    frames[1].positions += [0.7, 0.0, 0.0]  # as a whole: not a displacement
    frames[2].positions[0] += frames[2].cell[1]  # across the boundary: none either
    frames.append(frames[0].copy())  # nothing changes
    frames.append(frames[0][[1, 0, *range(2, 8)]])  # other order
    frames.append(bulk("MgO", "rocksalt", a=5.2, cubic=True))  # another cell
    frames.append(_frames(4)[3])
    frames[-1].positions[2] += [0.0, 1.1, 0.0]  # too far
    assert [(p.first, p.second) for p in frame_pairs(frames)] == [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3)]
    assert all(0 < p.displacement < 0.6 for p in frame_pairs(frames))
    assert len(frame_pairs(_frames(20))) <= 6 * 19
    assert frame_pairs([]) == []


def _soft_frames(count: int, rattle: float, seed: int = 7) -> list[Atoms]:
    rng = np.random.default_rng(seed)
    frames = []
    for k in range(count):
        atoms = bulk("Li", "bcc", a=3.5, cubic=True).repeat((2, 2, 2))
        atoms.positions += rng.normal(0, rattle, (16, 3))
        atoms.info["structure_id"] = f"soft-{k}"
        frames.append(set_labels(atoms, Labels(0.0, rng.normal(0, 0.2, (16, 3)), None)))
    return frames


def test_frames_of_a_soft_crystal_are_further_apart():
    """Hardly two are within 0.6 Å; up to half the distance of the closest atoms every atom is at its own place."""
    frames = _soft_frames(8, 0.24)
    halves = [0.5 * closest_pair(a.positions, a.cell.array, a.pbc).distance for a in frames]
    pairs = frame_pairs(frames)
    assert sum(p.displacement > 0.6 for p in pairs) > 6
    assert all(p.displacement < min(halves[p.first], halves[p.second]) for p in pairs)
    bare = [set_labels(Atoms(a.numbers, a.positions, cell=a.cell, pbc=True), Labels(0.0, None, None)) for a in frames]
    assert all(p.displacement < 0.6 for p in frame_pairs(bare))  # no forces to compare


def test_silent_frames_nearby_do_not_keep_others_away():
    """Strained crystals, whose forces are zero by symmetry, are near each other in every such data set."""
    strained = []
    for k in range(5):
        atoms = bulk("Li", "bcc", a=3.4 + 0.02 * k, cubic=True)
        strained.append(set_labels(atoms, Labels(0.0, np.zeros((2, 3)), None)))
    frames = [*strained, *_soft_frames(8, 0.24)]
    pairs = frame_pairs(frames)
    assert forces_change(frames, pairs)
    assert sum(p.first >= 5 for p in pairs) > 6
    assert len([p for p in pairs if p.second < 5]) == 10


def test_frames_nearby_are_enough_where_forces_change():
    near, far = _soft_frames(5, 0.05), _soft_frames(5, 0.24)
    assert len(frame_pairs(near)) == 10
    both = [*near, *far]
    assert all(p.displacement < 0.6 for p in frame_pairs(both))
    assert [(p.first, p.second) for p in frame_pairs(both) if p.second < 5] == [
        (p.first, p.second) for p in frame_pairs(near)
    ]


def test_frames_far_apart_are_no_pairs():
    """Atoms that have left their places: of a melt every frame is another structure."""
    assert frame_pairs(_soft_frames(6, 1.0)) == []
    lone = [Atoms("H2", [[0, 0, 0], [0, 0, 9 + 2.0 * k]], cell=[30, 30, 30], pbc=True) for k in range(3)]
    lone = [set_labels(a, Labels(0.0, np.full((2, 3), 0.1 * k), None)) for k, a in enumerate(lone)]
    assert all(p.displacement < 1.5 for p in frame_pairs(lone))


def test_skill_of_right_weak_and_wrong_teachers():
    truth = _truth()
    frames = _labelled(truth, _frames(), shift=0.4)  # a constant error of the teacher does not count
    right = change_skill(truth, frames)
    assert right.error < 1e-9 < right.trivial
    assert right.trust == pytest.approx(1)
    assert right.correlation == pytest.approx(1)
    assert right.pairs == 15

    double, wrong = _truth(), _truth()
    with torch.no_grad():
        double.charges *= 2**0.5
        double.strengths *= 2
        wrong.charges.zero_()
        wrong.strengths *= -1
    assert change_skill(double, frames).trust == pytest.approx(0.5)
    useless = change_skill(wrong, frames)
    assert useless.trust == 0
    assert useless.error > useless.trivial
    assert set(right.to_dict()) == {"error", "trivial", "trust", "correlation", "pairs", "stiffness"}


def test_no_two_frames_means_no_trust():
    (alone,) = _labelled(_truth(), _frames(1))
    skill = change_skill(_truth(), [alone])
    assert (skill.pairs, skill.trust) == (0, 0.0)
    assert np.isnan(skill.error)
    bare = _frames(2)
    with pytest.raises(StructureError, match="forces"):
        change_skill(_truth(), bare)


def test_strained_crystals_without_forces_say_nothing_of_a_teacher():
    """Their forces are zero by symmetry for every potential: what is left is rounding, and judges no teacher."""
    strained = []
    for k in range(5):
        atoms = bulk("MgO", "rocksalt", a=4.2, cubic=True)
        atoms.set_cell(atoms.cell * (1 + 0.01 * k), scale_atoms=True)
        atoms.info["structure_id"] = f"strained-{k}"
        strained.append(atoms)
    strained = _labelled(_truth(), strained)
    assert len(frame_pairs(strained)) == 10
    skill = change_skill(_truth(), strained)
    assert (skill.pairs, skill.trust) == (0, 0.0)
    assert np.isnan(skill.stiffness)
    assert measured_change_errors(_truth(), strained) is None
    assert change_errors(_truth(), strained) is None
    assert compare_teachers({"truth": _truth()}, strained)["error"].isna().all()
    frames = _labelled(_truth(), _frames(3))
    silent, telling = ((part, frame_pairs(part)) for part in (strained, frames))
    assert chosen_scope(_truth(), [silent, telling], 0.5, n_beyond=1, n_all=2).scope == "beyond_data"
    assert chosen_scope(_truth(), [silent], 0.5, n_beyond=1, n_all=2).network_error is None
    with pytest.raises(ConfigError, match="no two such frames between which forces change"):
        refuse_without_frames(strained, "teacher.with_fitted")
    both = [*strained, *frames]
    assert change_skill(_truth(), both).pairs == len(frame_pairs(both))


def test_fit_recovers_a_potential_of_its_own_form():
    truth = _truth()
    frames = _labelled(truth, _frames(12))
    fitted = fit_classical(frames[:8], core=False)
    assert fitted.metadata["fit"]["frame_pairs"] > 10
    skill = change_skill(fitted, frames[8:])
    assert skill.error < 0.05 * skill.trivial
    assert pp.evaluate(fitted, frames[8:])["forces_mae"] < 0.05
    assert (fitted.strengths >= 0).all()
    again = fit_classical(frames[:8], core=False)
    assert np.array_equal(again.charges.detach().numpy(), fitted.charges.detach().numpy())


def test_fit_with_core_repels_inside_and_labels(tmp_path):
    frames = _labelled(_truth(), _frames(5))
    teacher = fit_classical(frames)
    pp.save_model(teacher, tmp_path / "teacher.pt")
    labelled = pp.label(
        pp.augment(frames, n_aug=1), pp.load_model(tmp_path / "teacher.pt"), anchor=True, parents=frames
    )
    assert len(labelled) == len(frames)
    close = Atoms("MgO", [[0, 0, 0], [0.7, 0, 0]])
    forces = predict(teacher, build_batch(close, teacher.cutoff, teacher.dtype)).forces
    assert float(forces[1, 0]) > 50
    with pytest.raises(StructureError):
        fit_classical(_frames(3))


def test_stiffness_is_that_of_the_teacher_whatever_the_noise_of_the_labels():
    truth = _truth()
    soft = pp.Sum([truth], factors=[0.6])
    frames = _labelled(truth, _frames(12))
    assert change_skill(truth, frames).stiffness == pytest.approx(1.0)
    assert change_skill(soft, frames).stiffness == pytest.approx(0.6, rel=1e-3)
    rng = np.random.default_rng(2)
    noisy = []
    for atoms in frames:
        forces = atoms.get_forces()
        noise = rng.normal(0, forces.std(), forces.shape)
        noisy.append(set_labels(atoms.copy(), Labels(atoms.get_potential_energy(), forces + noise, None)))
    assert change_skill(soft, noisy).stiffness == pytest.approx(0.6, abs=0.06)
    assert np.isnan(change_skill(pp.Sum([truth], factors=[-1.0]), frames).stiffness)


def test_frames_that_the_teacher_refuses_do_not_count():
    truth = _truth()
    frames = _labelled(truth, _frames(6))
    close = frames[0].copy()
    close.positions[1] = close.positions[0] + 0.3  # beyond what may be labelled
    close.info["structure_id"] = "close"
    strange = set_labels(close, Labels(0.0, np.zeros((len(close), 3))))
    refusing = pp.Sum([truth])
    refusing.metadata = {"examination": {"passed": True, "max_force": 60.0}}
    pairs = frame_pairs([*frames, strange], largest=5.0)
    assert any(6 in (pair.first, pair.second) for pair in pairs)
    assert change_skill(refusing, [*frames, strange], pairs).pairs == sum(6 not in (p.first, p.second) for p in pairs)
    only = [pair for pair in pairs if 6 in (pair.first, pair.second)]
    with pytest.raises(StructureError, match="the teacher failed: force of"):
        change_skill(refusing, [*frames, strange], only)
