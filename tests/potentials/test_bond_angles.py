"""Angular sums by moments against a list of angles, and their derivatives."""

from __future__ import annotations

import torch

from mdl_physpretrain.potentials.bond_angles import (
    COSINES,
    REACHES,
    Moments,
    angle_gradients,
    angle_sums,
    bond_moments,
)

N_ATOMS, N_KINDS = 3, 2


def bonds() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    vectors = 1.5 * torch.randn(20, 3, dtype=torch.float64, generator=generator)
    centre = torch.randint(0, N_ATOMS, (20,), generator=generator)
    return centre, torch.randint(0, N_KINDS, (20,), generator=generator), vectors


def moments(vectors: torch.Tensor) -> Moments:
    centre, kind, _ = bonds()
    return bond_moments(centre, kind, vectors, N_ATOMS, N_KINDS)


def test_sums_are_those_over_a_list_of_angles() -> None:
    centre, kind, vectors = bonds()
    sums = angle_sums(moments(vectors))
    expected = torch.zeros_like(sums)
    r = vectors.norm(dim=1)
    weights = (1 - r[:, None] / torch.tensor(REACHES)).clamp_min(0) ** 3
    for j in range(len(r)):
        for k in range(len(r)):
            if j == k or centre[j] != centre[k]:
                continue
            cosine = vectors[j] @ vectors[k] / (r[j] * r[k])
            term = (weights[j] * weights[k])[:, None] * (cosine - torch.tensor(COSINES)) ** 2
            expected[centre[j], kind[j], kind[k]] += term * (0.5 if kind[j] == kind[k] else 1.0)
    assert torch.allclose(sums, expected, atol=1e-12)
    assert (sums >= -1e-12).all(), "a penalty is never negative"


def test_gradients_by_hand_are_those_of_the_sums() -> None:
    centre, kind, vectors = bonds()
    strengths = torch.rand(N_KINDS, N_KINDS, len(REACHES), len(COSINES), dtype=torch.float64)
    strengths = strengths + strengths.transpose(0, 1)
    once = torch.triu(torch.ones(N_KINDS, N_KINDS, dtype=torch.float64))[:, :, None, None]
    (expected,) = torch.autograd.grad((angle_sums(moments(vectors.requires_grad_())) * strengths * once).sum(), vectors)
    at_rest = moments(vectors.detach())
    along, across = angle_gradients(centre, kind, at_rest)
    of_bond = strengths[kind]
    gradient = (along * of_bond).sum((1, 2, 3))[:, None] * at_rest.unit
    gradient = gradient + (across * of_bond[..., None]).sum((1, 2, 3))
    assert torch.allclose(gradient, expected, atol=1e-12)
