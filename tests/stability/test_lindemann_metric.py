"""Lindemann indices against an independent implementation that keeps everything."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from mdl_physpretrain.stability import lindemann
from mdl_physpretrain.stability.lindemann import LindemannAccumulator, minimum_image_shifts


def brute_force(frames: list[np.ndarray], cells: list[np.ndarray], first: Atoms, *, root: bool = True) -> np.ndarray:
    """Local indices with loops over pairs; images fixed at the first frame by a search over 5^3 of them."""
    n = len(first)
    ranges = [range(-2, 3) if p else (0,) for p in first.pbc]
    shifts = np.array(list(itertools.product(*ranges)))
    q = np.zeros(n)
    for i in range(n):
        for j in range(n):
            if i == j:
                continue
            lengths = np.linalg.norm(frames[0][j] - frames[0][i] + shifts @ cells[0], axis=1)
            shift = shifts[lengths.argmin()]
            r = np.array([np.linalg.norm(x[j] - x[i] + shift @ c) for x, c in zip(frames, cells, strict=True)])
            variance = max((r**2).mean() - r.mean() ** 2, 0.0)
            q[i] += (np.sqrt(variance) if root else variance) / r.mean() / (n - 1)
    return q


def accumulate(structures, trajectories, cells) -> LindemannAccumulator:
    accumulator = LindemannAccumulator(structures)
    for frame in range(len(trajectories[0])):
        accumulator.add(
            torch.as_tensor(np.concatenate([t[frame] for t in trajectories])),
            torch.as_tensor(np.stack([c[frame] for c in cells])),
        )
    return accumulator


def noisy(atoms: Atoms, rng, frames: int = 12, scale: float = 0.15, breathe: float = 0.0):
    factor = 1 + breathe * rng.normal(size=frames)
    factor[0] = 1
    positions = [
        f * (atoms.positions + (k > 0) * rng.normal(scale=scale, size=(len(atoms), 3))) for k, f in enumerate(factor)
    ]
    return positions, [f * atoms.cell.array for f in factor]


@pytest.mark.parametrize("compiled", [True, False])
def test_equals_brute_force_for_all_kinds_of_cells_at_once(zoo, monkeypatch, compiled):
    monkeypatch.setattr(LindemannAccumulator, "compiled", compiled)
    rng = np.random.default_rng(0)
    structures = [atoms for name, atoms in zoo.items() if name != "one_atom"]
    for atoms in structures:
        atoms.rattle(0.1, seed=3)  # no two images equally close
    data = [noisy(atoms, rng, breathe=0.02) for atoms in structures]
    accumulator = accumulate(structures, [p for p, _ in data], [c for _, c in data])
    for variant, root in (("literature", True), ("printed", False)):
        expected = [brute_force(p, c, a, root=root) for (p, c), a in zip(data, structures, strict=True)]
        np.testing.assert_allclose(accumulator.local(variant).numpy(), np.concatenate(expected), rtol=1e-9)
        largest, average = accumulator.summary(variant)
        np.testing.assert_allclose(largest, [e.max() for e in expected], rtol=1e-9)
        np.testing.assert_allclose(average, [e.mean() for e in expected], rtol=1e-9)
    keep = torch.tensor([True, False, False, True, True])
    accumulator.keep(keep)
    stay = [a for a, k in zip(structures, keep.tolist(), strict=True) if k]
    extended = [p + [p[-1] + 0.1 * rng.normal(size=p[-1].shape)] for (p, _), k in zip(data, keep, strict=True) if k]
    cells = [c + [c[-1]] for (_, c), k in zip(data, keep, strict=True) if k]
    accumulator.add(
        torch.as_tensor(np.concatenate([p[-1] for p in extended])), torch.as_tensor(np.stack([c[-1] for c in cells]))
    )
    expected = [brute_force(p, c, a) for p, c, a in zip(extended, cells, stay, strict=True)]
    np.testing.assert_allclose(accumulator.local().numpy(), np.concatenate(expected), rtol=1e-9)


def test_an_ideal_crystal_and_a_drifting_one_have_index_zero():
    crystal = bulk("MgO", "rocksalt", a=4.2, cubic=True)
    drift = np.array([0.7, -0.3, 0.2])
    frames = [crystal.positions + k * drift for k in range(30)]  # leaves the cell several times
    accumulator = accumulate([crystal], [frames], [[crystal.cell.array] * 30])
    assert accumulator.local().abs().max() < 1e-7


def test_a_melt_is_far_above_the_threshold():
    crystal = bulk("Al", "fcc", a=4.05, cubic=True) * (2, 2, 2)
    rng = np.random.default_rng(5)
    walk = [crystal.positions + p for p in np.cumsum(rng.normal(scale=0.5, size=(60, 32, 3)), axis=0)]
    solid = [crystal.positions + rng.normal(scale=0.1, size=(32, 3)) for _ in range(60)]
    cells = [[crystal.cell.array] * 60] * 2
    _, average = accumulate([crystal, crystal], [walk, solid], cells).summary()
    assert average[0] > 0.2
    assert 0.01 < average[1] < 0.1


def test_one_atom_and_one_frame():
    accumulator = LindemannAccumulator([bulk("Al", "fcc", a=4.05)])
    for k in range(3):
        accumulator.add(torch.full((1, 3), float(k), dtype=torch.float64), torch.eye(3, dtype=torch.float64)[None] * 3)
    assert accumulator.local().tolist() == [0.0]
    pair = Atoms("O2", [[0, 0, 0], [0, 0, 1.2]])
    accumulator = LindemannAccumulator([pair])
    accumulator.add(torch.as_tensor(pair.positions), torch.zeros(1, 3, 3, dtype=torch.float64))
    assert accumulator.local().tolist() == [0.0, 0.0]


def test_accumulation_is_stable_for_tiny_fluctuations_of_large_distances():
    pair = Atoms("O2", [[0, 0, 0], [0, 0, 1000.0]])
    accumulator = LindemannAccumulator([pair])
    rng = np.random.default_rng(2)
    lengths = 1000 + 1e-6 * rng.normal(size=5000)
    for length in lengths:
        positions = torch.tensor([[0.0, 0, 0], [0, 0, length]], dtype=torch.float64)
        accumulator.add(positions, torch.zeros(1, 3, 3, dtype=torch.float64))
    # <r^2> - <r>^2 from plain sums is noise of 1e-10 here, the true value is 1e-12
    assert accumulator.local()[0].item() == pytest.approx(lengths.std() / 1000, rel=1e-3)


def test_minimum_images_in_skewed_cells():
    rng = np.random.default_rng(4)
    for pbc in [(True, True, True), (True, True, False), (False, True, False)]:
        for _ in range(4):
            cell = rng.normal(scale=0.5, size=(3, 3)) + np.diag([4.0, 4, 4])
            cell[1] += 2 * cell[0]  # strongly skewed
            vectors = rng.normal(scale=6, size=(8, 3))
            shifts = minimum_image_shifts(vectors, cell, pbc)
            assert not shifts[:, ~np.array(pbc)].any()
            images = np.array(list(itertools.product(*[range(-14, 15) if p else (0,) for p in pbc]))) @ cell
            expected = [np.linalg.norm(v + images, axis=1).min() for v in vectors]
            np.testing.assert_allclose(np.linalg.norm(vectors + shifts @ cell, axis=1), expected, rtol=1e-10)


def test_equally_close_images_do_not_depend_on_rounding():
    cell, vector = np.eye(3) * 4.0, np.array([[2.0, 2.0, 0.0]])
    rng = np.random.default_rng(0)
    found = {tuple(minimum_image_shifts(vector + 1e-9 * rng.normal(size=3), cell, (1, 1, 1))[0]) for _ in range(20)}
    assert found == {(-1, -1, 0)}


def test_large_structures_are_sampled(monkeypatch):
    crystal = bulk("MgO", "rocksalt", a=4.2, cubic=True).repeat((4, 3, 3))
    rng = np.random.default_rng(1)
    # atoms that move more and more from one end to the other
    scale = 0.02 + 0.2 * crystal.get_scaled_positions()[:, :1]
    frames = [crystal.positions + scale * rng.normal(size=(len(crystal), 3)) for _ in range(30)]
    every = accumulate([crystal], [frames], [[crystal.cell.array] * 30])
    assert len(every.first) == len(crystal) * (len(crystal) - 1) // 2
    monkeypatch.setattr(lindemann, "ALL_PAIRS", len(crystal) - 1)
    monkeypatch.setattr(lindemann, "PARTNERS", 100)
    small = bulk("Al", "fcc", a=4.05, cubic=True)  # beside a structure of which all pairs count
    small.rattle(0.1, seed=3)  # no two images equally close
    positions = [np.concatenate([x, y]) for x, y in zip(frames, noisy(small, rng, frames=30)[0], strict=True)]
    sampled = LindemannAccumulator([crystal, small])
    for x in positions:
        sampled.add(torch.as_tensor(x), torch.as_tensor(np.stack([crystal.cell.array, small.cell.array])))
    n = len(crystal)
    pairs = {frozenset(p) for p in zip(sampled.first.tolist(), sampled.second.tolist(), strict=True)}
    assert len(pairs) == len(sampled.first) == 50 * n + 6
    counts = torch.bincount(torch.cat([sampled.first, sampled.second]))
    assert counts.tolist() == [100] * n + [3] * 4
    estimate, exact = sampled.local()[:n], every.local()
    assert (estimate / exact - 1).abs().max() < 0.25
    assert (estimate / exact - 1).square().mean().sqrt() < 0.08  # 0.6 / sqrt(100)
    assert estimate.mean() == pytest.approx(exact.mean().item(), rel=0.01)
    brute = brute_force([x[n:] for x in positions], [small.cell.array] * 30, small)
    np.testing.assert_allclose(sampled.local()[n:].numpy(), brute, rtol=1e-9)
    sampled.keep(torch.tensor([True, False]))
    torch.testing.assert_close(sampled.local(), estimate, rtol=0, atol=0)
    again = lindemann.compared_pairs(n)
    np.testing.assert_array_equal(np.stack(again), np.stack(lindemann.compared_pairs(n)))
