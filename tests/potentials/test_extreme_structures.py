"""Neighbour lists of structures that nobody expects: equal to brute force, or refused in one line, never a crash."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from small_potentials import small

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.graphs import neighbour_lists
from mdl_physpretrain.graphs.batch import build_batch
from mdl_physpretrain.graphs.neighbour_lists import neighbour_list
from mdl_physpretrain.potentials import predict

CUTOFF = 4.0


def brute_force(atoms: Atoms, cutoff: float) -> list[tuple[int, int, tuple[float, ...]]]:
    """Every directed edge, by trying all images within the cutoff."""
    from ase.geometry import complete_cell

    box = complete_cell(atoms.cell.array)
    heights = abs(np.linalg.det(box)) / np.linalg.norm(np.cross(box[[1, 2, 0]], box[[2, 0, 1]]), axis=1)
    spread = np.ptp(np.linalg.solve(box.T, atoms.positions.T), axis=1)
    ranges = [range(-k, k + 1) for k in (np.ceil(cutoff / heights + spread) * atoms.pbc).astype(int)]
    edges = []
    for shift in itertools.product(*ranges):
        vectors = atoms.positions[None] - atoms.positions[:, None] + np.array(shift) @ box
        distances = np.linalg.norm(vectors, axis=2)
        for i, j in np.argwhere(distances < cutoff):
            if i != j or any(shift):
                edges.append((int(i), int(j), tuple(np.round(vectors[i, j], 6) + 0.0)))
    return sorted(edges)


def spread_out() -> dict[str, Atoms]:
    slab = fcc111("Cu", (2, 2, 2), vacuum=5.0)
    slab += Atoms("Cu", [[1.0, 2.0, 40_000.0]])
    chain = Atoms("Si2", [[0, 0, 0], [2.2, 0.3, 0]], cell=[4.6, 0, 0], pbc=(True, False, False))
    chain += Atoms("Si2", [[1, 3000.0, -7000], [3, 3001.0, -7001]])
    tilted = Atoms("Si3", [[0, 0, 0], [2, 1, 0.5], [500.0, -900, 700]], cell=[[4, 1, 0], [0.5, 5, 1], [0, 0, 0]])
    tilted.pbc = (True, True, False)
    water = molecule("H2O")
    water += Atoms("H", [[9000.0, -20_000.0, 100.0]])
    return {
        "slab": slab,
        "chain": chain,
        "tilted": tilted,
        "cluster": water,
        "line": Atoms("H8", [[0, 0, z] for z in (0.0, 1, 2.5, 1000, 1001, 5000, 5003.9, 60_000)]),
        "on top": Atoms("H2", [[1.0, 1, 1], [1, 1, 1]], cell=[3, 3, 3], pbc=True),
        "vector without direction": Atoms("H2", [[0, 0, 0], [0, 0, 1]], cell=[[3, 0, 0], [0, 0, 0], [1e300, 0, 0]]),
        "open cell that is flat": Atoms("H2", [[0, 0, 0], [0, 0, 1]], cell=[[3, 0, 0], [0, 3, 0], [3, 3, 0]]),
    }


@pytest.mark.parametrize("name", spread_out())
def test_lists_equal_brute_force(name: str) -> None:
    atoms = spread_out()[name]
    if name == "vector without direction":
        atoms.pbc = (True, False, False)
    if name == "open cell that is flat":
        atoms.pbc = (True, True, False)
    usual = atoms.copy()
    if name in ("vector without direction", "open cell that is flat"):
        usual.cell = np.diag(np.diag(atoms.cell.array) * atoms.pbc)
    began = time.process_time()
    (i, j), shifts = neighbour_list(atoms.positions, atoms.cell.array, atoms.pbc, CUTOFF)
    assert time.process_time() - began < 5.0
    vectors = atoms.positions[j] - atoms.positions[i] + shifts @ np.where(atoms.pbc[:, None], atoms.cell.array, 0.0)
    found = sorted((int(a), int(b), tuple(np.round(v, 6) + 0.0)) for a, b, v in zip(i, j, vectors, strict=True))
    assert found == brute_force(usual, CUTOFF)


@pytest.mark.parametrize("pbc", [True, False])
@pytest.mark.parametrize("cutoff", [1e-9, 1e-6, 1e-3, 0.5])
def test_a_tiny_cutoff(cutoff: float, pbc: bool) -> None:
    atoms = Atoms("H3", [[0, 0, 0], [0, 0, 0.9 * cutoff], [0, 0, 2]], cell=[3, 3, 3], pbc=pbc)
    (i, j), _ = neighbour_list(atoms.positions, atoms.cell.array, atoms.pbc, cutoff)
    assert sorted(zip(i.tolist(), j.tolist(), strict=True)) == [(0, 1), (1, 0)]


IMPOSSIBLE = {
    "NaN cell": {"cell": np.full((3, 3), np.nan)},
    "infinite cell": {"cell": np.diag([3, 3, np.inf])},
    "1e300": {"cell": np.diag([3, 3, 1e300])},
    "1e300 everywhere": {"cell": np.diag([1e300] * 3)},
    "1e-300": {"cell": np.diag([3, 3, 1e-300])},
    "flat": {"cell": np.diag([3, 3, 1e-4])},
    "flat, tilted": {"cell": [[3, 0, 0], [0, 3, 0], [3, 3, 1e-5]]},
    "nearly parallel": {"cell": [[3, 0, 0], [3, 1e-3, 0], [0, 0, 3]]},
    "no vector": {"cell": np.diag([3, 3, 0])},
    "coordinates of 1e15": {"positions": [[0, 0, 0], [0, 1e15, 0]]},
    "coordinates of 1e300": {"positions": [[0, 0, 0], [0, 1e300, 0]]},
    "NaN coordinate": {"positions": [[0, 0, 0], [0, np.nan, 0]]},
    "infinite coordinate": {"positions": [[0, 0, 0], [0, -np.inf, 0]]},
}


@pytest.mark.parametrize("pbc", [(1, 1, 1), (1, 1, 0), (0, 0, 1), (0, 0, 0)], ids=str)
@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_impossible_geometries_end_with_one_line(what: str, pbc: tuple[int, int, int]) -> None:
    """Or are possible, where what is impossible does not matter; the process lives."""
    atoms = Atoms(
        "H2", **{"positions": [[0, 0, 0], [0, 0, 1]], "cell": np.diag([3.0] * 3), **IMPOSSIBLE[what]}, pbc=pbc
    )
    began = time.process_time()
    try:
        build_batch(atoms, CUTOFF)
    except StructureError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either is right
    else:
        assert "coordinate" not in what
        assert not all(pbc)
    assert time.process_time() - began < 5.0


@pytest.mark.parametrize("cutoff", [200.0, 1e6, 1e300, np.inf])
@pytest.mark.parametrize("kind", ["bulk", "slab", "molecule"])
def test_cutoffs_that_no_memory_holds(kind: str, cutoff: float) -> None:
    atoms = {"bulk": bulk("Cu", cubic=True), "slab": fcc111("Cu", (2, 2, 2), vacuum=5.0), "molecule": molecule("H2O")}
    structure = atoms[kind]
    began = time.process_time()
    if kind == "molecule":
        assert len(neighbour_list(structure.positions, structure.cell.array, structure.pbc, cutoff)[1]) == 6
    else:
        try:
            neighbour_list(structure.positions, structure.cell.array, structure.pbc, cutoff)
        except StructureError as error:
            assert "too many" in str(error)  # noqa: PT017 - a reach of 200 Å of few atoms is possible
        else:
            assert cutoff == 200.0
    assert time.process_time() - began < 60.0


@pytest.mark.parametrize("pbc", [(1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 0, 0)], ids=str)
def test_open_structures_far_smaller_than_the_cutoff(pbc: tuple[int, int, int]) -> None:
    """The search must not go through space where nothing is."""
    atoms = Atoms("H2", [[0, 0, 0], [1, 0, 0]], cell=np.diag([600.0, 600.0, 0.0] * np.array(pbc)), pbc=pbc)
    began = time.process_time()
    (i, j), shifts = neighbour_list(atoms.positions, atoms.cell.array, atoms.pbc, 1e4)
    assert time.process_time() - began < 5.0
    vectors = atoms.positions[j] - atoms.positions[i] + shifts @ atoms.cell.array
    edges = sorted((int(a), int(b), tuple(np.round(v, 6) + 0.0)) for a, b, v in zip(i, j, vectors, strict=True))
    assert edges == brute_force(atoms, 1e4)


def test_looking_at_all_pairs_is_the_same(zoo: dict[str, Atoms], monkeypatch: pytest.MonkeyPatch) -> None:
    for atoms in (*spread_out().values(), *zoo.values()):
        lists = []
        for limit in (neighbour_lists.MAX_SEARCH, -1.0):
            with monkeypatch.context() as patch:
                patch.setattr(neighbour_lists, "MAX_SEARCH", limit)
                (i, j), s = neighbour_list(atoms.positions, atoms.cell.array, atoms.pbc, CUTOFF)
            lists.append(sorted(zip(i.tolist(), j.tolist(), map(tuple, s.tolist()), strict=True)))
        assert lists[0] == lists[1]


@pytest.mark.parametrize("name", ["eam", "cgcnn"])
def test_labels_of_impossible_structures(name: str) -> None:
    """Kernels of their own look at the geometry, too."""
    from mdl_physpretrain.teacher.label import label

    model = small(name)
    good = bulk("MgO", "rocksalt", a=4.2, cubic=True)
    bad = []
    for what, change in IMPOSSIBLE.items():
        atoms = Atoms("MgO", **{"positions": [[0, 0, 0], [0, 0, 1.9]], "cell": np.diag([3.0] * 3), **change}, pbc=True)
        atoms.info["structure_id"] = what
        bad.append(atoms)
    with pytest.warns(UserWarning, match=f"{len(bad)} of {len(bad) + 1}"):
        found = label([good, *bad], model)
    assert len(found) == 1
    assert all("\n" not in failure.reason for failure in found.failures)


def test_predictions_of_far_atoms_are_those_of_near_ones() -> None:
    model = small("cgcnn")
    near = fcc111("Al", (2, 2, 2), vacuum=5.0)
    near.rattle(0.1, seed=1)
    far = near + Atoms("Al", [[0, 0, 30_000.0]])
    forces = predict(model, build_batch(near, model.cutoff, model.dtype)).forces
    assert np.allclose(predict(model, build_batch(far, model.cutoff, model.dtype)).forces[:-1], forces, atol=1e-10)


def test_a_crash_would_end_the_process() -> None:
    """What killed Python (SIGFPE) is tried in another process, too."""
    code = (
        "import numpy as np\nfrom mdl_physpretrain.graphs.neighbour_lists import neighbour_list\n"
        "from mdl_physpretrain.errors import StructureError\n"
        "for h in 10.0 ** -np.arange(2, 300, 7):\n"
        "    for pbc in ((1, 1, 1), (0, 0, 1), (1, 1, 0)):\n"
        "        try: neighbour_list(np.zeros((1, 3)), np.diag([3, 3, h]), np.array(pbc, bool), 5.0)\n"
        "        except StructureError: pass\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=300).returncode == 0
