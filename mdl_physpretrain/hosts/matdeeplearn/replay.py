"""Finetuning data with labelled structures among them."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import Dataset

__all__ = ["Replay"]


class Replay(Dataset):
    """A data set followed by random items of another, drawn at every access.

    Parameters
    ----------
    data
        Taken as it is.
    labelled
        Replayed from.
    fraction
        Share of replayed items, in [0, 1).
    """

    def __init__(self, data: Any, labelled: Any, fraction: float) -> None:
        self.data, self.labelled = data, labelled
        self.replayed = min(len(labelled), round(len(data) * fraction / (1 - fraction)))

    def __len__(self) -> int:
        return len(self.data) + self.replayed

    def __getitem__(self, index: int) -> Any:
        if index < len(self.data):
            return self.data[index]
        return self.labelled[int(torch.randint(len(self.labelled), ()))]
