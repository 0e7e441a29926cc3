"""Lists that vesin makes of tensors: those of the CPU's path, and none at all where they are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from labelled_cells import rocksalt_cells

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.graphs import device_lists as module
from mdl_physpretrain.graphs.device_lists import DeviceLists
from mdl_physpretrain.graphs.neighbour_lists import neighbour_list

CUTOFF = 4.5
Found = tuple[torch.Tensor, torch.Tensor]


def made(lists: DeviceLists, atoms: Atoms, cutoff: float = CUTOFF) -> Found | None:
    return lists(torch.as_tensor(atoms.positions), atoms.positions, atoms.cell.array, cutoff)


def rows(index: Any, shifts: Any) -> list[list[int]]:
    return sorted(np.concatenate([np.asarray(index), np.asarray(shifts).T]).T.astype(int).tolist())


def without_the_last(found: Found) -> Found:
    return found[0][:, :-1], found[1][:-1]


def with_the_first_twice(found: Found) -> Found:
    return torch.cat([found[0][:, :1], found[0]], dim=1), torch.cat([found[1][:1], found[1]])


def with_another_shift(found: Found) -> Found:
    shifts = found[1].clone()
    shifts[0, 2] += 1
    return found[0], shifts


def backwards(found: Found) -> Found:
    return found[0].flip(1), found[1].flip(0)


def test_they_are_the_cpus() -> None:
    lists = DeviceLists()
    triclinic = Atoms("SiOMg", [[0, 0, 0], [2, 1, 1], [3, 3, 7]], cell=[[5, 0, 0], [1, 4, 0], [-1, 1, 5]], pbc=True)
    for atoms in (*rocksalt_cells()[:3], triclinic):
        found = made(lists, atoms)
        assert found is not None
        assert found[0].dtype == torch.int64
        assert found[0].is_contiguous()
        assert (found[0][0].diff() >= 0).all()
        known = neighbour_list(atoms.positions, atoms.cell.array, atoms.pbc, CUTOFF)
        assert rows(*found) == rows(*known)
    assert lists.compared
    alone = made(lists, Atoms("Ar", cell=[20, 20, 20], pbc=True))
    assert alone is not None
    assert alone[0].shape == (2, 0)


@pytest.mark.parametrize("damage", [without_the_last, with_the_first_twice, with_another_shift, backwards])
def test_lists_of_another_kind_are_refused(damage: Callable[[Found], Found], monkeypatch) -> None:
    original, lists = module._vesin, DeviceLists()
    monkeypatch.setattr(module, "_vesin", lambda *arguments: damage(original(*arguments)))
    with pytest.warns(UserWarning, match="made on the CPU, not on the GPU: the first one is not the CPU's"):
        assert made(lists, rocksalt_cells()[0]) is None
    monkeypatch.undo()
    assert made(lists, rocksalt_cells()[0]) is None  # for good


def test_a_library_that_fails_is_told_once(monkeypatch) -> None:
    def broken(*arguments: Any) -> Found:
        raise OSError("libnvrtc.so.12: cannot open shared object file")

    monkeypatch.setattr(module, "_vesin", broken)
    lists = DeviceLists()
    with pytest.warns(UserWarning, match="libnvrtc") as caught:
        assert [made(lists, atoms) for atoms in rocksalt_cells()[:2]] == [None, None]
    assert sum("libnvrtc" in str(warning.message) for warning in caught) == 1


def test_an_edge_at_the_very_cutoff_is_in_either(monkeypatch) -> None:
    atoms = rocksalt_cells()[0]
    index, shifts = neighbour_list(atoms.positions, atoms.cell.array, atoms.pbc, CUTOFF)
    vectors = atoms.positions[index[1]] - atoms.positions[index[0]] + shifts @ atoms.cell.array
    longest = float(np.linalg.norm(vectors, axis=1).max())
    original = module._vesin
    monkeypatch.setattr(module, "_vesin", lambda p, c, cutoff: original(p, c, cutoff - 2e-9))
    lists = DeviceLists()
    found = made(lists, atoms, longest + 1e-9)
    assert found is not None
    assert found[0].shape[1] < index.shape[1]


def test_impossible_structures_are_refused_as_ever() -> None:
    exploded = rocksalt_cells()[0]
    exploded.positions[0, 0] = np.nan
    with pytest.raises(StructureError, match="NaN"):
        made(DeviceLists(), exploded)


def test_they_are_for_large_periodic_cells_on_a_gpu() -> None:
    large = rocksalt_cells()[0].repeat(4)
    slab = large.copy()
    slab.pbc = (True, True, False)
    gpu = torch.device("cuda")
    assert isinstance(DeviceLists.of([large, large], gpu), DeviceLists)
    assert DeviceLists.of([large], torch.device("cpu")) is None
    assert DeviceLists.of([large, rocksalt_cells()[0]], gpu) is None
    assert DeviceLists.of([large, slab], gpu) is None
