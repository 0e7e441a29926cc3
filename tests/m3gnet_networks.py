"""Small M3GNet networks and crystals that several tests use."""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk

from mdl_physpretrain.graphs.batch import build_batch, collate
from mdl_physpretrain.potentials import ASECalculator, M3GNet

SMALL = {"units": 12, "num_blocks": 2, "max_l": 4, "max_n": 3, "cutoff": 4.5, "threebody_cutoff": 3.5}


def responsive(dtype: torch.dtype = torch.float64, gain: float = 4.0, **options: object) -> M3GNet:
    """A network with forces of order 1 eV/Å; those of a fresh one are near zero and prove nothing."""
    torch.manual_seed(5)
    model = M3GNet(**{**SMALL, **options})
    sample = collate([build_batch(bulk("MgO", "rocksalt", a=a, cubic=True), model.cutoff) for a in (4.0, 4.3)])
    sample.positions += 0.1 * torch.randn(sample.positions.shape)
    model.initialise(sample, torch.Generator().manual_seed(1))
    with torch.no_grad():
        model.network.final.g[2].linear.weight *= gain
        model.network.normalizer.shift += torch.randn(len(model.network.normalizer.shift))
        model.network.normalizer.scale *= 1 + 0.2 * torch.rand(len(model.network.normalizer.scale))
        model.reference_energies += torch.randn(119)
    return model.to(dtype).eval()


def crystals() -> dict[str, Atoms]:
    rng = np.random.default_rng(2)
    found = {
        "rocksalt": bulk("MgO", "rocksalt", a=4.2, cubic=True),
        "compressed": bulk("MgO", "rocksalt", a=3.5, cubic=True),
        "diamond": bulk("Si", "diamond", a=5.43),
        "skewed": Atoms("SiOMgAl", cell=[[5.0, 0, 0], [1.3, 4.8, 0], [-0.9, 0.7, 5.3]], pbc=True),
    }
    found["skewed"].set_scaled_positions([[0.02, 0.1, 0.05], [0.4, 0.35, 0.3], [0.1, 0.6, 0.62], [0.7, 0.8, 0.15]])
    for atoms in found.values():
        atoms.positions += rng.normal(scale=0.08, size=atoms.positions.shape)
    return {**found, "perfect": bulk("NaCl", "rocksalt", a=5.6, cubic=True), "lone": bulk("Al", "fcc", a=12.0)}


def values(model: M3GNet, atoms: Atoms) -> tuple[float, np.ndarray]:
    atoms = atoms.copy()
    atoms.calc = ASECalculator(model)
    return atoms.get_potential_energy(), atoms.get_forces()
