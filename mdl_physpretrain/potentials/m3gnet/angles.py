"""M3GNet's three-body sums without a list of triplets.

MatterSim sums, for every bond ``ij`` and channel ``(l, n)``,
``c(r_ij) c(r_ik) f_ln(r_ik) Y_l0(cos jik)`` over all further bonds ``ik`` of
the atom. By the addition theorem ``Y_l0(cos jik)`` is a sum over ``m`` of
products of harmonics of the two directions, so the sum over ``k`` is one
moment per atom: the work grows with the bonds and not with their pairs, and
no list of angles is ever made. The moment includes ``k = j``, which is taken
off again. The sum is the same in all blocks of the network.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["harmonics", "radial_functions", "smooth_cutoff", "three_body_sums"]

MAX_ORDER = 4  # of the spherical functions that MatterSim tabulates: l, n < 4


def harmonics(unit: Tensor, max_l: int) -> list[Tensor]:
    """Real harmonics whose products sum to Legendre polynomials.

    ``sum_m h_lm(u) h_lm(v) = P_l(u . v)``.

    Parameters
    ----------
    unit
        Unit vectors, shape (E, 3).
    max_l
        Number of degrees, at most 4.

    Returns
    -------
    list
        For each degree ``l`` a tensor of shape (E, 2 l + 1).
    """
    x, y, z = unit.unbind(1)
    out = [torch.ones_like(x).unsqueeze(1)]
    if max_l > 1:
        out.append(unit)
    if max_l > 2:
        s = math.sqrt(3.0)
        out.append(torch.stack([s * x * y, s * y * z, 1.5 * z * z - 0.5, s * x * z, 0.5 * s * (x * x - y * y)], 1))
    if max_l > 3:
        xx, yy, zz = x * x, y * y, z * z
        a, b, c = math.sqrt(5 / 8), math.sqrt(3 / 8), math.sqrt(15.0)
        side = b * (5 * zz - 1)
        third = [
            a * y * (3 * xx - yy),
            c * x * y * z,
            y * side,
            z * (2.5 * zz - 1.5),
            x * side,
            0.5 * c * z * (xx - yy),
            a * x * (xx - 3 * yy),
        ]
        out.append(torch.stack(third, 1))
    return out


def smooth_cutoff(r: Tensor, cutoff: float) -> Tensor:
    """MatterSim's ``1 - 6 x^5 + 15 x^4 - 10 x^3`` with ``x = r / cutoff``, for ``r`` below the cutoff."""
    x = r / cutoff
    return 1 - x * x * x * (x * (6 * x - 15) + 10)


def radial_functions(r: Tensor, coefficients: Tensor, factor: Tensor, cutoff: float, max_n: int, max_l: int) -> Tensor:
    """Spherical Bessel functions (E, max_n * max_l) of distance as MatterSim's ``SphericalBasisLayer`` has them.

    ``coefficients`` (4, 9, 4) and ``factor`` are that layer's ``coef`` and ``factor``; the roots of one order are side
    by side.
    """
    inverse = (cutoff / r).unsqueeze(1)
    x = (r / cutoff).unsqueeze(1)
    c = coefficients[:, :, :max_l]
    out = [torch.sin(c[0, 0] * x) * inverse]
    if max_n > 1:
        kx = c[1, 1] * x
        out.append((c[1, 0] * torch.cos(kx) + c[1, 2] * torch.sin(kx) * inverse) * inverse)
    if max_n > 2:
        kx = c[2, 1] * x
        sin, cos = torch.sin(kx), torch.cos(kx)
        out.append((c[2, 0] * sin + (c[2, 4] * sin * inverse - c[2, 2] * cos) * inverse) * inverse)
    if max_n > 3:
        kx = c[3, 1] * x
        sin, cos = torch.sin(kx), torch.cos(kx)
        inner = (c[3, 6] * sin * inverse - c[3, 4] * cos) * inverse - c[3, 2] * sin
        out.append((c[3, 0] * cos + inner * inverse) * inverse)
    return torch.cat(out, 1) * factor


def three_body_sums(
    centre: Tensor, unit: Tensor, radial: Tensor, weight: Tensor, n_atoms: int, max_n: int, max_l: int
) -> Tensor:
    """Sum over all angles at each bond, (E, max_n * max_l); zero for the only bond of an atom.

    ``unit`` are directions (E, 3), ``radial`` as of :func:`radial_functions`, ``weight`` the cutoff function (E,). The
    degree of channel ``c`` is ``c // max_n``.
    """
    weight = weight.unsqueeze(1)
    weighted = radial * weight
    basis = harmonics(unit, max_l)
    by_degree = weighted.view(-1, max_l, max_n).unbind(1)
    products = [(w.unsqueeze(2) * h.unsqueeze(1)).flatten(1) for w, h in zip(by_degree, basis, strict=True)]
    bonds = torch.cat(products, 1)
    at_atom = bonds.new_zeros(n_atoms, bonds.shape[1]).index_add(0, centre, bonds)
    other_bonds = at_atom.index_select(0, centre) - bonds
    sums = []
    for degree, moments in enumerate(other_bonds.split([max_n * h.shape[1] for h in basis], 1)):
        norm = math.sqrt((2 * degree + 1) / (4 * math.pi))
        along = (moments.view(-1, max_n, 2 * degree + 1) * basis[degree].unsqueeze(1)).sum(2)
        sums.append(norm * along)
    return torch.cat(sums, 1) * weight
