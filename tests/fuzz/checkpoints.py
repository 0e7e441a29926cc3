"""Damaged and odd checkpoints: the same weights, or refused; never a traceback, a crash or other weights."""

from __future__ import annotations

import collections
import copy
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from small_potentials import small
from tries import Tries

from mdl_physpretrain.graphs.batch import build_batch
from mdl_physpretrain.hosts.loading import load_potential
from mdl_physpretrain.potentials import EnergyModel, predict

NAMES = ["cgcnn", "eam", "classical", "schnet", "sum", "torchmd_et", "zbl"]
VALUES: list[Any] = [
    None, True, 0, 1, -1, 1.5, 10**9, 10**18, float("nan"), float("inf"), "", "x", "cgcnn", "sum", [], [1], ["Mg"], {},
    {"a": 1}, {1: 2}, b"x", torch.ones(2), torch.ones(0), torch.tensor(1.0), torch.ones(2, 2).half(), (1, 2), set(),
    np.float64(2.0), np.arange(3), 1j, [[]], ["Xx"], "../x", torch.tensor([float("nan")]), {"x": {"y": {}}}, [None] * 5,
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in nested dictionaries and lists."""
    found = [path] if path else []
    if isinstance(value, dict):
        for key, inner in value.items():
            found += places(inner, (*path, key))
    elif isinstance(value, list):
        for k, inner in enumerate(value):
            found += places(inner, (*path, k))
    return found


def odd(content: dict[str, Any], generator: random.Random) -> str:
    """Change, remove or add entries of a checkpoint; what was done."""
    done = []
    for _ in range(generator.choice([1, 1, 1, 2])):
        path = generator.choice(places(content))
        inner: Any = content
        for key in path[:-1]:
            inner = inner[key]
        action, value = generator.randrange(4), copy.deepcopy(generator.choice(VALUES))
        if action == 0 and isinstance(inner, dict):
            inner.pop(path[-1])
        elif action == 1 and isinstance(inner, dict):
            inner[generator.choice(["more", 3, "", "dtype", "elements"])] = value
        else:
            inner[path[-1]] = value
        done.append(f"{path} {action} {str(value)[:40]}")
    return "; ".join(done)


def damaged(good: bytes, generator: random.Random) -> bytes:
    """Wrong bits, cut off, doubled or zeroed parts."""
    bad = bytearray(good)
    action, place = generator.randrange(5), generator.randrange(len(good))
    if action <= 1:
        bad[place] ^= 1 << generator.randrange(8)
    elif action == 2:
        del bad[place:]
    elif action == 3:
        bad[place : place + generator.randrange(1, 200)] = bytes(generator.randrange(1, 200))
    else:
        bad[place:place] = bad[: generator.randrange(1, 200)]
    return bytes(bad)


def run(n: int, folder: Path, seed: int) -> tuple[collections.Counter[str], list[str]]:
    """Try ``n`` odd and ``n`` damaged checkpoints of every network; what is read is used once."""
    generator, tries = random.Random(seed), Tries()
    file = folder / "m.pt"
    from ase.build import bulk

    atoms = bulk("MgO", "rocksalt", a=4.2, cubic=True)
    for name in NAMES:
        model = small(name)
        model.metadata = {"elements": ["Mg", "O"], "examination": {"passed": True}, "fit": {"errors": {}}}
        model.save(file)
        good, weights = file.read_bytes(), model.state_dict()
        content = torch.load(file, weights_only=True)
        for _ in range(n):
            changed = copy.deepcopy(content)
            what = odd(changed, generator)
            torch.save(changed, file)
            loaded = tries.attempt(f"{name}: {what}", lambda: load_potential(str(file), "cpu"))
            if isinstance(loaded, EnergyModel):
                tries.attempt(
                    f"use of {name}: {what}",
                    lambda loaded=loaded: predict(loaded, build_batch(atoms, loaded.cutoff, loaded.dtype)),
                )
        for _ in range(n):
            file.write_bytes(damaged(good, generator))
            loaded = tries.attempt(f"damaged {name}", lambda: load_potential(str(file), "cpu"))
            same = isinstance(loaded, EnergyModel) and all(
                torch.equal(v, weights[k]) for k, v in loaded.state_dict().items()
            )
            if loaded is not None and not same:
                tries.fail(f"damaged {name}", "other weights")
    return tries.outcome
