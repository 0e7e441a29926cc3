"""Networks as one compiled graph: the formula's numbers for every size of batch, and the formula where that fails."""

from __future__ import annotations

import shutil
import warnings
from typing import Any

import pytest
import torch
from labelled_cells import rocksalt_cells
from small_potentials import small
from torch import Tensor

from mdl_physpretrain.dynamics import simulate
from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.graphs.batch import AtomicBatch, build_batch, collate
from mdl_physpretrain.potentials import EnergyModel, Prediction, predict
from mdl_physpretrain.potentials import compiled_graph as module
from mdl_physpretrain.potentials.compiled_graph import compiled

#: Name, options, sizes of batches (structures, repetitions of their cells), and how many graphs these need.
CASES: dict[str, tuple[str, dict[str, Any], list[tuple[int, int]], int]] = {
    "a single structure has a graph of its own": ("cgcnn", {"gc_count": 1}, [(2, 1), (3, 1), (1, 1), (2, 2)], 2),
    "early": ("cgcnn", {"pool_order": "early", "batch_norm": False, "pre_fc_count": 0}, [(2, 1), (4, 1)], 1),
    "pairs with many images": ("torchmd_et", {"num_layers": 2}, [(2, 1), (3, 1)], 1),
    "pairs with one image": ("torchmd_et", {"num_layers": 1, "distance_influence": "keys"}, [(2, 3), (3, 3)], 1),
}


def network(name: str = "cgcnn", **options: Any) -> EnergyModel:
    model = small(name, **(options or {"gc_count": 1} if name == "cgcnn" else options))
    for part in model.leaves():
        part.fast = False
    return model


def batch_of(model: EnergyModel, count: int, repeat: int = 1) -> AtomicBatch:
    cells = [atoms.repeat(repeat) for atoms in rocksalt_cells()[:count]]
    return collate([build_batch(atoms, model.cutoff, torch.float64) for atoms in cells])


def assert_equal(one: Prediction, other: Prediction) -> None:
    for name in ("energy", "forces", "stress"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-9, atol=1e-10)


