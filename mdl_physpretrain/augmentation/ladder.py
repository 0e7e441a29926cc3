"""Strengths of the augmentation rounds (Table A.1 of the paper)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from mdl_physpretrain.errors import ConfigError

__all__ = ["TABLE_A1", "Ladder", "strength_ladder"]

Ladder = Literal["down", "up"]

#: Table A.1: options of :func:`mdl_physpretrain.augmentation.augment` by (dataset, backbone).
TABLE_A1: dict[tuple[str, str], dict[str, Any]] = {
    (dataset, backbone): {"n_aug": n_aug, "n_pairs": n_pairs, "pull": pull, "n_sites": 5, "perturb": perturb}
    for dataset, backbone, n_aug, n_pairs, pull, perturb in (
        ("silica", "cgcnn", 5, 4, 1.0, 1.0),
        ("silica", "torchmd", 5, 4, 1.0, 1.0),
        ("silica", "m3gnet", 5, 2, 1.0, 1.0),
        ("phosphorus", "cgcnn", 5, 2, 1.0, 1.0),
        ("phosphorus", "torchmd", 20, 2, 2.0, 2.0),
        ("phosphorus", "m3gnet", 5, 2, 1.0, 0.5),
        ("mptrj", "cgcnn", 10, 2, 0.5, 0.25),
        ("mptrj", "torchmd", 25, 2, 1.0, 0.5),
        ("mptrj", "m3gnet", 25, 2, 1.0, 0.5),
    )
}


def strength_ladder(maximum: float, n_aug: int, ladder: Ladder = "down") -> np.ndarray:
    """Strength of every round, shape (n_aug,), in Å.

    Parameters
    ----------
    maximum
        Largest strength in Å.
    n_aug
        Number of rounds.
    ladder
        ``"down"``: Table A.1's ``[max, 0)``, the strongest first and zero left
        out; ``"up"``: the authors' script, ``linspace(0, max, n_aug)``, whose
        first round leaves the structure as it is.

    Raises
    ------
    ConfigError
        On a value out of range.

    Examples
    --------
    >>> strength_ladder(1.0, 5).round(1).tolist()
    [1.0, 0.8, 0.6, 0.4, 0.2]
    """
    if not (np.isfinite(maximum) and maximum >= 0):
        raise ConfigError(f"a strength must be finite and not negative (Å), not {maximum}")
    if n_aug < 1:
        raise ConfigError(f"n_aug must be at least 1, not {n_aug}")
    if ladder == "down":
        return np.linspace(maximum, 0.0, n_aug, endpoint=False)
    if ladder == "up":
        return np.linspace(0.0, maximum, n_aug)
    raise ConfigError(f"ladder must be 'down' or 'up', not {ladder!r}")
