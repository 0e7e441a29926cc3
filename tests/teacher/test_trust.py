"""Teachers that are damped to what they know."""

import numpy as np
import pytest
import torch
from ase import Atoms

import mdl_physpretrain as pp
from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.graphs.batch import build_batch
from mdl_physpretrain.potentials import predict
from mdl_physpretrain.potentials.classical import ClassicalForceField
from mdl_physpretrain.teacher.changes import Skill
from mdl_physpretrain.teacher.trust import compare_teachers, trusted_teacher


def _teacher() -> pp.EnergyModel:
    model = ClassicalForceField(["Mg", "O"]).double()
    with torch.no_grad():
        model.charges.copy_(torch.tensor([1.0, -1.0]))
        model.strengths.fill_(0.02)
    return pp.Sum([model, pp.ZBL().double()])


def _skill(trust: float, pairs: int = 5) -> Skill:
    return Skill(0.1, 0.2, trust, 0.5, pairs)


def _forces(model: pp.EnergyModel, atoms: Atoms) -> np.ndarray:
    return predict(model, build_batch(atoms, model.cutoff, model.dtype)).forces.detach().numpy()


def test_full_trust_and_no_knowledge_leave_the_teacher_alone(rocksalt):
    teacher = _teacher()
    assert trusted_teacher(teacher, rocksalt, skill=_skill(1.0))[0] is teacher
    assert trusted_teacher(teacher, rocksalt, skill=_skill(0.0, pairs=0))[0] is teacher


def test_damped_teacher_is_between_itself_and_a_core(rocksalt, tmp_path):
    teacher = _teacher()
    core, _ = trusted_teacher(teacher, rocksalt, skill=_skill(0.0))
    half, skill = trusted_teacher(teacher, rocksalt, skill=_skill(0.5))
    assert skill.trust == 0.5
    atoms = rocksalt[0]
    assert np.abs(_forces(core, atoms)).max() < 1e-9  # the core does not reach the data
    assert np.allclose(_forces(half, atoms), 0.5 * _forces(teacher, atoms) + 0.5 * _forces(core, atoms))
    close = Atoms("MgO", [[0, 0, 0], [0.6, 0, 0]])
    assert _forces(core, close)[1, 0] > 50
    pp.save_model(half, tmp_path / "half.pt")
    assert np.allclose(_forces(pp.load_model(tmp_path / "half.pt").double(), atoms), _forces(half, atoms), atol=1e-6)
    with pytest.raises(ConfigError, match="factors"):
        pp.Sum([pp.ZBL()], factors=[1.0, 2.0])


def test_trust_is_measured_where_it_is_not_given(rocksalt):
    _, skill = trusted_teacher(_teacher(), rocksalt)
    assert skill.pairs > 0
    assert 0 <= skill.trust <= 1


def test_teachers_are_compared_on_the_same_changes(rocksalt):
    table = compare_teachers({"nothing": pp.ZBL(inner=0.1, outer=0.2).double(), "pairs": _teacher()}, rocksalt)
    assert set(table["teacher"]) == {"nothing", "pairs"}
    assert table["error"].is_monotonic_increasing
    assert table["trivial"].nunique() == 1
    nothing = table.set_index("teacher").loc["nothing"]
    assert nothing["error"] == pytest.approx(nothing["trivial"])
    assert nothing["trust"] == 0
