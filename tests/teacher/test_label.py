"""Labelling: agreement with predict and ASE, anchoring, failures, resume, refusal."""

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from mdl_physpretrain.augmentation import augment, filter_labels
from mdl_physpretrain.errors import ConfigError, StructureError, TeacherRefused
from mdl_physpretrain.graphs.batch import build_batch
from mdl_physpretrain.potentials import CGCNN, EAM, ZBL, ASECalculator, Sum, predict
from mdl_physpretrain.structures.labels import get_labels
from mdl_physpretrain.teacher import engines
from mdl_physpretrain.teacher.label import label


def _eam(elements, dtype=torch.float64, cutoff=5.0) -> EAM:
    torch.manual_seed(0)
    model = EAM(elements, cutoff=cutoff)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1 + 0.2 * torch.rand_like(p))
        model.B.mul_(0.01)
    return model.to(dtype).eval()


def _results(structures) -> list[tuple]:
    return [(a.calc.results["energy"], a.calc.results["forces"].tobytes()) for a in structures]


class Counting(Calculator):
    """Harmonic atoms; counts what it computes and fails where it is told to."""

    implemented_properties = ("energy", "forces")

    def __init__(self, fail_at=(), wrong=None, kill_at=None):
        super().__init__()
        self.computed, self.fail_at, self.wrong, self.kill_at = [], fail_at, wrong, kill_at

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        name = atoms.info["structure_id"]
        self.computed.append(name)
        if name == self.kill_at:
            raise KeyboardInterrupt
        if name in self.fail_at:
            raise RuntimeError(f"no convergence\nfor {name}")
        energy = 0.5 * float((atoms.positions**2).sum())
        self.results = {"energy": np.nan if name == self.wrong else energy, "forces": -atoms.positions}


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_eam_equals_predict_and_the_calculator(rocksalt, batch_size):
    eam = _eam(["Mg", "O"])
    made = augment(rocksalt[:3], n_aug=2, pull=0.3, perturb=0.3)
    labelled = label(made, eam, batch_size=batch_size)
    assert len(labelled) == 6
    assert labelled.failures == []
    for source, result in zip(made, labelled, strict=True):
        assert source.calc is None
        assert result.info == {**source.info, "label_source": "eam"}
        assert np.array_equal(result.arrays["aug_displacement"], source.arrays["aug_displacement"])
        assert result.calc.results["forces"].dtype == np.float64
        out = predict(eam, build_batch(source, eam.cutoff, dtype=torch.float64))
        found = get_labels(result)
        assert found.energy == pytest.approx(float(out.energy.detach()), rel=1e-12)
        np.testing.assert_allclose(found.forces, out.forces.detach(), atol=1e-10)
        np.testing.assert_allclose(found.stress, out.stress[0].detach(), atol=1e-12)
        calc = ASECalculator(eam)
        assert calc.get_potential_energy(source) == pytest.approx(found.energy, rel=1e-12)
        np.testing.assert_allclose(result.get_stress(), calc.get_stress(source), atol=1e-12)


def test_edge_limit_and_own_dtype(rocksalt, monkeypatch):
    made = augment(rocksalt, n_aug=1)
    whole = label(made, _eam(["Mg", "O"], torch.float32))
    assert whole[0].calc.results["forces"].dtype == np.float64
    sizes = []
    label_module = engines
    original = label_module.collate
    monkeypatch.setattr(label_module, "MAX_EDGES_CPU", 1500)
    monkeypatch.setattr(label_module, "collate", lambda items: sizes.append(len(items)) or original(items))
    split = label(made, _eam(["Mg", "O"], torch.float32))
    assert sum(sizes) == 8
    assert len(sizes) > 1
    for a, b in zip(whole, split, strict=True):
        assert a.calc.results["energy"] == pytest.approx(b.calc.results["energy"], rel=1e-5)


def test_wrapped_model_is_labelled_in_batches(rocksalt, monkeypatch):
    eam = _eam(["Mg", "O"])
    direct = label(rocksalt, eam)
    monkeypatch.setattr(ASECalculator, "calculate", None)
    assert _results(label(rocksalt, ASECalculator(eam))) == _results(direct)


