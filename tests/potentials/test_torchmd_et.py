"""The equivariant transformer: derivatives, symmetries, the cutoff, training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.graphs.batch import build_batch, collate
from mdl_physpretrain.potentials import TorchMDET, predict
from mdl_physpretrain.potentials.torchmd_et.layers import ACTIVATIONS

SIZES = {"cutoff": 4.5, "hidden_channels": 12, "num_layers": 3, "num_rbf": 8, "num_heads": 3, "post_hidden_channels": 8}


def model(**options: object) -> TorchMDET:
    """In float64, with every weight (biases too) away from its special initial value."""
    torch.manual_seed(4)
    made = TorchMDET(**{**SIZES, **options}).double().eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter) * (0.5 + parameter.abs().mean()))
    return made


def values(made: TorchMDET, atoms: Atoms) -> tuple[float, np.ndarray]:
    out = predict(made, build_batch(atoms, made.cutoff, torch.float64))
    return out.energy.item(), out.forces.numpy()


@pytest.mark.parametrize("name", ["triclinic", "one_atom", "tiny"])
def test_a_supercell_has_a_multiple_of_the_energy(zoo: dict[str, Atoms], name: str) -> None:
    atoms = zoo[name]
    for made, same in ((model(cutoff=5.5), True), (model(cutoff=5.5, own_images=False), False)):
        energy, forces = values(made, atoms)
        double_energy, double_forces = values(made, atoms.repeat((2, 1, 2)))
        assert (abs(double_energy - 4 * energy) < 1e-9 * abs(energy)) is same
        if same:
            np.testing.assert_allclose(double_forces[: len(atoms)], forces, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"rbf_type": "gauss"}, {"distance_influence": "none"}])
def test_energy_and_force_are_continuous_at_the_cutoff(options: dict) -> None:
    made = model(**options)

    def third_atom(r: float) -> tuple[float, np.ndarray]:
        # the bonded pair has vector features: a lone pair would not feel a jump in the vector messages
        return values(made, Atoms("MgOSi", [[0, 0, 0], [0.2, 1.9, 0], [-r, 0, 0]]))

    inside, outside = third_atom(4.5 - 1e-5), third_atom(4.5 + 1e-5)
    assert inside[0] == pytest.approx(outside[0], abs=1e-9)
    np.testing.assert_allclose(inside[1], outside[1], atol=1e-4 * np.abs(outside[1]).max())
    assert np.abs(third_atom(3.0)[1][2]).max() > 1e-6
    made = model(smooth_cutoff=False, **options)
    assert abs(third_atom(4.5 - 1e-5)[0] - third_atom(4.5 + 1e-5)[0]) > 1e-7


def test_lone_atoms_and_empty_lists() -> None:
    made = model()
    lone = values(made, Atoms("O"))
    assert np.isfinite(lone[0])
    assert not lone[1].any()
    made.reference_energies[8] = -3.0
    assert values(made, Atoms("O"))[0] == pytest.approx(lone[0] - 3.0)
    together = predict(made, collate([build_batch(Atoms("O"), 4.5, torch.float64) for _ in range(2)]))
    assert together.energy.tolist() == pytest.approx([lone[0] - 3.0] * 2)


def test_unknown_elements_are_refused() -> None:
    with pytest.raises(StructureError, match="elements 1 to 29"):
        values(model(max_z=30), Atoms("OZn", [[0, 0, 0], [0, 0, 1.9]]))
    with pytest.raises(StructureError):
        values(model(), Atoms("X"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"cutoff": 0.0}, {"num_heads": 5}, {"num_layers": 0}, {"rbf_type": "bessel"}, {"activation": "relu"},
        {"attn_activation": "softmax"}, {"pool": "max"}, {"pool_order": "middle"}, {"distance_influence": "all"},
        {"num_post_layers": -1}, {"num_rbf": 1},
    ],
)  # fmt: skip
def test_options_out_of_range(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TorchMDET(**wrong)


def test_silu_has_the_right_first_and_second_derivatives() -> None:
    x = torch.linspace(-6, 6, 31, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ACTIVATIONS["silu"], (x,))
    assert torch.autograd.gradgradcheck(ACTIVATIONS["silu"], (x,))


def test_every_trainable_parameter_gets_a_gradient(rocksalt: list[Atoms]) -> None:
    made = model()
    out = predict(made, collate([build_batch(a, made.cutoff, torch.float64) for a in rocksalt[:2]]), create_graph=True)
    (out.energy.sum() + out.forces.square().sum()).backward()
    without = {name for name, p in made.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())}
    assert not without
    assert {n for n, p in made.named_parameters() if not p.requires_grad} == {"attention_layers.0.vec_proj.weight"}
