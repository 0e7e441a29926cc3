"""Batches of a training: neighbour lists made once, a seeded order in every epoch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from ase import Atoms
from torch.utils.data import DataLoader, Sampler

from mdl_physpretrain.graphs.batch import AtomicBatch, build_batch, collate

__all__ = ["EpochSampler", "loader"]


class EpochSampler(Sampler[int]):
    """Indices in an order that depends on the seed and the epoch alone.

    A resumed training therefore sees the batches an uninterrupted one would
    have seen. Of several processes each takes its share.

    Parameters
    ----------
    n
        Number of finetuning structures (indices ``0 .. n-1``).
    n_replay
        Number of replay structures, at indices ``n .. n + n_replay - 1``.
    replay_fraction
        Share of replay structures in an epoch, drawn afresh each time.
    seed
        Of the order.
    weights
        Of the replay structures in the drawing, shape (n_replay,); ``None``: equal.
    """

    def __init__(
        self,
        n: int,
        *,
        n_replay: int = 0,
        replay_fraction: float = 0.0,
        seed: int = 0,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.n, self.n_replay, self.seed, self.epoch = n, n_replay, seed, 0
        self.weights = None if weights is None else torch.as_tensor(weights, dtype=torch.float64)
        self.replayed = min(n_replay, round(n * replay_fraction / (1 - replay_fraction))) if n_replay else 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil((self.n + self.replayed) / _processes()[0])

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        chosen = torch.arange(self.n)
        if self.replayed:
            if self.weights is None:
                extra = torch.randperm(self.n_replay, generator=generator)[: self.replayed]
            else:
                extra = torch.multinomial(self.weights, self.replayed, generator=generator)
            chosen = torch.cat([chosen, extra + self.n])
        order = chosen[torch.randperm(len(chosen), generator=generator)].tolist()
        world, rank = _processes()
        order += order[: len(self) * world - len(order)]  # equal shares, or the others would wait for ever
        return iter(order[rank::world])


def _processes() -> tuple[int, int]:
    """Number of training processes and which one this is."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_world_size(), torch.distributed.get_rank()
    return 1, 0


def loader(
    structures: Sequence[Atoms],
    cutoff: float,
    *,
    batch_size: int,
    dtype: torch.dtype,
    sampler: EpochSampler | None = None,
    n_replay: int = 0,
) -> DataLoader[AtomicBatch]:
    """Batches of structures with their neighbour lists computed once.

    Parameters
    ----------
    structures
        Labelled structures; replay structures, if any, at the end.
    cutoff
        Of the model, in Å.
    batch_size
        Structures per batch.
    dtype
        Of the model.
    sampler
        Order; sequential without one.
    n_replay
        How many of the structures, the last ones, are replayed.
    """
    data = [build_batch(atoms, cutoff, dtype) for atoms in structures]
    for batch in data[len(data) - n_replay :]:
        batch.replayed = torch.ones_like(batch.replayed)
    return DataLoader(data, batch_size=batch_size, sampler=sampler, collate_fn=collate)  # type: ignore[arg-type]
