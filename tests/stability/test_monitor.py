"""The monitor's machine code against its operations in torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk

from mdl_physpretrain.stability.limits import Limits
from mdl_physpretrain.stability.lindemann import LindemannAccumulator
from mdl_physpretrain.stability.monitor import STOPS, Monitor


def verdicts(stop_on: tuple[str, ...], seed: int) -> tuple[list, list]:
    """Random frames with every kind of event; what is stopped when, and the verdicts."""
    rng = np.random.default_rng(seed)
    structures = [bulk("MgO", "rocksalt", a=4.0 + 0.1 * k, cubic=True)[: 8 - k % 3] for k in range(6)]
    limits = Limits(min_frames=3, check_interval=2, lindemann_local=0.02, lindemann_global=0.012)
    monitor = Monitor(structures, limits=limits, temperature=300.0, stop_on=stop_on)
    first = monitor.first_distance
    alive, stops = list(range(6)), []
    for step in range(40):
        counts = [len(structures[k]) for k in alive]
        owner = np.repeat(np.arange(len(alive)), rng.integers(0, 6, len(alive)))
        starts = (np.cumsum(counts) - counts)[owner]
        pairs = np.stack([starts + rng.integers(0, np.array(counts)[owner]) for _ in range(2)])
        squared = rng.choice([0.24, 0.3, 0.7, 0.9, 1.2], len(owner)) * first[np.array(alive, dtype=int)[owner]] ** 2
        if step < 10:
            squared *= 1.5  # no overlap at first
        positions = np.concatenate([structures[k].positions for k in alive])
        positions += rng.normal(scale=rng.choice([0.01, 0.2]), size=positions.shape)
        kind = rng.integers(0, 60, len(alive))
        temperature = np.where(kind == 1, np.nan, np.where(kind == 2, 5e4, 300.0))
        energy = np.where(kind == 3, np.inf, np.where(kind == 6, -300.0, -1.0))
        forces = rng.normal(size=positions.shape)
        forces[0, 2] = rng.choice([0.0, np.nan, 500.0, np.inf], p=[0.94, 0.02, 0.02, 0.02])
        broken = np.where(kind == 4, 1, np.where(kind == 5, 2, 0))
        positions[0, 1] = np.nan if rng.random() < 0.02 else positions[0, 1]
        cells = np.stack([structures[k].cell.array for k in alive])
        cells[0] *= 3.0 if rng.random() < 0.02 else 1.0
        stop = monitor.observe(
            step,
            torch.as_tensor(positions),
            torch.as_tensor(cells),
            edge_index=torch.as_tensor(pairs),
            edge_structure=torch.as_tensor(owner),
            edge_squared=torch.as_tensor(squared),
            temperature=torch.as_tensor(temperature) if step % 3 else None,
            energy=torch.as_tensor(energy) if step % 4 else None,
            forces=torch.as_tensor(forces) if step % 3 else None,
            broken=torch.as_tensor(broken) if step % 5 else None,
        )
        if stop is None:
            continue
        stops.append((step, [alive[k] for k in torch.nonzero(stop).flatten().tolist()]))
        alive = [k for k, gone in zip(alive, stop.tolist(), strict=True) if not gone]
        if not alive:
            break
        monitor.keep(~stop)
    return stops, monitor.finish()


SAME = (
    "frames", "overlap_step", "nan_step", "explosion_step", "lindemann_step", "closest_pair", "overlap_step_paper",
    "explosion_step_paper", "lindemann_step_paper", "cause", "overlap_pair", "elements",
)  # fmt: skip


@pytest.mark.parametrize("stop_on", [STOPS, ("nan",), ("overlap",)])
def test_machine_code_and_torch_say_the_same(monkeypatch, stop_on):
    seen, limits = set(), Limits()
    for seed in range(12):
        monkeypatch.setattr(LindemannAccumulator, "compiled", True)
        stops, fast = verdicts(stop_on, seed)
        monkeypatch.setattr(LindemannAccumulator, "compiled", False)
        expected_stops, slow = verdicts(stop_on, seed)
        assert stops == expected_stops
        for a, b in zip(fast, slow, strict=True):
            for name in SAME:
                assert getattr(a, name) == getattr(b, name), name
            for name in ("element", "compared", "fluctuations", "deviations"):
                np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-6, atol=1e-12)
            one, other = a.row(limits, 99), b.row(limits, 99)
            for key, value in one.items():
                same = pytest.approx(other[key], rel=1e-6, nan_ok=True) if isinstance(value, float) else other[key]
                assert value == same, key
            seen.add(a.cause)
            assert (a.min_distance, a.overlap_threshold) == (b.min_distance, b.overlap_threshold)
            np.testing.assert_allclose(a.lindemann, b.lindemann, rtol=1e-12)
            np.testing.assert_allclose(a.lindemann_printed, b.lindemann_printed, rtol=1e-12)
            seen |= {n for n in ("overlap", "nan", "explosion", "lindemann") if getattr(a, f"{n}_step") is not None}
            seen.add(a.closest_pair)
    assert {"temperature", "energy", "force", "volume"} <= seen
    assert {"overlap", "nan", "explosion", "Mg-O", "O-O", "Mg-Mg"} <= seen
    assert "lindemann" in seen or "nan" not in stop_on
