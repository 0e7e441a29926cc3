#!/usr/bin/env python
"""Split the InP data by material: kinds of defects and blocks of strained crystals, each whole in one part.

``python scripts/split_inp.py ../shared/data/inp.extxyz runs/inp-data`` writes ``train``, ``val``, ``test`` and
``starts`` (of MD) for ``configs/long-md/inp.yaml``, and the two halves of the test part, ``test-crystals`` and
``test-defects``, for ``physpretrain evaluate``. A split by composition alone would put every crystal, In4P4, into
one part, and a random one neighbours on the same path of strain into different parts.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms

from mdl_physpretrain import read_structures, write_structures

PARTS = ("train", "val", "test")
#: Defects: config type, atoms and structures drawn per part. "a" is an antisite, "i" an interstitial, "v" a vacancy.
DEFECTS = {
    "train": [("s_iP", 65, 20), ("s_iIn", 65, 20), ("s_aa", 64, 10), ("s_aP", 64, 20)],
    "val": [("s_vIn", 63, 6)],
    "test": [("s_vP", 63, 12), ("s_aIn", 64, 12), ("s_vv", 62, 12)],
}
CRYSTALS = ("EOS", "Shear", "Strain")
BLOCKS = 10  # of neighbouring volumes, per path of strain: two to the test, one to the validation data
START_FORCE = 1.0  # eV/Å, the largest of a crystal that MD starts from
START_VOLUME = (22.0, 28.0)  # Å³ per atom


def split(structures: list[Atoms], seed: int = 0) -> dict[str, list[Atoms]]:
    """Parts by name, the two kinds of test cells, and the ``starts`` of MD: 4 defect cells, 8 crystals."""
    rng = np.random.default_rng(seed)
    parts: dict[str, list[Atoms]] = {name: [] for name in PARTS}
    for path in CRYSTALS:
        cells = sorted((a for a in structures if len(a) == 8 and a.info["config_type"] == path), key=Atoms.get_volume)
        blocks = np.array_split(np.arange(len(cells)), BLOCKS)
        for place, number in enumerate(rng.permutation(BLOCKS)):
            part = parts["test" if place < 2 else "val" if place == 2 else "train"]
            drawn = rng.permutation(blocks[number])[: max(4, len(blocks[number]) // 3)]
            part += [cells[k] for k in sorted(drawn)]
    for name in PARTS:
        for kind, atoms, number in DEFECTS[name]:
            cells = [a for a in structures if a.info["config_type"] == kind and len(a) == atoms]
            parts[name] += [cells[k] for k in sorted(rng.permutation(len(cells))[:number])]
    defects = [a for a in parts["test"] if len(a) > 8]
    crystals = [a for a in parts["test"] if len(a) == 8 and np.abs(a.get_forces()).max() < START_FORCE]
    crystals = [a for a in crystals if START_VOLUME[0] < a.get_volume() / 8 < START_VOLUME[1]]
    starts = [defects[k] for k in rng.permutation(len(defects))[:4]]
    halves = {"test-crystals": [a for a in parts["test"] if len(a) == 8], "test-defects": defects}
    return {**parts, **halves, "starts": starts + [crystals[k] for k in rng.permutation(len(crystals))[:8]]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name, part in split(read_structures(arguments.source, duplicates="rename")).items():
        write_structures(arguments.folder / f"{name}.extxyz", part)
        print(f"{name}: {len(part)} structures")