def test_any_energy_model_and_mode_restored(rocksalt):
    torch.manual_seed(1)
    model = CGCNN(cutoff=4.0).train()
    labelled = label(rocksalt[:2], model)
    assert model.training
    expected = ASECalculator(model.eval())
    for source, result in zip(rocksalt, labelled, strict=False):
        assert result.info["label_source"] == "cgcnn"
        np.testing.assert_allclose(result.get_forces(), expected.get_forces(source), atol=1e-4)


def test_unusual_structures(zoo):
    eam = _eam(["Si", "O", "Mg", "Al", "H"])
    labelled = label(list(zoo.values()), eam)
    for (name, source), result in zip(zoo.items(), labelled, strict=True):
        has_stress = abs(np.linalg.det(source.cell.array)) > 0
        assert (get_labels(result).stress is not None) == has_stress, name
    assert all(get_labels(a).stress is None for a in label(list(zoo.values()), eam, stress=False))


def test_emt_from_instance_class_and_function():
    structures = [bulk("Cu", cubic=True), molecule("CO"), bulk("Cu").repeat(2)]
    for k, atoms in enumerate(structures):
        atoms.rattle(0.05, seed=k)
        atoms.info["structure_id"] = f"s{k}"
    structures[0].set_constraint(FixAtoms([0]))
    for teacher in (EMT(), EMT, lambda: EMT()):
        labelled = label(structures, teacher)
        for source, result in zip(structures, labelled, strict=True):
            bare = source.copy()
            bare.set_constraint()
            bare.calc = EMT()
            found = get_labels(result)
            assert result.info["label_source"] == "emt"
            assert found.energy == pytest.approx(bare.get_potential_energy())
            np.testing.assert_allclose(found.forces, bare.get_forces(), atol=1e-12)
            assert np.linalg.norm(found.forces[0]) > 0  # the constraint does not reach the label
            if source.cell.rank == 3:
                np.testing.assert_allclose(result.get_stress(), bare.get_stress(), atol=1e-12)
            else:
                assert found.stress is None


def test_unknown_element_names_the_structure(rocksalt):
    with pytest.raises(StructureError, match=r"structure mgo-0.*element Mg is unknown to this eam \(O, Si\)"):
        label(rocksalt, _eam(["Si", "O"]))
    with pytest.raises(StructureError, match=r"mgo-0.*element O is unknown"):
        label(rocksalt, Sum([_eam(["Mg"]), ZBL()]))


def test_refused_teacher(rocksalt):
    eam = _eam(["Mg", "O"])
    eam.metadata = {"examination": {"passed": False, "failures": ["O-O has no core", "Mg-Mg is not smooth"]}}
    for teacher in (eam, ASECalculator(eam)):
        with pytest.raises(TeacherRefused, match=r"O-O has no core; Mg-Mg is not smooth.*force=True"):
            label(rocksalt, teacher)
    assert len(label(rocksalt, eam, force=True)) == 8
    eam.metadata["examination"]["passed"] = True
    assert len(label(rocksalt, eam)) == 8


def test_failures_are_recorded(rocksalt):
    calc = Counting(fail_at={"mgo-2"}, wrong="mgo-5")
    with pytest.warns(UserWarning, match=r"failed on 2 of 8 structures; the first, mgo-2: RuntimeError"):
        labelled = label(rocksalt, calc)
    assert [a.info["structure_id"] for a in labelled] == [f"mgo-{k}" for k in (0, 1, 3, 4, 6, 7)]
    assert labelled.failures == [
        ("mgo-2", "RuntimeError: no convergence"),
        ("mgo-5", "NaN or infinite energy"),
    ]
    assert get_labels(labelled[0]).stress is None  # a calculator without stress
    with pytest.raises(StructureError, match=r"mgo-2.*no convergence"):
        label(rocksalt, calc, on_error="raise")
    with pytest.raises(StructureError, match="failed on 1 of 1"):
        label(rocksalt[2:3], calc)


