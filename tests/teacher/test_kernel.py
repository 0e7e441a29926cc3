"""The machine code gives the numbers of the readable formula, for labels and for the fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.graphs.batch import build_batch, collate
from mdl_physpretrain.potentials import EAM, predict
from mdl_physpretrain.potentials.eam import labels as kernel_labels
from mdl_physpretrain.potentials.eam.labels import EAMKernel
from mdl_physpretrain.potentials.eam.pair_functions import exp
from mdl_physpretrain.potentials.error_metrics import ErrorSums
from mdl_physpretrain.potentials.switch import quintic_switch
from mdl_physpretrain.potentials.zbl_kernel import switch
from mdl_physpretrain.structures.labels import Labels, set_labels
from mdl_physpretrain.teacher import fit_eam, label
from mdl_physpretrain.teacher.objective import EAMObjective
from mdl_physpretrain.training.loss import EFSLoss

WEIGHTS = (0.01, 50.0, 50.0)
SYMBOLS = ["O", "Mg", "Si", "Al"]


def potential(symbols: list[str], cutoff: float = 5.0, core: bool = True, n_basis: int = 3) -> EAM:
    torch.manual_seed(len(symbols))
    model = EAM(symbols, cutoff=cutoff, n_basis=n_basis, core=core).double()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1 + 0.3 * torch.rand_like(p))
    return model.eval()


def reference(model: EAM, atoms: Atoms) -> tuple[float, np.ndarray, np.ndarray]:
    out = predict(model, build_batch(atoms, model.cutoff, torch.float64))
    return float(out.energy.detach()), out.forces.detach().numpy(), out.stress[0].detach().numpy()


def assert_same(found: Labels, model: EAM, atoms: Atoms) -> None:
    energy, forces, stress = reference(model, atoms)
    assert found.energy == pytest.approx(energy, rel=1e-11, abs=1e-11)
    np.testing.assert_allclose(found.forces, forces, atol=1e-11 * max(1.0, np.abs(forces).max()))
    if found.stress is None:
        assert abs(np.linalg.det(atoms.cell.array)) < 1e-9
    else:
        np.testing.assert_allclose(found.stress, stress, atol=1e-11 * max(1.0, np.abs(stress).max()))


def labels(model: EAM, structures: list[Atoms], threads: int = 1) -> list[Labels | None]:
    return [one for part in model.label_kernel().stream(structures, threads) for _, one in part]


def random_cell(seed: int, n: int = 7, pbc: tuple[bool, bool, bool] = (True, True, True)) -> Atoms:
    rng = np.random.default_rng(seed)
    cell = rng.normal(size=(3, 3)) * 2 + np.diag([4.5, 5.0, 6.0])
    if seed % 2:
        cell[0] *= -1  # left-handed
    atoms = Atoms(rng.choice(SYMBOLS, n), cell=cell, pbc=pbc)
    atoms.positions = rng.normal(scale=9.0, size=(n, 3))  # far outside the cell, too
    return atoms


def test_exponential_and_switch() -> None:
    x = np.concatenate([np.linspace(-700, 700, 5001), [0.0, 1e-300]])
    found = np.array([exp(v) for v in x])
    assert np.abs(found / np.exp(x) - 1).max() < 5e-16
    assert exp(-1e4) < 1e-300
    assert exp(1e4) == np.inf
    assert np.isnan(exp(np.nan))
    r = torch.linspace(0, 9, 400, dtype=torch.float64)
    value, slope = quintic_switch(r, 5.0, 8.0)
    ours = np.array([switch(v, 5.0, 8.0) for v in r.numpy()])
    np.testing.assert_allclose(ours.T, [value.numpy(), slope.numpy()], atol=1e-15)


@pytest.mark.parametrize("core", [True, False])
@pytest.mark.parametrize("pbc", [(True, True, True), (True, True, False), (False, True, False), (False, False, False)])
def test_any_cell_and_periodicity(pbc: tuple[bool, bool, bool], core: bool) -> None:
    model = potential(SYMBOLS, core=core)
    structures = [random_cell(seed, pbc=pbc) for seed in range(10)]
    found = labels(model, structures)
    assert all(one is not None for one in found)
    for atoms, one in zip(structures, found, strict=True):
        assert_same(one, model, atoms)


def test_small_skewed_and_open_cells() -> None:
    model = potential(["O"], cutoff=6.0)
    skewed = Atoms("O2", [[0, 0, 0], [0.3, 1.2, 0.9]], cell=[[2.2, 0, 0], [7.5, 2.1, 0], [-6.0, 5.0, 2.3]], pbc=True)
    structures = [
        bulk("O", "sc", a=1.9),  # one atom, hundreds of its own images
        skewed,
        Atoms("O"),
        Atoms("O3", [[0, 0, 0], [0, 0, 1.1], [0, 1.0, 0]]),
        Atoms("O2", [[0, 0, 0], [0, 0, 1.1]], cell=[0, 0, 2.0], pbc=[False, False, True]),
        Atoms("O2", [[0, 0, 0], [0, 0, 1.1]], cell=[4, 4, 4]),
        Atoms("O2", [[0, 0, 0], [0, 0, 0]], cell=[8, 8, 8], pbc=True),  # on top of each other
    ]
    for atoms, one in zip(structures, labels(model, structures), strict=True):
        assert one is not None
        assert_same(one, model, atoms)


def test_large_structures_take_the_cell_list(monkeypatch: pytest.MonkeyPatch) -> None:
    model = potential(SYMBOLS)
    structures = [random_cell(seed, n=30) for seed in range(4)]
    small = labels(model, structures)
    monkeypatch.setattr(kernel_labels, "MAX_ATOMS", 10)
    for atoms, one, other in zip(structures, small, labels(model, structures), strict=True):
        assert_same(other, model, atoms)
        np.testing.assert_allclose(other.forces, one.forces, atol=1e-10 * np.abs(one.forces).max())


def test_work_space_grows_with_the_structure() -> None:
    model = potential(["O", "Mg"], cutoff=8.0)
    atoms = bulk("MgO", "rocksalt", a=3.4, cubic=True).repeat(2)  # 18 000 pairs
    atoms.rattle(0.1, seed=0)
    first, second = labels(model, [atoms, bulk("MgO", "rocksalt", a=4.2)])
    assert_same(first, model, atoms)
    assert_same(second, model, bulk("MgO", "rocksalt", a=4.2))


def test_labels_do_not_depend_on_threads_or_company() -> None:
    model = potential(SYMBOLS)
    structures = [random_cell(seed, n=3 + seed % 5) for seed in range(40)]
    one, three = labels(model, structures), labels(model, structures, threads=3)
    alone = [labels(model, [a])[0] for a in structures]
    for a, b, c in zip(one, three, alone, strict=True):
        assert a.energy == b.energy == c.energy
        assert np.array_equal(a.forces, b.forces)
        assert np.array_equal(a.stress, c.stress)


def test_unusual_structures_fail_as_before() -> None:
    model = potential(["O"])
    good = Atoms("O2", [[0, 0, 0], [0, 0, 1.2]])
    bad = {
        "NaN or infinite value": Atoms("O2", [[0, 0, 0], [0, np.nan, 1]]),
        "zero volume": Atoms("O", cell=[[3, 0, 0], [6, 0, 0], [0, 0, 3]], pbc=True),
        "without a cell vector": Atoms("O", cell=[3, 3, 0], pbc=True),
        "exploded structure": Atoms("O2", [[0, 0, 0], [0, 0, 1e7]]),
    }
    with pytest.warns(UserWarning, match="4 of 5"):
        found = label([good, *bad.values()], model)
    assert len(found) == 1
    for (message, _), failure in zip(bad.items(), found.failures, strict=True):
        assert message in failure.reason
    with torch.no_grad():
        model.D.fill_(torch.nan)
    with pytest.raises(StructureError, match="NaN or infinite energy"):
        label([good], model)


def test_only_an_eam_in_double_precision_is_for_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(EAM):
        pass

    assert isinstance(potential(["O"]).labeller(), EAMKernel)
    assert potential(["O"]).float().labeller() is None
    assert Other(["O"]).double().labeller() is None
    used = []
    original = EAMKernel.stream
    monkeypatch.setattr(EAMKernel, "stream", lambda *a: used.append(1) or original(*a))
    label([Atoms("O2", [[0, 0, 0], [0, 0, 1.2]])], potential(["O"]))
    assert used == [1]


@pytest.fixture(scope="module")
def labelled() -> list[Atoms]:
    """Cells with random labels, of which some are missing."""
    rng = np.random.default_rng(0)
    structures = []
    for k in range(9):
        atoms = random_cell(k, n=4 + k % 4) if k else Atoms("OMg", [[0, 0, 0], [0, 0, 2.0]])
        forces = None if k == 3 else rng.normal(size=(len(atoms), 3))
        stress = None if k in (0, 4) else rng.normal(size=(3, 3))
        stress = None if stress is None else stress + stress.T
        structures.append(set_labels(atoms, Labels(None if k == 5 else float(rng.normal()), forces, stress)))
    return structures


@pytest.mark.parametrize("chosen", [[0], [3], [5, 4, 0], list(range(9))])
def test_loss_and_gradient_are_those_of_autograd(labelled: list[Atoms], chosen: list[int]) -> None:
    model = potential(SYMBOLS)
    loss, gradient = EAMObjective(model, labelled, WEIGHTS).loss(dict(model.named_parameters()), chosen)
    batch = collate([build_batch(labelled[k], model.cutoff, torch.float64) for k in chosen])
    expected = EFSLoss(*WEIGHTS)(predict(model, batch, create_graph=True), batch)
    expected.backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-12)
    assert set(gradient) == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        scale = float(parameter.grad.abs().max()) + 1e-12
        torch.testing.assert_close(gradient[name], parameter.grad, rtol=0, atol=1e-11 * scale, msg=name)


def test_errors_are_those_of_the_reference(labelled: list[Atoms]) -> None:
    model = potential(SYMBOLS)
    found = EAMObjective(model, labelled, WEIGHTS).errors(dict(model.named_parameters()))
    sums = ErrorSums()
    for atoms in labelled:
        batch = build_batch(atoms, model.cutoff, torch.float64)
        sums.add(predict(model, batch), batch)
    expected = sums.means(WEIGHTS)
    assert found == pytest.approx({**expected, "n_structures": 9}, rel=1e-12)


def test_objective_does_not_depend_on_threads(labelled: list[Atoms]) -> None:
    model = potential(SYMBOLS)
    parameters = dict(model.named_parameters())
    results = [EAMObjective(model, labelled, WEIGHTS, threads).loss(parameters, range(9)) for threads in (1, 2, 5)]
    for loss, gradient in results[1:]:
        assert loss == results[0][0]
        assert all(torch.equal(g, results[0][1][name]) for name, g in gradient.items())


def test_fit_repeats_bit_for_bit_with_any_number_of_threads(labelled: list[Atoms]) -> None:
    before = torch.get_num_threads()
    fits = []
    try:
        for threads in (1, 3, 3):
            torch.set_num_threads(threads)
            fits.append(fit_eam(labelled[1:3], cutoff=5.0, n_basis=2, epochs=3, elements=SYMBOLS))
    finally:
        torch.set_num_threads(before)
    for other in fits[1:]:
        assert all(torch.equal(a, b) for a, b in zip(fits[0].parameters(), other.parameters(), strict=True))


def test_structures_that_cannot_be_fitted_are_named(labelled: list[Atoms]) -> None:
    model = potential(["O", "Mg"])
    with pytest.raises(StructureError, match="unknown to this EAM"):
        EAMObjective(model, labelled, WEIGHTS)
    flat = Atoms("O", cell=[[3, 0, 0], [6, 0, 0], [0, 0, 3]], pbc=True)
    with pytest.raises(StructureError, match="zero volume"):
        EAMObjective(model, [flat], WEIGHTS)


def test_real_structures(shared_data: Path) -> None:
    from mdl_physpretrain.structures import read_structures

    structures = read_structures(shared_data / "lmo_train.extxyz")[::30]
    model = potential(["Li", "O", "Mn"], cutoff=8.0, n_basis=10)
    for atoms, one in zip(structures, labels(model, structures), strict=True):
        assert_same(one, model, atoms)
