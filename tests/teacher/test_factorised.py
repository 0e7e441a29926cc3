"""Parameters by element: exact limits, pairs that the data never show, and what the examination says of the data."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii

from mdl_physpretrain.augmentation.coverage import cover, coverage_table, per_bin_of
from mdl_physpretrain.errors import ConfigError, StructureError, TeacherRefused
from mdl_physpretrain.graphs.bonds import PairDistances, core_ends, nearest_distances
from mdl_physpretrain.potentials import EAM, load_model
from mdl_physpretrain.recipe import Augment
from mdl_physpretrain.structures.labels import Labels, get_labels, set_labels
from mdl_physpretrain.teacher import Bounds, examine, fit, fit_eam, label
from mdl_physpretrain.teacher.change_errors import ChangeErrors
from mdl_physpretrain.teacher.examine import Examination
from mdl_physpretrain.teacher.factorised import CorrectedEAM, FactorisedEAM, additive_radii
from mdl_physpretrain.teacher.held_out import force_verdict
from mdl_physpretrain.teacher.kinds.classical import fit_classical
from mdl_physpretrain.teacher.kinds.eam import EAMTeacher
from mdl_physpretrain.teacher.labelled_set import change_errors
from mdl_physpretrain.teacher.lammps import write_eam_fs
from mdl_physpretrain.teacher.parametrisation import PAIR_VARIABLES, BoundedEAM
from mdl_physpretrain.teacher.trust import trusted_teacher

METALS = ["Li", "Al", "Ca", "Ti", "Ni", "Cu", "Nb", "Ag", "Ba", "W", "Pt"]
QUICK = {"cutoff": 5.5, "n_basis": 2, "epochs": 3}


def contact(a: str, b: str) -> float:
    return float(covalent_radii[[atomic_numbers[a], atomic_numbers[b]]].sum())


def alloy(a: str, b: str, rng: np.random.Generator, name: str) -> Atoms:
    """A rattled B2 cell."""
    length = 1.1 * contact(a, b) * 2 / 3**0.5
    atoms = Atoms([a, b], scaled_positions=[[0, 0, 0], [0.5] * 3], cell=[length] * 3, pbc=True).repeat((2, 1, 1))
    atoms.positions += rng.normal(scale=0.08, size=atoms.positions.shape)
    atoms.info["structure_id"] = name
    return atoms


def truth() -> EAM:
    """An EAM that was never fitted."""
    truth = EAM(METALS, cutoff=5.5, n_basis=1).double()
    with torch.no_grad():
        truth.D.fill_(0.5)
        truth.alpha.fill_(1.5)
        truth.B.fill_(0.02)
        truth.A.fill_(5.0)
    return truth


@pytest.fixture(scope="module")
def alloys() -> list[Atoms]:
    """Neighbours of a chain of elements; most pairs are not there."""
    rng = np.random.default_rng(1)
    cells = [alloy(*pair, rng, f"{'-'.join(pair)}-{k}") for pair in itertools.pairwise(METALS) for k in range(2)]
    return list(label(cells, truth()))


def search(kind: type[BoundedEAM], symbols: list[str], distances: dict, seed: int = 0) -> BoundedEAM:
    model = EAM(symbols, cutoff=5.0, n_basis=3).double()
    generator = torch.Generator().manual_seed(seed)
    return kind(model, distances, Bounds(), torch.full((len(symbols),), -2.0), generator).double()


def measured(*pairs: tuple[str, str, float, int]) -> dict:
    return {(a, b): PairDistances(r, 0.9 * r, contact(a, b), n) for a, b, r, n in pairs}


@pytest.mark.parametrize("kind", [FactorisedEAM, CorrectedEAM])
@pytest.mark.parametrize("count", [3, 500])
def test_one_element_is_the_pairwise_fit(kind: type[FactorisedEAM], count: int) -> None:
    distances = measured(("Cu", "Cu", 2.6, count))
    one, other = (search(k, ["Cu"], distances).parameters_of_eam() for k in (kind, BoundedEAM))
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_two_elements_with_corrections_reach_every_pairwise_eam() -> None:
    distances = measured(("O", "O", 2.6, 400), ("O", "Si", 1.6, 300), ("Si", "Si", 3.1, 200))
    free = search(BoundedEAM, ["Si", "O"], distances, seed=5)  # pairs Si-O, Si-Si, O-O
    corrected = search(CorrectedEAM, ["Si", "O"], distances)
    with torch.no_grad():
        for name in PAIR_VARIABLES:
            of_pairs = getattr(free, name)
            getattr(corrected, name).copy_(of_pairs[1:])
        for name in PAIR_VARIABLES:
            corrected.corrections[name].copy_((getattr(free, name) - corrected.pair_variables()[name])[:1])
        for name in ("curvature", "balance", "base_atomic_energy"):
            getattr(corrected, name).copy_(getattr(free, name))
    one, other = corrected.parameters_of_eam(), free.parameters_of_eam()
    for name in other:
        torch.testing.assert_close(one[name], other[name], rtol=1e-12, atol=1e-12)


def test_unlike_elements_bind_otherwise_and_equals_do_not() -> None:
    distances = measured(("Li", "Li", 3.0, 100), ("Li", "F", 2.0, 100), ("F", "F", 2.8, 100))
    model = search(FactorisedEAM, ["Li", "F"], distances)
    before = model.parameters_of_eam()
    with torch.no_grad():
        model.weights[0, 0] = 1.0  # electronegativity on depth
    after = model.parameters_of_eam()
    assert after["D"][0] > 1.2 * before["D"][0]
    assert torch.equal(after["D"][1:], before["D"][1:])
    assert torch.equal(after["alpha"], before["alpha"])


def test_radii_add_up_to_the_bonds_and_rare_pairs_follow_them() -> None:
    elements = ["Na", "Cl", "K"]
    distances = measured(("Na", "Cl", 2.8, 500), ("K", "Cl", 3.1, 500), ("Na", "K", 5.0, 2))
    radii = additive_radii(elements, distances)
    assert radii["Na"] + radii["Cl"] == pytest.approx(2.8, abs=0.03)
    assert radii["K"] + radii["Cl"] == pytest.approx(3.1, abs=0.03)
    model = search(FactorisedEAM, elements, distances)
    typical = dict(zip(EAM(elements).pairs, model.typical.tolist(), strict=True))
    assert typical["Na", "Cl"] == pytest.approx(2.8, abs=0.03)
    assert typical["Na", "K"] == pytest.approx(radii["Na"] + radii["K"], abs=0.1)


def test_many_elements(alloys: list[Atoms], tmp_path: Path) -> None:
    model = fit_eam(alloys, **QUICK, directory=tmp_path)
    fit, examination = model.metadata["fit"], model.metadata["examination"]
    assert fit["pairs"] == "factorised"
    assert fit["parameters"] == len(METALS) * (3 + 2 * 2 + 3 + 4) + 16
    assert fit["val_errors"]["n_structures"] == 2, "a tenth judges"
    assert examination["forces"]["unseen"]
    assert examination["forces"]["structures"] == 2
    assert examination["passed"], examination["failures"]
    # 10 neighbours of the chain and 11 with themselves are there
    assert len(examination["extrapolated"]) == 66 - 21
    assert "Li-Pt" in examination["extrapolated"]
    assert not any(pair["extrapolated"] for pair in examination["pairs"]), "only what fails is listed"
    assert load_model(tmp_path / "teacher.pt", expect="eam").metadata["examination"] == examination

    strangers = [alloy("Li", "Pt", np.random.default_rng(3), "strange")]
    forces = label(strangers, model)[0].get_forces()
    assert np.abs(forces).max() < 50
    pairwise = fit_eam(alloys, **QUICK, pairs="pairwise")
    assert pairwise.metadata["fit"]["parameters"] == 66 * 7 + 33


def test_a_tenth_judges_also_where_all_have_one_composition(alloys: list[Atoms]) -> None:
    rng = np.random.default_rng(0)
    cell = Atoms(METALS, positions=3.2 * np.array([[k % 3, k // 3 % 3, k // 9] for k in range(11)]), cell=[9.6] * 3)
    frames = []
    for k in range(10):
        frame = cell.copy()
        frame.pbc = True
        frame.positions += rng.normal(scale=0.1, size=frame.positions.shape)
        frame.info["structure_id"] = f"alloy-{k}"
        frames.append(frame)
    model = fit_eam(list(label(frames, truth())), **QUICK)
    assert model.metadata["examination"]["forces"]["unseen"]
    assert model.metadata["fit"]["val_errors"]["n_structures"] == 1


def test_the_choice_of_pairs(alloys: list[Atoms]) -> None:
    few = [a for a in alloys if set(a.symbols) <= {"Li", "Al"}]
    fits = {pairs: fit_eam(few, **QUICK, pairs=pairs) for pairs in ("auto", "pairwise", "factorised", "corrected")}
    names = ("D", "rm", "A", "rho0")
    assert all(torch.equal(getattr(fits["auto"], n), getattr(fits["pairwise"], n)) for n in names)
    assert not torch.equal(fits["factorised"].D, fits["pairwise"].D)
    three = fit_eam([a for a in alloys if set(a.symbols) <= {"Li", "Al", "Ca"}], **QUICK)
    assert three.metadata["fit"]["pairs"] == "corrected"
    assert three.metadata["examination"]["extrapolated"] == ["Li-Ca"]
    assert fit_eam(alloys, **QUICK, preset="paper").metadata["fit"]["pairs"] == "pairwise"
    with pytest.raises(ConfigError, match="pairs must be one of auto, pairwise, factorised, corrected, not 'mixed'"):
        fit_eam(few, pairs="mixed")
    with pytest.raises(ConfigError, match="the preset 'paper' is pairwise"):
        fit_eam(few, preset="paper", pairs="factorised")


def test_only_pairs_that_failed_are_tightened() -> None:
    elements = ["Li", "F", "K"]
    eam = EAM(elements, cutoff=5.0, n_basis=3).double()
    energies = torch.full((3,), -2.0, dtype=torch.float64)

    def parameters(kind: type[BoundedEAM], bounds: Bounds, tightened: dict) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        return kind(eam, {}, bounds, energies, generator, tightened).parameters_of_eam()

    for kind in (BoundedEAM, FactorisedEAM):
        loose, once = parameters(kind, Bounds(), {}), parameters(kind, Bounds(), {("Li", "K"): 2})
        changed = [pair for pair, a, b in zip(eam.pairs, loose["D"], once["D"], strict=True) if a != b]
        assert changed == [("Li", "K")]
        assert once["D"][eam.pairs.index(("Li", "K"))] >= Bounds().tightened(2).depth[0]
        assert (once["rho0"][[0, 2]] <= Bounds().tightened(2).balance[1]).all()
        assert once["rho0"][1] == loose["rho0"][1]
        of_equals = parameters(kind, Bounds(), {("Li", "Li"): 1})
        changed = [pair for pair, a, b in zip(eam.pairs, loose["D"], of_equals["D"], strict=True) if a != b]
        assert changed == [("Li", "Li")], "what Li lends to other pairs stays"
        everywhere = parameters(kind, Bounds(), dict.fromkeys(eam.pairs, 1))
        all_at_once = parameters(kind, Bounds().tightened(), {})
        assert all(torch.equal(everywhere[name], all_at_once[name]) for name in all_at_once)


def test_cores_of_pairs_that_are_hardly_shown_end_where_those_of_the_others_do() -> None:
    def distances(closest: float) -> dict:
        shown = {(a, b): contact(a, b) for a, b in itertools.pairwise(METALS)}
        data = {pair: PairDistances(c, closest * c, c, 500) for pair, c in shown.items()}
        rare = contact("Li", "Pt")
        return data | {("Li", "Pt"): PairDistances(rare, 0.9 * rare, rare, 3)}

    compressed = core_ends(distances(0.7), METALS)
    assert compressed["Li-Al"] == pytest.approx(0.98 * 0.7 * contact("Li", "Al"), abs=1e-4)
    assert compressed["Li-Pt"] == pytest.approx(0.98 * 0.7 * contact("Li", "Pt"), abs=1e-4)
    assert compressed["Li-W"] == pytest.approx(0.98 * 0.7 * contact("Li", "W"), abs=1e-4)
    assert "Li-W" not in core_ends(distances(0.7)), "few elements: as the data have them"
    own = core_ends(distances(0.7), METALS, long={("Li", "Pt")})
    assert own["Li-Pt"] == pytest.approx(0.98 * 0.9 * contact("Li", "Pt"), abs=1e-4)
    relaxed = core_ends(distances(1.2), METALS)
    assert relaxed["Li-Pt"] == pytest.approx(0.98 * 0.9 * contact("Li", "Pt"), abs=1e-4), "never longer than its own"


def test_pairs_that_explode_get_smaller_exponents() -> None:
    eam = EAM(["Li", "F"], cutoff=5.0, n_basis=3).double()
    energies = torch.full((2,), -2.0, dtype=torch.float64)
    for kind in (BoundedEAM, FactorisedEAM):
        before, after = (
            kind(eam, {}, Bounds(), energies, torch.Generator().manual_seed(0), {}, softened).parameters_of_eam()
            for softened in ({}, {("Li", "F"): 2})
        )
        assert after["alpha"][0].item() == pytest.approx((6 / 7) ** 2 * before["alpha"][0].item())
        assert (after["beta"][0] < before["beta"][0]).all()
        assert torch.equal(after["alpha"][1:], before["alpha"][1:])


def test_bounds_that_are_narrow_are_not_loosened() -> None:
    narrow = Bounds(depth=(3.0, 4.0), balance=(0.1, 0.15))
    assert narrow.tightened(3) == narrow


def test_pairs_that_are_no_bonds_may_be_flat_among_many_elements() -> None:
    def lowest_depths(elements: list[str], tightened: dict) -> dict[tuple[str, str], float]:
        bonds = [pair for pair in itertools.combinations_with_replacement(elements, 2) if pair != tuple(elements[:2])]
        data = {pair: PairDistances(contact(*pair), 0.9 * contact(*pair), contact(*pair), 90) for pair in bonds[1:]}
        apart = 1.5 * contact(*elements[:2])
        data[elements[0], elements[1]] = PairDistances(apart, apart, contact(*elements[:2]), 90)
        eam = EAM(elements, cutoff=6.0, n_basis=2).double()
        energies = torch.zeros(len(elements), dtype=torch.float64)
        search = FactorisedEAM(eam, data, Bounds(), energies, torch.Generator().manual_seed(0), tightened)
        with torch.no_grad():
            search.depth.fill_(-50.0)
        return dict(zip(eam.pairs, search.parameters_of_eam()["D"].tolist(), strict=True))

    apart, never_shown, bond = (METALS[0], METALS[1]), (METALS[0], METALS[0]), (METALS[1], METALS[2])
    many = lowest_depths(METALS, {})
    assert (many[apart], many[never_shown], many[bond]) == pytest.approx((0.03, 0.03, 0.3))
    failed = [lowest_depths(METALS, {apart: times})[apart] for times in (1, 2)]
    assert failed == pytest.approx([0.3, 0.6]), "as a bond, once it failed"
    assert lowest_depths(METALS[:8], {})[apart] == pytest.approx(0.3), "few elements: every pair has a well"


def test_the_fit_mends_the_pairs_that_the_examination_names(
    alloys: list[Atoms], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, seen = fit.examine, []

    def strict(model: EAM, structures: list[Atoms], **options: object) -> Examination:
        examination = real(model, structures, **options)
        pairs = [replace(v, passed=v.passed and (v.pair != "Ni-Cu" or bool(seen))) for v in examination.pairs]
        seen.append(model.D.detach().clone())
        failures = [v.pair for v in pairs if not v.passed]
        return replace(examination, passed=not failures, failures=failures, pairs=pairs)

    monkeypatch.setattr(fit, "examine", strict)
    model = fit_eam(alloys, **QUICK)
    assert model.metadata["fit"]["attempts"] == 2
    assert model.metadata["fit"]["tightened"] == {"Ni-Cu": 1}
    assert model.D[model.pairs.index(("Ni", "Cu"))] >= Bounds().tightened().depth[0]
    assert model.D.min().item() < Bounds().tightened().depth[0], "the others stay free"


def test_a_well_is_not_asked_of_pairs_among_many_elements(alloys: list[Atoms]) -> None:
    # every pair repels at all distances: no well anywhere
    repulsive = EAM(METALS, cutoff=5.5, n_basis=1).double()
    with torch.no_grad():
        repulsive.D.fill_(0.3)
        repulsive.alpha.fill_(2.0)
        repulsive.rm.fill_(7.0)
    assert not any("bonds at" in failure for failure in examine(repulsive, alloys).failures)
    few = [a for a in alloys if set(a.symbols) <= {"Li", "Al"}]
    assert any("bonds at" in failure for failure in examine(repulsive, few).failures), "the data decide what is many"
    examined = {v.pair: v for v in examine(repulsive, alloys).pairs}
    distance = nearest_distances(alloys, 5.5)["Li", "Li"].typical
    assert examined["Li-Li"].data_distance == distance > contact("Li", "Li")


def test_elements_that_a_checkpoint_knows_besides_do_not_matter(alloys: list[Atoms]) -> None:
    model = truth()
    with torch.no_grad():
        model.D[model.pairs.index(("Ba", "Pt"))] = 1e4
    few = [a for a in alloys if set(a.symbols) <= {"Li", "Al"}]
    assert not examine(model, few).passed
    assert EAMTeacher().examine(model, few).extrapolated == []
    assert not any("Ba-Pt" in failure for failure in EAMTeacher().examine(model, few).failures)


def test_a_table_of_many_pairs_shows_those_that_failed(alloys: list[Atoms]) -> None:
    examination = examine(truth(), alloys)
    one = examination.pairs[0]
    many = [replace(one, pair=f"X-{k}", passed=k == 99, n_bonds=k) for k in range(100)]
    many[5] = replace(one, pair="X-5", passed=False, n_bonds=0)
    many = [replace(v, passed=v.pair != "X-5") for v in many]
    table = replace(examination, pairs=many).table()
    names = list(table.columns[0].cells)
    assert "X-5" in names
    assert names[-1] == "X-99"
    assert len(names) == 72
    assert "28 more pairs passed" in str(table.caption)


def test_elements_that_only_val_has(alloys: list[Atoms]) -> None:
    train = [a for a in alloys if "Pt" not in a.symbols]
    with pytest.raises(StructureError, match=r"Pt occur in val but not in the training structures \(val: W-Pt-0, W-Pt"):
        fit_eam(train, val=alloys[-4:], **QUICK)
    with pytest.raises(StructureError, match=r"Li occur in the training structures but not in elements"):
        fit_eam(train, elements=METALS[1:], **QUICK)
    for elements, words in (
        ("LiAl", "not 'LiAl'"),
        (["Li", "Foo"], "not 'Foo'"),
        ([3, 13], "not '3'"),
        ([*METALS, "Li"], "Li is there twice"),
        ([], "Li, .* occur"),
    ):
        with pytest.raises((ConfigError, StructureError), match=words):
            fit_eam(train, elements=elements, **QUICK)
    bare = [Atoms(a.symbols, positions=a.positions, cell=a.cell, pbc=True) for a in train[:2]]
    with pytest.raises(StructureError, match=r"val: no structure has an energy"):
        fit_eam(train, val=bare, **QUICK)
    model = fit_eam(train, val=alloys[-4:], elements=METALS, **QUICK)
    assert "Pt-Pt" in model.metadata["examination"]["extrapolated"]
    assert np.isfinite(label(alloys[-1:], model)[0].get_forces()).all()


def absurd(alloys: list[Atoms], depth: float) -> EAM:
    model = EAM(METALS, cutoff=5.5, n_basis=1).double()
    with torch.no_grad():
        model.D.fill_(depth)
        model.alpha.fill_(2.0)
    model.metadata = {"examination": examine(model, alloys).to_dict()}
    return model


def test_a_teacher_that_is_wrong_by_orders_of_magnitude_is_not_called_sound(alloys: list[Atoms]) -> None:
    examination = absurd(alloys, 300.0).metadata["examination"]
    assert examination["forces"]["teaches"] == "nothing"
    assert any("no force at all has" in failure for failure in examination["failures"])
    with pytest.raises(TeacherRefused, match="force error of"):
        label(alloys, absurd(alloys, 300.0))
    good = truth()
    far = [set_labels(a.copy(), Labels(0.0, 1e-3 * get_labels(a).forces)) for a in alloys]
    assert force_verdict(good, alloys, unseen=False)["teaches"] == "all"
    assert force_verdict(good, far, unseen=True)["trivial"] == pytest.approx(
        1e-3 * force_verdict(good, alloys, unseen=True)["trivial"]
    )


def test_a_teacher_of_the_core_alone_is_damped_to_it(alloys: list[Atoms]) -> None:
    model = truth()
    model.metadata = {"examination": examine(model, alloys).to_dict()}
    # of alloys[::2] no two are frames of a material
    assert trusted_teacher(model, alloys[::2])[0] is model
    model.metadata["examination"]["forces"]["teaches"] = "core"
    assert change_errors(model, alloys[::2], Augment(change_error="auto")) == ChangeErrors(1.0)
    model.metadata["examination"]["forces"]["teaches"] = "all"
    assert change_errors(model, alloys[::2], Augment(change_error="auto")) is None
    model.metadata["examination"]["forces"]["teaches"] = "core"
    damped, skill = trusted_teacher(model, alloys[::2])
    assert skill.trust == 0.0
    assert [type(part).__name__ for part in damped.leaves()][-1] == "ZBL"


def test_labels_are_bounded_or_refused(alloys: list[Atoms]) -> None:
    model = absurd(alloys, 1.0)
    with torch.no_grad():
        model.A.fill_(1e4)  # a density that explodes where atoms come close
        model.beta.fill_(2.0)
    close = alloys[0].copy()
    close.positions[1] = close.positions[0] + [0.6 * contact("Li", "Al"), 0, 0]
    model.metadata["examination"] |= {"passed": True, "max_force": 1000.0}
    with pytest.warns(UserWarning, match=r"failed on 1 of 2 structures; the first, Li-Al-0: force of .*beyond what"):
        kept = label([close, _apart()], model)
    assert [a.info["structure_id"] for a in kept] == ["apart"]
    model.metadata["examination"]["max_force"] = None  # a teacher without a core, as the paper's
    assert len(label([close, _apart()], model)) == 2


def _apart() -> Atoms:
    atoms = Atoms("Li2", positions=[[0, 0, 0], [0, 0, 5.4]])
    atoms.info["structure_id"] = "apart"
    return atoms


def test_bins_of_coverage_grow_with_the_elements_not_their_pairs() -> None:
    def bins(n: int) -> int:
        symbols = ["Li", "Be", "B", "C", "N", "O", "F", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "K", "Ca"][:n]
        rng = np.random.default_rng(0)
        atoms = Atoms(symbols * 2, positions=rng.uniform(0, 9, (2 * n, 3)), cell=[9, 9, 9], pbc=True)
        return len(coverage_table([atoms], inner=0.3))

    eight, sixteen = bins(8), bins(16)
    assert sixteen < 2.6 * eight, "all pairs would be 3.8 times as many"


def test_structures_that_cover_do_not_grow_with_the_elements_above_eight() -> None:
    assert [per_bin_of(5, n, n * (n + 1) // 2) for n in (1, 8, 9, 16, 40, 85)] == [5, 5, 4, 2, 1, 1]
    assert per_bin_of(5, 16, 24) == 5, "few pairs of many elements are not many"
    symbols = ["Li", "Be", "B", "C", "N", "O", "F", "Na", "Mg", "Al", "Si", "P", "S", "Cl", "K", "Ca"]

    def structures(n: int) -> list[Atoms]:
        rng = np.random.default_rng(0)
        positions = rng.uniform(0, 9, (2 * n, 3))
        return [Atoms(symbols[:n] * 2, positions=positions, cell=[9, 9, 9], pbc=True, info={"structure_id": "a"})]

    table = coverage_table(structures(16), inner=0.3, width=0.6)
    assert set(table["wanted"]) == {2}
    counts = {}
    for n in (8, 16):
        children = cover(structures(n), inner=0.3, width=0.6)
        counts[n] = len(children) + sum(children.missing.values())
    assert counts[16] == 2 * len(table)
    assert counts[16] < 1.3 * counts[8]
    given = cover(structures(16), bins=table[table["pair"] == "Li-Ca"], inner=0.3, per_bin=3)
    wanted = 3 * (table["pair"] == "Li-Ca").sum()
    assert len(given) + sum(given.missing.values()) == wanted, "of bins that are asked for all are made"


def test_a_classical_force_field_of_too_many_elements_is_refused(alloys: list[Atoms]) -> None:
    with pytest.raises(ConfigError, match=r"of 11 elements has 11286 strengths .*more than 6000.*fit an EAM"):
        fit_classical(alloys)


def test_a_part_of_the_elements_is_the_same_potential(alloys: list[Atoms], tmp_path: Path) -> None:
    whole = absurd(alloys, 0.7)
    with torch.no_grad():
        whole.D.copy_(torch.linspace(0.3, 0.9, len(whole.pairs)))
    part = whole.restricted(["Pt", "W"])
    one, other = (label(alloys[-1:], model, force=True)[0] for model in (whole, part))
    assert one.get_potential_energy() == pytest.approx(other.get_potential_energy(), abs=1e-12)
    assert np.abs(one.get_forces() - other.get_forces()).max() < 1e-12
    file = write_eam_fs(whole, tmp_path / "part.eam.fs", n_r=200, n_rho=200, elements=["Pt", "W"])
    assert file.read_text().splitlines()[3] == "2 Pt W"
    with pytest.raises(ConfigError, match="this EAM has no O, only Li, Al"):
        write_eam_fs(whole, tmp_path / "no.eam.fs", elements=["O"])
    assert not (tmp_path / "no.eam.fs").exists()
