"""Energies and their gradient of a network as one graph of fused kernels, made by PyTorch's compiler.

A formula asks a GPU for hundreds of small kernels, whose launches take longer than their work. Here the energies and
their derivative are traced together, once; what depends on the weights alone leaves the graph; the rest is compiled
with sizes as symbols, so that one compilation serves batches of any size. :meth:`EnergyModel.energies` stays the
reference: every graph is compared with it on the first batch it sees.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch._inductor import compile as compile_with_inductor
from torch._inductor import config as inductor_config
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from mdl_physpretrain.graphs.batch import AtomicBatch
from mdl_physpretrain.potentials.base import EnergyModel

__all__ = ["CompiledGradient", "Graph", "compiled", "trace"]

STEPS = 1000  # evaluations from which it is worth its time, a minute
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-3}  # of the first batch, relative to its largest number
#: Fields of a batch that a network may read, and the number of atoms (N), structures (B) or edges (E) in each.
FIELDS: dict[str, tuple[str | int, ...]] = {
    "numbers": ("N",), "positions": ("N", 3), "cells": ("B", 3, 3), "pbc": ("B", 3), "structure": ("N",),
    "edge_index": (2, "E"), "edge_shifts": ("E", 3),
}  # fmt: skip

#: For GPUs: parts of a tensor that are put beside each other are written by one kernel, not by one each.
GPU_OPTIONS = {name: True for name in ("force_pointwise_cat",) if hasattr(inductor_config, name)}

Compiler = Callable[[GraphModule, list[Any]], Any]
Inputs = dict[str, Tensor]
Dims = dict[str, tuple[str | int, ...]]


@contextlib.contextmanager
def compiled(model: EnergyModel, when: bool | None, evaluations: int = STEPS) -> Iterator[None]:
    """Within it, energies and gradients of the networks of a model come from compiled graphs; weights must not change.

    Parameters
    ----------
    model
        Networks that cannot be traced, and those that have machine code on a CPU, are evaluated as ever.
    when
        ``None``: on a CUDA device, for at least 1,000 evaluations.
    evaluations
        How many are to come.
    """
    leaves = [leaf for leaf in model.leaves() if leaf.role == "network"]
    if when is None:  # nobody asked for it: nothing is said of networks that cannot be compiled
        when = model.device.type == "cuda" and evaluations >= STEPS
        leaves = [leaf for leaf in leaves if type(leaf).list_values is not EnergyModel.list_values]
    leaves = leaves if when else []
    for leaf in leaves:
        leaf.compiled_gradient = _GRADIENTS.setdefault(leaf, CompiledGradient())
        leaf.compiled_gradient.take_weights(leaf)
    try:
        yield
    finally:
        for leaf in leaves:
            leaf.compiled_gradient = None


class CompiledGradient:
    """Compiled graphs of one network, by what they were traced for; without one where that has failed."""

    def __init__(self) -> None:
        self.graphs: dict[tuple, Graph] = {}
        self.failed = False
        self._kind: tuple = ()

    def take_weights(self, model: EnergyModel) -> None:
        """Compute anew what depends on the weights alone."""
        state = _state(model)
        kind = (*((x.shape, x.dtype, x.device) for x in state.values()), *(m.training for m in model.modules()))
        if kind != self._kind:
            self.graphs, self._kind = {}, kind
        for graph in self.graphs.values():
            graph.take_weights(state)

    def __call__(self, model: EnergyModel, batch: AtomicBatch, vectors: Tensor) -> tuple[Tensor, Tensor] | None:
        """Energies (B,) in eV and gradient (E, 3) in eV/Å; ``None`` where the formula has to be taken.

        Raises
        ------
        StructureError
            On elements that the model does not know.
        """
        if self.failed or not len(vectors) or torch.is_autocast_enabled(vectors.device.type):
            return None
        values = model.list_values(batch, vectors)
        if values is None:
            self._give_up(model, "its formula asks for values of tensors")
            return None
        inputs, dims, sizes = _inputs(batch, vectors, values)
        key = (vectors.dtype, vectors.device, *dims.values(), *(s == 1 for s in sizes.values()))
        try:
            if key not in self.graphs:
                self.graphs[key] = Graph(model, inputs, dims, sizes, values, inductor)
            graph = self.graphs[key]
            if not graph.serves(sizes):
                return None
            out = graph(inputs)
        except torch.cuda.OutOfMemoryError:
            raise
        except Exception as error:  # PyTorch's compiler and those below it fail in any way
            message = next(iter(str(error).strip().splitlines()), "")
            self._give_up(model, f"{type(error).__name__}: {message[:200]}")
            return None
        if not graph.compared and not _agree(out, model.formula_gradient(batch, vectors)):
            self._give_up(model, "its numbers are not those of the formula")
            return None
        graph.compared = True
        return out

    def _give_up(self, model: EnergyModel, why: str) -> None:
        self.failed, self.graphs = True, {}
        name = model.registry_name or type(model).__name__
        warnings.warn(f"{name} is not compiled but evaluated by its formula, more slowly: {why}", stacklevel=4)


def inductor(graph: GraphModule, examples: list[Any]) -> Any:
    """PyTorch's compiler."""
    on_gpu = any(isinstance(x, Tensor) and x.device.type == "cuda" for x in examples)
    return compile_with_inductor(graph, examples, options=GPU_OPTIONS if on_gpu else None)


