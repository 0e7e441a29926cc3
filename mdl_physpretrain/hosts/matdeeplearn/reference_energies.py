"""Reference energies moved into the weights of a CGCNN.

MatDeepLearn's networks have no reference energies. One more channel can carry
them: the first layer writes ``e(Z) + c`` into it (``c`` so large that the
activation is the identity there), the convolutions and the layers after them
hand it on, the last one adds it up and subtracts ``c``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mdl_physpretrain.errors import CheckpointError
from mdl_physpretrain.potentials.cgcnn.model import CGCNN

__all__ = ["fold_references"]

LIFT = 40.0  # the smooth activations equal the identity in float64 from here on
CLOSED = -200.0  # a gate that lets nothing pass


@torch.no_grad()
def fold_references(model: CGCNN) -> CGCNN:
    """The same energies from a network with one more channel and no reference energies.

    Exact in evaluation. Training it further with batch normalisation in
    training mode (as MatDeepLearn does) would normalise the new channel away.

    Parameters
    ----------
    model
        With late pooling and at least one layer before the convolutions.

    Raises
    ------
    CheckpointError
        If the network cannot hold them.
    """
    if model.pool_order != "late" or not len(model.pre_lin_list):
        raise CheckpointError(
            "reference energies can be folded into a CGCNN with pool_order 'late' and pre_fc_count of at least 1 only"
        )
    energies = model.reference_energies[1 : model.pre_lin_list[0].weight.shape[1] + 1]  # type: ignore[operator, index]
    lift = LIFT - min(0.0, float(energies.min()))
    carried = energies + lift
    if not torch.allclose(model.act(carried), carried, rtol=1e-7, atol=0):
        raise CheckpointError(
            f"reference energies cannot be folded: the activation {model.hparams['act']!r} is not the identity at "
            "large arguments"
        )
    wider = {**model.hparams, "dim1": model.hparams["dim1"] + 1, "dim2": model.hparams["dim2"] + 1}
    folded = CGCNN(**wider).to(model.dtype)
    for k, (new, old) in enumerate(zip(_linears(folded.pre_lin_list), _linears(model.pre_lin_list), strict=True)):
        _extend(new, old, passes=k > 0)
        if k == 0:
            new.weight[-1] = carried
    new_conv: Any
    old_conv: Any
    for new_conv, old_conv in zip(folded.conv_list, model.conv_list, strict=True):
        for name in ("lin_f", "lin_s"):
            _extend_convolution(getattr(new_conv, name), getattr(old_conv, name), old_conv.dim)
        new_conv.lin_f.bias[-1] = CLOSED
    new_norm: Any
    old_norm: Any
    for new_norm, old_norm in zip(folded.bn_list, model.bn_list, strict=True):
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(new_norm, name)[:-1] = getattr(old_norm, name)
        new_norm.weight[-1], new_norm.bias[-1], new_norm.running_mean[-1] = 1.0, 0.0, 0.0
        new_norm.running_var[-1] = 1.0 - new_norm.eps
        new_norm.num_batches_tracked.copy_(old_norm.num_batches_tracked)
    for new, old in zip(_linears(folded.post_lin_list), _linears(model.post_lin_list), strict=True):
        _extend(new, old, passes=True)
    folded.lin_out.weight[:, :-1] = model.lin_out.weight
    folded.lin_out.weight[:, -1] = 1.0
    folded.lin_out.bias.copy_(model.lin_out.bias - lift)
    folded.metadata = dict(model.metadata)
    return folded.train(model.training)


def _linears(layers: nn.ModuleList) -> list[Any]:
    return list(layers)


def _extend(new: nn.Linear, old: nn.Linear, *, passes: bool) -> None:
    """Copy a layer into one with a channel more, which is handed on or left empty."""
    new.weight.zero_()
    new.bias.zero_()
    rows, columns = old.weight.shape
    new.weight[:rows, :columns] = old.weight
    new.bias[:rows] = old.bias
    if passes:
        new.weight[-1, -1] = 1.0


def _extend_convolution(new: nn.Linear, old: nn.Linear, dim: int) -> None:
    """Columns are centre, neighbour, edge; the new channel of both atoms is not looked at."""
    new.weight.zero_()
    new.bias.zero_()
    pieces: list[Tensor] = [old.weight[:, :dim], old.weight[:, dim : 2 * dim], old.weight[:, 2 * dim :]]
    new.weight[:dim, :dim] = pieces[0]
    new.weight[:dim, dim + 1 : 2 * dim + 1] = pieces[1]
    new.weight[:dim, 2 * dim + 2 :] = pieces[2]
    new.bias[:dim] = old.bias