def test_broken_structure_does_not_cost_its_batch(rocksalt):
    rocksalt[3].positions[0, 0] = np.nan
    with pytest.warns(UserWarning, match=r"mgo-3.*positions"):
        labelled = label(rocksalt, _eam(["Mg", "O"]))
    assert len(labelled) == 7
    assert labelled.failures[0].structure_id == "mgo-3"


def test_a_factory_makes_a_new_calculator_after_a_failure(rocksalt):
    made = []

    def factory():
        made.append(Counting(fail_at={"mgo-2"}))
        return made[-1]

    with pytest.warns(UserWarning, match="1 of 8"):
        label(rocksalt, factory)
    assert [calc.computed for calc in made] == [["mgo-0", "mgo-1", "mgo-2"], [f"mgo-{k}" for k in range(3, 8)]]


def test_bad_options(rocksalt):
    eam = _eam(["Mg", "O"])
    with pytest.raises(StructureError, match="no structures"):
        label([], eam)
    with pytest.raises(ConfigError, match="batch_size"):
        label(rocksalt, eam, batch_size=0)
    with pytest.raises(ConfigError, match="on_error"):
        label(rocksalt, eam, on_error="ignore")
    with pytest.raises(ConfigError, match="teacher must be"):
        label(rocksalt, 3)


# --- anchored labels ---------------------------------------------------------------------------


def _with_reference(structures):
    """Parents labelled by another EAM, which stands for DFT."""
    reference = _eam(["Mg", "O"])
    with torch.no_grad():
        reference.rm.mul_(1.1)
        reference.base_atomic_energy.sub_(3.0)
    return label(structures, reference)