@pytest.fixture
def traced(monkeypatch) -> list[torch.fx.GraphModule]:
    """Graphs are traced, and interpreted instead of compiled."""
    graphs: list[torch.fx.GraphModule] = []

    def interpret(graph: torch.fx.GraphModule, examples: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    monkeypatch.setattr(module, "inductor", interpret)
    return graphs


@pytest.mark.parametrize("case", CASES)
def test_one_graph_has_the_formulas_numbers_for_batches_of_any_size(case: str, traced) -> None:
    name, options, sizes, graphs = CASES[case]
    model = network(name, **options)
    batches = [batch_of(model, *size) for size in sizes]
    expected = [predict(model, batch) for batch in batches]
    with compiled(model, True):
        results = [predict(model, batch) for batch in batches]
    for one, other in zip(results, expected, strict=True):
        assert_equal(one, other)
    assert len(traced) == graphs
    for graph in traced:  # no weight is a constant in it
        assert not any("param" in str(node.target) for node in graph.graph.nodes if node.op == "get_attr")


@pytest.mark.parametrize("name", ["cgcnn", "torchmd_et"])
def test_graphs_are_of_single_precision_too(name: str, traced) -> None:
    model = small(name, torch.float32, **({"gc_count": 1} if name == "cgcnn" else {"num_layers": 1}))
    model.fast = False
    batches = [batch_of(model, n).to(dtype=torch.float32) for n in (2, 3)]
    with compiled(model, True):
        for batch in batches:
            one, other = predict(model, batch), _formula(model, batch)
            torch.testing.assert_close(one.forces, other.forces, rtol=1e-4, atol=1e-5)
    assert len(traced) == 1


def test_weights_are_read_when_it_begins_and_the_graph_stays(traced) -> None:
    model = network()
    batch = batch_of(model, 2)
    for _ in range(2):
        with compiled(model, True):
            assert_equal(predict(model, batch), _formula(model, batch))
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(1.1)
    assert len(traced) == 1
    assert model.compiled_gradient is None


def _formula(model: EnergyModel, batch: AtomicBatch) -> Prediction:
    """With the derivatives that training asks for, which no compiled graph has."""
    return predict(model, batch, create_graph=True)


def test_parts_of_sums_are_compiled_and_teachers_and_cores_are_not(traced) -> None:
    model = network("sum")
    batch = batch_of(model, 2)
    expected = predict(model, batch)
    with compiled(model, True):
        assert_equal(predict(model, batch), expected)
    assert len(traced) == 1


def test_advice_to_take_fewer_digits_is_no_failure(monkeypatch) -> None:
    """The compiler gives it on GPUs that have TensorFloat32."""

    def advising(graph: Any, examples: Any) -> Any:
        warnings.warn("TensorFloat32 tensor cores for float32 matrix multiplication available", stacklevel=1)
        return graph

    monkeypatch.setattr(module, "inductor", advising)
    model = network()
    batch = batch_of(model, 2)
    with warnings.catch_warnings(), compiled(model, True):
        warnings.simplefilter("error")
        assert_equal(predict(model, batch), _formula(model, batch))
        assert model.compiled_gradient is not None
        assert not model.compiled_gradient.failed


def _wrong(graph: Any, examples: Any) -> Any:
    return lambda *inputs: [x * 1.01 for x in graph(*inputs)]


def _failing(graph: Any, examples: Any) -> Any:
    raise OSError("no compiler\nof any kind")


@pytest.mark.parametrize(
    ("compiler", "case", "why"),
    [
        (_wrong, {}, "its numbers are not those of the formula"),
        (_failing, {}, "OSError: no compiler$"),
        (_wrong, {"smooth_cutoff": False}, "asks for values of tensors"),
    ],
)
def test_what_cannot_be_compiled_says_so_once_and_takes_the_formula(compiler, case, why: str, monkeypatch) -> None:
    monkeypatch.setattr(module, "inductor", compiler)
    model = network("cgcnn", **case)
    batch = batch_of(model, 2)
    expected = predict(model, batch)
    with compiled(model, True):
        with pytest.warns(UserWarning, match=f"cgcnn is not compiled but evaluated by its formula.*{why}"):
            assert_equal(predict(model, batch), expected)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert_equal(predict(model, batch), expected)


def test_unknown_elements_are_errors_as_ever(traced) -> None:
    model = network("torchmd_et")
    batch = batch_of(model, 2)
    batch.numbers[3] = 105
    with compiled(model, True), pytest.raises(StructureError, match="knows the elements"):
        predict(model, batch)


def test_dynamics_are_those_of_the_formula(traced, tmp_path) -> None:
    model, starts = network(), rocksalt_cells()[:2]
    options: dict[str, Any] = {"steps": 8, "ensemble": "npt", "temperature": 50.0, "taup": 200.0}
    one, other = (simulate(model, starts, compiled=how, **options) for how in (True, None))
    assert len(traced) == 1  # `None` compiles nothing on a CPU
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a.positions, b.positions, rtol=0, atol=1e-9)
    with pytest.raises(ConfigError, match="compiled must be true, false or null, not 'yes'"):
        simulate(model, starts, compiled="yes")  # type: ignore[arg-type]


@pytest.mark.long
@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="needs a C++ compiler")
def test_inductor_compiles_it_once_for_two_sizes() -> None:
    model = network("cgcnn", gc_count=1, post_fc_count=0, batch_norm=False, pre_fc_count=0)
    batches = [batch_of(model, 2), batch_of(model, 5)]
    expected = [predict(model, batch) for batch in batches]
    with warnings.catch_warnings(), compiled(model, True):
        warnings.simplefilter("error", UserWarning)  # nothing fell back to the formula
        gradient: Any = model.compiled_gradient
        for batch, other in zip(batches, expected, strict=True):
            assert_equal(predict(model, batch), other)
    assert len(gradient.graphs) == 1
