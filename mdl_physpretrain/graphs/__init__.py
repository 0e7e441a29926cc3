"""Structures as graphs: batches of atoms and edges, neighbour lists, kernels over edges."""

from mdl_physpretrain.graphs.batch import AtomicBatch, build_batch, collate
from mdl_physpretrain.graphs.neighbour_lists import neighbour_list

__all__ = ["AtomicBatch", "build_batch", "collate", "neighbour_list"]