def test_anchor_is_exact_at_the_parent(rocksalt):
    parents = _with_reference(rocksalt)
    still = augment(parents, n_aug=2, pull=0.0, perturb=0.0)
    anchored = label(still, _eam(["Mg", "O"]), anchor=True, parents=parents)
    for k, result in enumerate(anchored):
        expected, found = get_labels(parents[k // 2]), get_labels(result)
        assert result.info["label_source"] == "eam-anchored"
        assert found.energy == pytest.approx(expected.energy, abs=1e-10)
        np.testing.assert_allclose(found.forces, expected.forces, atol=1e-11)
        np.testing.assert_allclose(found.stress, expected.stress, atol=1e-13)


def test_anchor_follows_its_formula(rocksalt):
    parents = _with_reference(rocksalt)
    made = augment(parents, n_aug=2, pull=0.3, perturb=0.2, n_sites=8)
    eam = _eam(["Mg", "O"])
    anchored = label(made, eam, anchor=True, parents=parents[::-1])
    for k, (x, result) in enumerate(zip(made, anchored, strict=True)):
        parent = parents[k // 2]
        teacher = ASECalculator(eam)
        e, f, s = (teacher.get_property(p, x) for p in ("energy", "forces", "stress"))
        e0, f0, s0 = (teacher.get_property(p, parent) for p in ("energy", "forces", "stress"))
        u = x.positions - parent.positions
        energy = e - (e0 - np.sum(f0 * u)) + parent.get_potential_energy() - np.sum(parent.get_forces() * u)
        assert result.get_potential_energy() == pytest.approx(energy, abs=1e-9)
        np.testing.assert_allclose(result.get_forces(), f - f0 + parent.get_forces(), atol=1e-10)
        np.testing.assert_allclose(result.get_stress(), s - s0 + parent.get_stress(), atol=1e-12)


def test_anchored_forces_are_the_gradient_of_the_anchored_energy(rocksalt):
    parents = _with_reference(rocksalt[:1])
    eam = _eam(["Mg", "O"])
    (middle,) = augment(parents, n_aug=1, pull=0.3, perturb=0.2, n_sites=8)
    forces = label([middle], eam, anchor=True, parents=parents)[0].get_forces()
    h, moved = 1e-4, []
    for atom, axis in ((0, 0), (3, 1), (7, 2)):
        for sign in (1, -1):
            copy = middle.copy()
            copy.positions[atom, axis] += sign * h
            copy.arrays["aug_displacement"][atom, axis] += sign * h
            moved.append(copy)
    e = [a.get_potential_energy() for a in label(moved, eam, anchor=True, parents=parents)]
    slopes = [(e[2 * k] - e[2 * k + 1]) / (2 * h) for k in range(3)]
    assert [-s for s in slopes] == pytest.approx([forces[0, 0], forces[3, 1], forces[7, 2]], rel=1e-6)


def test_anchor_with_a_perfect_teacher_changes_nothing(rocksalt):
    eam = _eam(["Mg", "O"])
    parents = label(rocksalt, eam)
    made = augment(parents, n_aug=2, pull=0.3, perturb=0.2)
    for a, b in zip(label(made, eam), label(made, eam, anchor=True, parents=parents), strict=True):
        assert a.get_potential_energy() == pytest.approx(b.get_potential_energy(), abs=1e-9)
        np.testing.assert_allclose(a.get_forces(), b.get_forces(), atol=1e-10)
        np.testing.assert_allclose(a.get_stress(), b.get_stress(), atol=1e-12)


def test_anchor_without_parent_stress_has_none(rocksalt):
    parents = label(rocksalt[:2], _eam(["Mg", "O"]), stress=False)
    anchored = label(augment(parents, n_aug=1), _eam(["Mg", "O"]), anchor=True, parents=parents)
    assert [get_labels(a).stress for a in anchored] == [None, None]


def test_anchor_refuses_unsuitable_parents(rocksalt, tmp_path):
    eam = _eam(["Mg", "O"])
    made = augment(rocksalt, n_aug=1, perturb=0.2)
    with pytest.raises(ConfigError, match="needs parents"):
        label(made, eam, anchor=True)
    with pytest.raises(StructureError, match=r"mgo-7-aug0.*parent mgo-7 is not among"):
        label(made, eam, anchor=True, parents=rocksalt[:7])
    with pytest.raises(StructureError, match=r"mgo-0, field parent_id"):
        label(rocksalt, eam, anchor=True, parents=rocksalt)
    other = [a.copy() for a in made]
    other[1].positions[0] += 0.01
    with pytest.raises(StructureError, match=r"mgo-1-aug0.*is not its parent mgo-1 displaced"):
        label(other, eam, anchor=True, parents=rocksalt)
    other[1].positions[0] += made[1].cell[0] - 0.01  # a lattice vector is no difference
    assert len(label(other, eam, anchor=True, parents=rocksalt)) == 8
    rocksalt[4].calc = SinglePointCalculator(rocksalt[4], energy=1.0)
    with pytest.raises(StructureError, match=r"mgo-4, field forces"):
        label(made, eam, anchor=True, parents=rocksalt)
    # a text file rounds positions and displacements
    ase.io.write(tmp_path / "a.extxyz", made[:2])
    assert len(label(ase.io.read(tmp_path / "a.extxyz", ":"), eam, anchor=True, parents=rocksalt[:2])) == 2


# --- resume ------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 17, 200, 1300])
def test_resume_after_a_kill_gives_the_same(rocksalt, tmp_path, cut):
    made = augment(rocksalt, n_aug=2, seed=3)
    whole, part = tmp_path / "whole", tmp_path / "part"
    expected = label(made, _eam(["Mg", "O"], torch.float32), batch_size=3, resume=whole)
    content = whole.read_bytes()
    assert cut < len(content)
    part.write_bytes(content[:-cut])  # the last chunk is torn
    again = label(made, _eam(["Mg", "O"], torch.float32), batch_size=3, resume=part)
    assert _results(again) == _results(expected)
    assert part.read_bytes() == content


def test_finished_chunks_are_not_computed_again(rocksalt, tmp_path):
    path = tmp_path / "sub" / "labels"
    expected = label(rocksalt, Counting(), batch_size=2, resume=path)
    content = path.read_bytes()
    for damage, redone in (
        (content[:-5], 2),  # torn last chunk
        (content[:-5] + b"wrong", 2),  # as long as it should be, but damaged
        (content[:20], 8),  # torn header
        (b"", 8),
        (content, 0),
    ):
        path.write_bytes(damage)
        calc = Counting()
        again = label(rocksalt, calc, batch_size=2, resume=path)
        assert calc.computed == [f"mgo-{k}" for k in range(8 - redone, 8)]
        assert _results(again) == _results(expected)


def test_interrupted_run_keeps_what_it_finished(rocksalt, tmp_path):
    path, killed, calc = tmp_path / "labels", Counting(kill_at="mgo-5"), Counting()
    with pytest.raises(KeyboardInterrupt):
        label(rocksalt, killed, resume=path)
    assert len(label(rocksalt, calc, resume=path)) == 8
    assert calc.computed == ["mgo-5", "mgo-6", "mgo-7"]


def test_resume_keeps_failures_and_parents(rocksalt, tmp_path):
    parents = label(rocksalt, Counting())
    made = augment(parents, n_aug=1)
    calc, path = Counting(fail_at={"mgo-1", "mgo-2-aug0"}), tmp_path / "labels"
    with pytest.warns(UserWarning, match="2 of 8"):
        first = label(made, calc, anchor=True, parents=parents, resume=path)
    assert first.failures[0].structure_id == "mgo-1-aug0"
    assert "failed on its parent mgo-1" in first.failures[0].reason
    fresh = Counting()
    with pytest.warns(UserWarning, match="2 of 8"):
        again = label(made, fresh, anchor=True, parents=parents, resume=path)
    assert fresh.computed == []
    assert again.failures == first.failures
    assert _results(again) == _results(first)


def test_raised_failures_are_tried_again(rocksalt, tmp_path):
    path = tmp_path / "labels"
    with pytest.raises(StructureError, match="mgo-4"):
        label(rocksalt, Counting(fail_at={"mgo-4"}), on_error="raise", resume=path)
    calc = Counting()
    assert len(label(rocksalt, calc, on_error="raise", resume=path)) == 8
    assert calc.computed == ["mgo-4", "mgo-5", "mgo-6", "mgo-7"]


def test_resume_file_of_other_work_is_refused(rocksalt, tmp_path):
    path = tmp_path / "labels"
    eam = _eam(["Mg", "O"])
    label(rocksalt, eam, resume=path)
    content = path.read_bytes()
    with torch.no_grad():
        eam.rm[0] += 1e-6
    moved = [a.copy() for a in rocksalt]
    moved[7].positions[0, 0] += 1e-9
    for structures, teacher, options in (
        (rocksalt, eam, {}),
        (moved, _eam(["Mg", "O"]), {}),
        (rocksalt[::-1], _eam(["Mg", "O"]), {}),
        (rocksalt, _eam(["Mg", "O"]), {"stress": False}),
    ):
        with pytest.raises(ConfigError, match="other structures, another teacher or other options"):
            label(structures, teacher, resume=path, **options)
    assert path.read_bytes() == content
    foreign = tmp_path / "notes.txt"
    foreign.write_text("not ours")
    with pytest.raises(ConfigError, match=r"notes\.txt is another kind of file"):
        label(rocksalt, eam, resume=foreign)
    assert foreign.read_text() == "not ours"
    with pytest.raises(ConfigError, match="resume file"):
        label(rocksalt, eam, resume=tmp_path)


# --- real data ---------------------------------------------------------------------------------


def test_real_structures(shared_data):
    parents = ase.io.read(shared_data / "lmo_train.extxyz", ":4")
    made = augment(parents, n_aug=2, n_pairs=2, pull=1.0, perturb=0.5)
    eam = _eam(["Li", "Mn", "O"], torch.float32, cutoff=8.0)
    labelled = label(made, eam)
    anchored = label(made, eam, anchor=True, parents=parents)
    result = filter_labels(labelled, max_force=1e6)
    assert len(labelled) == len(anchored) == len(result.kept) == 8
    for a, b in zip(labelled, anchored, strict=True):
        shift = b.get_forces() - a.get_forces()
        parent = next(p for p in parents if p.info["structure_id"] == a.info["parent_id"])
        expected = parent.get_forces() - ASECalculator(eam).get_forces(parent)
        np.testing.assert_allclose(shift, expected, atol=1e-3)


def test_structures_without_ids():
    atoms = Atoms("Cu2", [[0, 0, 0], [2.5, 0, 0]])
    made = augment([atoms], n_aug=2)
    assert len({a.info["structure_id"] for a in label(made, EMT())}) == 2
