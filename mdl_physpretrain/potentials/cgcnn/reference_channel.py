"""Reference energies moved into the weights of a CGCNN, for programs whose networks have none.

One more channel carries them: the first layer writes ``e(Z) + c`` into it
(``c`` so large that the activation is the identity there), the convolutions and
the layers after them hand it on, the last one adds it up and subtracts ``c``.
"""

from __future__ import annotations

from typing import Any

import torch

from mdl_physpretrain.errors import CheckpointError
from mdl_physpretrain.potentials.cgcnn.model import CGCNN

__all__ = ["with_reference_channel"]

LIFT = 40.0  # the smooth activations equal the identity in float64 from here on
CLOSED = -200.0  # a gate that lets nothing pass


@torch.no_grad()
def with_reference_channel(model: CGCNN) -> CGCNN:
    """The same energies from a network with one more channel and no reference energies.

    Exact in evaluation. Training it further with batch normalisation in training mode (as MatDeepLearn does) would
    normalise the new channel away. Raises CheckpointError where late pooling or a layer before the convolutions is
    missing.
    """
    if model.pool_order != "late" or not len(model.pre_lin_list):
        raise CheckpointError(
            "reference energies can be folded into a CGCNN with pool_order 'late' and pre_fc_count of at least 1 only"
        )
    old: Any = model
    energies = old.reference_energies[1 : old.pre_lin_list[0].weight.shape[1] + 1]
    lift = LIFT - min(0.0, float(energies.min()))
    carried = energies + lift
    if not torch.allclose(model.act(carried), carried, rtol=1e-7, atol=0):
        raise CheckpointError(
            f"reference energies cannot be folded: the activation {model.hparams['act']!r} is not the identity at "
            "large arguments"
        )
    wider = {**model.hparams, "dim1": model.hparams["dim1"] + 1, "dim2": model.hparams["dim2"] + 1}
    new: Any = CGCNN(**wider).to(model.dtype)
    for k, (wide, layer) in enumerate(zip(new.pre_lin_list, old.pre_lin_list, strict=True)):
        _widen(wide, layer)
        if k == 0:
            wide.weight[-1] = carried
        else:
            wide.weight[-1, -1] = 1.0
    for wide, layer in zip(new.conv_list, old.conv_list, strict=True):
        # columns are centre, neighbour, edge; the new channel of both atoms is not looked at
        n = layer.lin_f.weight.shape[1]
        columns = [c for c in range(n + 2) if c not in (layer.dim, 2 * layer.dim + 1)]
        _widen(wide.lin_f, layer.lin_f, columns)
        _widen(wide.lin_s, layer.lin_s, columns)
        wide.lin_f.bias[-1] = CLOSED
    for wide, layer in zip(new.bn_list, old.bn_list, strict=True):
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(wide, name)[:-1] = getattr(layer, name)
        wide.weight[-1], wide.bias[-1], wide.running_mean[-1] = 1.0, 0.0, 0.0
        wide.running_var[-1] = 1.0 - wide.eps
        wide.num_batches_tracked.copy_(layer.num_batches_tracked)
    for wide, layer in zip(new.post_lin_list, old.post_lin_list, strict=True):
        _widen(wide, layer)
        wide.weight[-1, -1] = 1.0
    _widen(new.lin_out, old.lin_out)
    new.lin_out.weight[:, -1] = 1.0
    new.lin_out.bias -= lift
    new.metadata = dict(model.metadata)
    return new.train(model.training)


def _widen(new: Any, old: Any, columns: list[int] | None = None) -> None:
    """Copy a layer into a larger one, whose other weights become zero."""
    new.weight.zero_()
    new.bias.zero_()
    rows, n = old.weight.shape
    new.weight[:rows, list(range(n)) if columns is None else columns] = old.weight
    new.bias[:rows] = old.bias
