"""Sums over the angles between an atom's bonds, without a list of angles.

``sum_{j,k} f(r_ij) f(r_ik) (cos jik - c)^2`` over neighbours ``j`` of one
element and ``k`` of another is a product of moments of the neighbours'
directions (orders 0, 1, 2), so that the work grows with the bonds. The term
``j = k`` is taken off. The form is that of the angular term of F. H.
Stillinger and T. A. Weber, Phys. Rev. B 31, 5262 (1985), with a radial
function that is bounded at contact.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["COSINES", "REACHES", "Moments", "angle_gradients", "angle_sums", "bond_moments"]

REACHES = (2.6, 3.4, 4.4)  # Å, of the radial functions
COSINES = (-1.0, -0.6, -1 / 3, 0.0, 0.5)  # angles without penalty: 180, 127, 109.5, 90, 60 degrees


class Moments(NamedTuple):
    """Of the directions to an atom's neighbours, by their element (n) and radial function (m)."""

    zero: Tensor  # (N, n, m)
    one: Tensor  # (N, n, m, 3)
    two: Tensor  # (N, n, m, 3, 3)
    square: Tensor  # (N, n, m): sum of the squares of the weights
    weights: Tensor  # (E, m)
    slopes: Tensor  # (E, m), 1/Å
    unit: Tensor  # (E, 3)
    r: Tensor  # (E,), Å


def bond_moments(
    centre: Tensor, kind: Tensor, vectors: Tensor, n_atoms: int, n_kinds: int, reaches: tuple[float, ...] = REACHES
) -> Moments:
    """Moments of all bonds shorter than the longest reach.

    Parameters
    ----------
    centre, kind
        Atom a bond starts from, and element at its other end, shape (E,).
    vectors
        Bonds in Å, shape (E, 3).
    n_atoms, n_kinds
        Number of atoms and of elements.
    reaches
        Where the radial functions ``(1 - r/reach)^3`` end, Å.
    """
    r = torch.linalg.vector_norm(vectors, dim=1)
    unit = vectors / r[:, None]
    ends = torch.as_tensor(reaches, dtype=r.dtype, device=r.device)
    inside = (1 - r[:, None] / ends).clamp_min(0)
    weights, slopes = inside**3, -3 * inside**2 / ends
    place = centre * n_kinds + kind

    def gather(value: Tensor) -> Tensor:
        total = value.new_zeros(n_atoms * n_kinds, *value.shape[1:]).index_add(0, place, value)
        return total.view(n_atoms, n_kinds, *value.shape[1:])

    one = weights[:, :, None] * unit[:, None, :]
    two = one[:, :, :, None] * unit[:, None, None, :]
    return Moments(gather(weights), gather(one), gather(two), gather(weights**2), weights, slopes, unit, r)


def angle_sums(moments: Moments, cosines: tuple[float, ...] = COSINES) -> Tensor:
    """Sums over pairs of bonds of an atom, shape (N, n, n, m, c): an angle between two of one element counts once.

    The element pair (a, b) with a != b is found in both (a, b) and (b, a).
    """
    c = torch.as_tensor(cosines, dtype=moments.zero.dtype, device=moments.zero.device)
    two = torch.einsum("iamxy,ibmxy->iabm", moments.two, moments.two)
    one = torch.einsum("iamx,ibmx->iabm", moments.one, moments.one)
    zero = torch.einsum("iam,ibm->iabm", moments.zero, moments.zero)
    sums = two[..., None] - 2 * c * one[..., None] + c**2 * zero[..., None]
    same = torch.eye(sums.shape[1], dtype=sums.dtype, device=sums.device)
    itself = moments.square[:, :, None, :, None] * same[:, :, None, None] * (1 - c) ** 2
    return (sums - itself) * (1 - 0.5 * same)[:, :, None, None]


def angle_gradients(
    centre: Tensor, kind: Tensor, moments: Moments, cosines: tuple[float, ...] = COSINES
) -> tuple[Tensor, Tensor]:
    """Derivatives of the sums of :func:`angle_sums` with respect to every bond, by hand.

    Parameters
    ----------
    centre, kind
        As of :func:`bond_moments`.

    Returns
    -------
    along, across
        Shape (E, n, m, c), 1/Å, and (E, n, m, c, 3): the gradient of the sum over
        the angles that a bond makes with those to neighbours of each element is
        ``along * unit + across``.
    """
    c = torch.as_tensor(cosines, dtype=moments.zero.dtype, device=moments.zero.device)
    unit = moments.unit
    zero, one, two = moments.zero[centre], moments.one[centre], moments.two[centre]
    turned = torch.einsum("enmxy,ey->enmx", two, unit)
    first = torch.einsum("enmx,ex->enm", one, unit)
    second = torch.einsum("enmx,ex->enm", turned, unit)
    sums = second[..., None] - 2 * c * first[..., None] + c**2 * zero[..., None]
    itself = torch.nn.functional.one_hot(kind, zero.shape[1]).to(c.dtype)[:, :, None, None]
    sums = sums - itself * moments.weights[:, None, :, None] * (1 - c) ** 2
    along = moments.slopes[:, None, :, None] * sums
    pull = 2 * (turned[:, :, :, None, :] - c[:, None] * one[:, :, :, None, :])
    pull = pull - torch.einsum("enmcx,ex->enmc", pull, unit)[..., None] * unit[:, None, None, None, :]
    across = (moments.weights / moments.r[:, None])[:, None, :, None, None] * pull
    return along, across