def trace(model: EnergyModel, batch: AtomicBatch, vectors: Tensor, compiler: Compiler) -> Graph | None:
    """The graph of a model for batches like this one, by any compiler; ``None`` for a model that cannot be traced."""
    values = model.list_values(batch, vectors)
    return None if values is None else Graph(model, *_inputs(batch, vectors, values), values, compiler)


_GRADIENTS: weakref.WeakKeyDictionary[EnergyModel, CompiledGradient] = weakref.WeakKeyDictionary()


class Graph:
    """One traced and compiled function of weights and inputs.

    Sizes are symbols, but for those that are 1. ``compiler`` makes a function of a graph and its examples.
    """

    def __init__(
        self,
        model: EnergyModel,
        inputs: Inputs,
        dims: Dims,
        sizes: dict[str, int],
        values: dict[str, Any],
        compiler: Compiler,
    ) -> None:
        self._shapes = ShapeEnv()
        mode = FakeTensorMode(shape_env=self._shapes, allow_non_fake_inputs=True)
        self._symbols = _symbols(mode, self._shapes, sizes)
        self._expressions = {k: s.node.expr for k, s in self._symbols.items() if isinstance(s, torch.SymInt)}
        state = _state(model)
        with mode:
            examples = {
                name: torch.empty(
                    [self._symbols[d] if isinstance(d, str) else d for d in dims[name]], dtype=x.dtype, device=x.device
                )
                for name, x in inputs.items()
            }
        weights = {name: mode.from_tensor(x, static_shapes=True) for name, x in state.items()}

        def function(*tensors: Tensor) -> list[Tensor]:
            given = dict(zip([*weights, *examples], tensors, strict=True))
            return _energy_and_gradient(model, {n: given[n] for n in weights}, given, values)

        with mode:
            traced = make_fx(function, tracing_mode="symbolic", _allow_non_fake_inputs=True)(
                *weights.values(), *examples.values()
            )
        self._constants, main = _without_constants(traced, len(weights))
        self.take_weights(state)
        with torch.no_grad():
            folded = [mode.from_tensor(x, static_shapes=True) for x in self._weights]
            with warnings.catch_warnings():  # products in TensorFloat32 would have three digits, too few for forces
                warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")
                self._run = compiler(main, [*folded, *examples.values()])
        if any(self._shapes.replacements.get(s, s).is_number for s in self._expressions.values()):
            raise RuntimeError("the formula is traced for one size only")
        self._served: dict[tuple[int, ...], bool] = {}
        self.compared = False  # with the formula

    def take_weights(self, state: Inputs) -> None:
        """Compute what depends on the weights alone."""
        with torch.no_grad():
            self._weights = torch.fx.Interpreter(self._constants).run(*state.values())

    def serves(self, sizes: dict[str, int]) -> bool:
        """Whether the conditions under which it was compiled hold for sizes, such as that integers are large enough."""
        key = tuple(sizes.values())
        if key not in self._served:
            values = {symbol: sizes[name] for name, symbol in self._expressions.items()}
            self._served[key] = all(bool(guard.expr.xreplace(values)) for guard in self._shapes.guards)
        return self._served[key]

    def __call__(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            energy, gradient = self._run(*self._weights, *inputs.values())
        return energy, gradient.contiguous()


def _energy_and_gradient(model: EnergyModel, weights: Inputs, given: Inputs, values: dict[str, Any]) -> list[Tensor]:
    """What is traced: the formula and its derivative, with given weights and given values that depend on lists."""
    fields = {name: given[name] for name in FIELDS}
    batch = AtomicBatch.without_labels(**fields, list_cutoff=model.cutoff)
    caches, fast = {name: getattr(model, name) for name in values}, model.fast
    model.fast = False  # machine code cannot be traced
    for name, value in values.items():
        caches[name].fixed = _with_tensors(value, [given[k] for k in _tensors(name, value)])
    try:
        with torch.enable_grad():
            leaf = given["vectors"].detach().requires_grad_(True)
            energy = torch.func.functional_call(_Energies(model), {f"model.{k}": x for k, x in weights.items()},
                                                (batch, leaf))  # fmt: skip
            (gradient,) = torch.autograd.grad(energy.sum(), leaf)
    finally:
        model.fast = fast
        for cache in caches.values():
            cache.fixed = None
    return [energy.detach(), gradient]


class _Energies(torch.nn.Module):
    """``energies`` as what a module does."""

    def __init__(self, model: EnergyModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: AtomicBatch, vectors: Tensor) -> Tensor:
        return self.model.energies(batch, vectors)


def _without_constants(traced: GraphModule, n_weights: int) -> tuple[GraphModule, GraphModule]:
    """Two graphs: of what depends on the first inputs alone, and of the rest, which takes the results of the former."""
    nodes = list(traced.graph.nodes)
    constant = set(nodes[:n_weights])
    for node in nodes:
        used = node.all_input_nodes
        if node.op == "call_function" and used and all(x in constant for x in used):
            constant.add(node)
    border = [x for x in nodes if x in constant and any(user not in constant for user in x.users)]
    constants, main = torch.fx.Graph(), torch.fx.Graph()
    copies: dict[torch.fx.Node, torch.fx.Node] = {}
    for node in (x for x in nodes if x in constant):
        copies[node] = constants.node_copy(node, copies.__getitem__)
    constants.output([copies[x] for x in border])
    copies = {x: main.placeholder(f"weight_{k}") for k, x in enumerate(border)}
    for node in (x for x in nodes if x not in constant):
        copies[node] = main.node_copy(node, copies.__getitem__)
    main.eliminate_dead_code()
    return GraphModule(traced, constants), GraphModule(traced, main)


def _state(model: EnergyModel) -> Inputs:
    return {name: x.detach() for name, x in itertools.chain(model.named_parameters(), model.named_buffers())}


def _inputs(batch: AtomicBatch, vectors: Tensor, values: dict[str, Any]) -> tuple[Inputs, Dims, dict[str, int]]:
    """Inputs by name, their sizes in names and numbers, and what the names are: N, B, E, those of values."""
    inputs = {name: getattr(batch, name).detach() for name in FIELDS} | {"vectors": vectors.detach()}
    dims: Dims = {**FIELDS, "vectors": ("E", 3)}
    sizes = {"N": len(batch.numbers), "B": len(batch), "E": len(vectors)}
    for name, value in values.items():
        names = {len(vectors): "E"}  # tensors of a value that are as long as the list, or as each other, always are
        for label, tensor in _tensors(name, value).items():
            length = names.setdefault(len(tensor), label)
            inputs[label], dims[label], sizes[length] = tensor, (length, *tensor.shape[1:]), len(tensor)
    return inputs, dims, sizes


def _tensors(name: str, value: Any) -> Inputs:
    """The tensors of a value, a tensor itself or a dataclass of some, by labels."""
    if isinstance(value, Tensor):
        return {name: value}
    if not dataclasses.is_dataclass(value):
        return {}
    parts = {f"{name}.{f.name}": getattr(value, f.name) for f in dataclasses.fields(value)}
    return {label: x for label, x in parts.items() if isinstance(x, Tensor)}


def _with_tensors(value: Any, tensors: list[Tensor]) -> Any:
    """The value with other tensors in the places of its own."""
    if isinstance(value, Tensor):
        return tensors[0]
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    names = [f.name for f in dataclasses.fields(value) if isinstance(getattr(value, f.name), Tensor)]
    return dataclasses.replace(value, **dict(zip(names, tensors, strict=True)))


def _symbols(mode: FakeTensorMode, shapes: ShapeEnv, sizes: dict[str, int]) -> dict[str, Any]:
    """A symbol for every size but 1; no two have the same example, which would make them one."""
    symbols: dict[str, Any] = {}
    examples: set[int] = set()
    context = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC], constraint_sizes=[None])
    for name, size in sizes.items():
        if size == 1:
            symbols[name] = 1
            continue
        while size in examples:
            size += 1
        examples.add(size)
        symbols[name] = mode.from_tensor(torch.empty(size), symbolic_context=context).shape[0]
    return symbols


def _agree(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> bool:
    """Whether energies and gradients are equal to rounding; those that are not finite say nothing."""
    tolerance = TOLERANCES.get(other[1].dtype, 0.02)
    for a, b in zip(one, other, strict=True):
        largest = b.abs().max()
        if bool(largest.isfinite()) and not bool((a - b).abs().max() <= tolerance * (largest + 1e-3)):
            return False
    return True
