"""MatDeepLearn configurations and networks, as far as they can be tested without it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from typer.testing import CliRunner

from mdl_physpretrain.cli import app
from mdl_physpretrain.errors import CheckpointError, ConfigError
from mdl_physpretrain.graphs.batch import build_batch, collate
from mdl_physpretrain.graphs.subgraphs import select_edges
from mdl_physpretrain.hosts.convert import convert, detect, differences
from mdl_physpretrain.hosts.matdeeplearn.checkpoint import read_matdeeplearn, write_matdeeplearn
from mdl_physpretrain.potentials import CGCNN, EAM, ZBL, Sum, load_model, predict
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.cgcnn.reference_channel import with_reference_channel
from mdl_physpretrain.potentials.registry import model_class
from mdl_physpretrain.structures import write_structures

HOST_LIKE: dict[str, Any] = {"width": 0.2, "smooth_cutoff": False}


def _torchmd(**options: Any) -> EnergyModel:
    torch.manual_seed(6)
    sizes = {"cutoff": 5.0, "hidden_channels": 16, "num_layers": 1, "num_rbf": 8, "num_heads": 2}
    network: Any = model_class("torchmd_et")
    return network(**{**sizes, "smooth_cutoff": False, "own_images": False, **options}).eval()


def _cgcnn(**options: Any) -> CGCNN:
    torch.manual_seed(3)
    model = CGCNN(**{"cutoff": 5.0, "dim1": 20, "dim2": 30, "edge_dim": 12, **HOST_LIKE, **options})
    with torch.no_grad():  # fresh weights give forces near zero
        for conv in model.conv_list:
            conv.lin_f.weight.mul_(4)
            conv.lin_s.weight.mul_(4)
        for norm in model.bn_list:
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2.0)
    return model.eval()


def _written(tmp_path: Path, model: CGCNN | None = None) -> dict[str, Any]:
    write_matdeeplearn(model or _cgcnn(), tmp_path / "host.pt")
    return yaml.safe_load((tmp_path / "host.yml").read_text())


def _changed(content: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    place = content
    *sections, last = key.split(".")
    for section in sections:
        place = place[section]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return content


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pool_order": "early", "batch_norm": False},
        {"images": "nearest", "act": "relu", "pre_fc_count": 2},
        {"max_neighbours": 6, "post_fc_count": 0},
        {"images": "nearest", "max_neighbours": 3, "pre_fc_count": 0, "gc_count": 1},
    ],
)
def test_cgcnn_there_and_back(tmp_path: Path, rocksalt: list[Atoms], options: dict[str, Any]) -> None:
    model = _cgcnn(**options)
    model.save(tmp_path / "native.pt")
    result = convert(tmp_path / "native.pt", tmp_path / "host.pt")
    assert [p.name for p in result.files] == ["host.pt", "host.yml"]
    convert(tmp_path / "host.pt", tmp_path / "back.pt")
    again = load_model(tmp_path / "back.pt", expect="cgcnn")
    assert again.hparams == model.hparams
    worst = differences(model, again, rocksalt[:2])
    assert worst["energy"] == worst["forces"] == worst["stress"] == 0
    content = torch.load(tmp_path / "host.pt", weights_only=True)
    assert "reference_energies" not in content["state_dict"]


def test_distributed_prefix_ensembles_and_bare_states(tmp_path: Path) -> None:
    config = _written(tmp_path)
    content = torch.load(tmp_path / "host.pt", weights_only=True)
    state = content["state_dict"]
    other = {k: v + 1 if v.is_floating_point() and "offset" not in k else v for k, v in state.items()}
    torch.save([content, {"state_dict": {f"module.{k}": v for k, v in other.items()}}], tmp_path / "two.pt")
    torch.save(state, tmp_path / "bare.pt")
    assert detect(tmp_path / "two.pt") == detect(tmp_path / "bare.pt") == "matdeeplearn"
    with pytest.raises(CheckpointError, match=r"two\.pt holds 2 models: choose one"):
        read_matdeeplearn(tmp_path / "two.pt", config)
    with pytest.raises(CheckpointError, match="there is no member 2"):
        read_matdeeplearn(tmp_path / "two.pt", config, member=2)
    first = read_matdeeplearn(tmp_path / "bare.pt", config)
    second = read_matdeeplearn(tmp_path / "two.pt", config, member=1)
    assert (second.lin_out.bias - first.lin_out.bias).item() == pytest.approx(1)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("model.pool", "global_mean_pool", r"model\.pool is 'global_mean_pool'"),
        ("model.pool", None, r"model\.pool is 'global_mean_pool'"),
        ("model.pool", "set2set", r"model\.pool is 'set2set'"),
        ("model.batch_track_stats", False, "batch_track_stats is false"),
        ("model.name", "SchNet", r"'SchNet' has no counterpart here \(CGCNN"),
        ("model.act", "nonsense", "no activation 'nonsense'"),
        ("model.dim1", "many", r"model\.dim1 must be of type int, not 'many'"),
        ("model.dim1", 21, r"does not fit .*pre_lin_list\.0\.weight has shape \(20, 100\), not \(21, 100\)"),
        ("model.gc_count", 3, "are unknown .*bn_list"),
        ("model.gc_count", 5, "entries are missing .*bn_list"),
        ("model.batch_norm", False, "are unknown .*bn_list"),
        ("dataset.prediction_level", "node", "prediction_level is node"),
        ("dataset.preprocess_params", None, "no section 'preprocess_params'"),
        ("dataset.preprocess_params.cutoff_radius", None, "cutoff_radius is missing"),
        ("dataset.preprocess_params.cutoff_radius", 6.0, "made with a cutoff of 5 Å, .* says 6 Å"),
        ("dataset.preprocess_params.cutoff_radius", "far", "cutoff_radius must be a number, not 'far'"),
        ("dataset.preprocess_params.edge_dim", 13, r"distance_expansion\.offset has shape \(12,\), not \(13,\)"),
        ("dataset.preprocess_params.node_dim", 114, "node_dim must be 100"),
        ("dataset.preprocess_params.edge_calc_method", "ase", "edge_calc_method must be 'ocp' or 'mdl'"),
        ("dataset.preprocess_params.n_neighbors", 0, "n_neighbors must be at least 1"),
        ("model", None, "no section 'model'"),
    ],
)
def test_what_a_configuration_may_not_say(tmp_path: Path, key: str, value: Any, match: str) -> None:
    config = _changed(_written(tmp_path), key, value)
    (tmp_path / "changed.yml").write_text(yaml.safe_dump(config))
    with pytest.raises((ConfigError, CheckpointError), match=match):
        read_matdeeplearn(tmp_path / "host.pt", tmp_path / "changed.yml")


def test_what_changes_the_numbers_is_honoured(tmp_path: Path, rocksalt: list[Atoms]) -> None:
    config = _written(tmp_path)
    base = read_matdeeplearn(tmp_path / "host.pt", config)
    for key, value in [
        ("dataset.preprocess_params.edge_calc_method", "mdl"),
        ("dataset.preprocess_params.n_neighbors", 5),
        ("model.act", "relu"),
        ("model.pool_order", "early"),
    ]:
        other = read_matdeeplearn(tmp_path / "host.pt", _changed(_written(tmp_path), key, value))
        assert differences(base, other, rocksalt[:1])["energy"] > 1e-4, key


def test_unknown_options_are_said(tmp_path: Path) -> None:
    config = _changed(_written(tmp_path), "model.dropout_rate", 0.1)
    config["model"]["wings"] = 2
    config["dataset"]["preprocess_params"]["num_offsets"] = 1
    notes = read_matdeeplearn(tmp_path / "host.pt", config).metadata["converted"]["notes"]
    assert any("wings" in n for n in notes)
    assert any("dropout_rate" in n for n in notes)
    assert any("num_offsets" in n and "5 Å" in n for n in notes)


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (_cgcnn(smooth_cutoff=True), "no smooth_cutoff"),
        (_cgcnn(width=0.04), "width 0.2, this one 0.04"),
        (Sum([_cgcnn(), ZBL()]), "no counterpart of a sum of cgcnn and zbl"),
        (Sum([_cgcnn(), EAM(["O"], cutoff=6.0, core=False)]), "this EAM reaches 6 Å"),
        (Sum([_cgcnn(), EAM(["O"], cutoff=5.0)]), "ZBL core"),
    ],
)
def test_what_matdeeplearn_cannot_have(tmp_path: Path, model: Any, match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        write_matdeeplearn(model, tmp_path / "host.pt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("act", ["silu", "relu", "gelu", "softplus"])
@pytest.mark.parametrize("options", [{}, {"batch_norm": False, "pre_fc_count": 2, "post_fc_count": 0}])
def test_folded_references_give_the_same_energies(rocksalt: list[Atoms], act: str, options: dict[str, Any]) -> None:
    model = _cgcnn(act=act, **options).double()
    model.reference_energies[8], model.reference_energies[12] = -432.5, 3.25
    folded = with_reference_channel(model)
    assert not folded.reference_energies.any()
    lone = Atoms("O", cell=[20, 20, 20], pbc=True)
    worst = differences(model, folded, [*rocksalt[:3], lone])
    assert worst["energy"] < 1e-7
    assert worst["forces"] < 1e-9
    single = differences(model.float(), folded.float(), rocksalt[:3])
    assert single["energy"] < 2e-3  # of 3400 eV, in float32
    assert single["forces"] < 1e-4


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"act": "tanh"}, "activation 'tanh' is not the identity"),
        ({"pool_order": "early"}, "pool_order 'late'"),
        ({"pre_fc_count": 0}, "pre_fc_count of at least 1"),
    ],
)
def test_references_that_cannot_be_folded(options: dict[str, Any], match: str) -> None:
    model = _cgcnn(**options)
    model.reference_energies[8] = -4.0
    with pytest.raises(CheckpointError, match=match):
        with_reference_channel(model)


def test_hybrid_there_and_back(tmp_path: Path, rocksalt: list[Atoms]) -> None:
    eam = EAM(["Mg", "O"], cutoff=5.0, n_basis=3, core=False)
    hybrid = Sum([_cgcnn(), eam], frozen=[1]).eval()
    hybrid.parts[0].reference_energies[8] = -4.5  # type: ignore[index, operator]
    write_matdeeplearn(hybrid, tmp_path / "host.pt", references="beside")
    config = yaml.safe_load((tmp_path / "host.yml").read_text())
    assert config["model"]["name"] == "mdl_physpretrain.hosts.matdeeplearn.CGCNN_EAM"
    again = read_matdeeplearn(tmp_path / "host.pt", config)
    assert again.hparams == hybrid.hparams
    assert not any(p.requires_grad for p in again.parts[1].parameters())  # type: ignore[index, operator]
    assert differences(hybrid, again, rocksalt[:2])["energy"] == 0
    with pytest.raises(CheckpointError, match="cannot be folded into a sum"):
        write_matdeeplearn(hybrid, tmp_path / "x.pt", references="fold")


def test_hybrid_of_an_earlier_version(tmp_path: Path, rocksalt: list[Atoms]) -> None:
    """Without a prefix, its options beside the network's."""
    hybrid = Sum([_cgcnn(), EAM(["Mg", "O"], cutoff=5.0, n_basis=3, core=False)]).eval()
    write_matdeeplearn(hybrid, tmp_path / "host.pt")
    config, content = yaml.safe_load((tmp_path / "host.yml").read_text()), torch.load(tmp_path / "host.pt")
    model = config["model"]
    model |= {"atom_types": model.pop("eam_args")["atom_types"], "n_basis": 3, "freeze_params": True}
    content["state_dict"] = {k.removeprefix("eam_potential."): v for k, v in content["state_dict"].items()}
    torch.save(content, tmp_path / "old.pt")
    again = read_matdeeplearn(tmp_path / "old.pt", config)
    assert again.hparams["frozen"] == [1]
    assert differences(hybrid, again, rocksalt[:2])["energy"] == 0


@pytest.mark.parametrize("order", ["late", "early"])
def test_torchmd_hybrid_there_and_back(tmp_path: Path, rocksalt: list[Atoms], order: str) -> None:
    network = _torchmd(pool_order=order)
    hybrid = Sum([network, EAM(["Mg", "O"], cutoff=4.0, n_basis=3, core=False)]).eval()
    write_matdeeplearn(hybrid, tmp_path / "host.pt")
    config = yaml.safe_load((tmp_path / "host.yml").read_text())
    assert config["model"]["pool_order"] == order
    assert config["model"]["eam_args"]["cutoff_radius"] == 4.0
    assert all(k.startswith("eam_potential.") for k in torch.load(tmp_path / "host.pt")["state_dict"] if "eam" in k)
    again = read_matdeeplearn(tmp_path / "host.pt", config)
    assert differences(hybrid, again, rocksalt[:2])["energy"] == 0
    del config["model"]["eam_args"]["cutoff_radius"]  # then 8 Å, as in the authors' class
    with pytest.raises(ConfigError, match="longer than the network's graph"):
        read_matdeeplearn(tmp_path / "host.pt", config)


@pytest.mark.parametrize(
    ("written", "taken", "note"),
    [("late", "late", "is honoured"), ("early", "early", None), (None, "early", "without pool_order is taken as")],
)
def test_pool_order_of_torchmd_early(
    tmp_path: Path, rocksalt: list[Atoms], written: str | None, taken: str, note: str | None
) -> None:
    """The branch of the authors honours it under this name, the public class ignores it."""
    model = _torchmd(pool_order=taken)
    write_matdeeplearn(model, tmp_path / "host.pt")
    config = yaml.safe_load((tmp_path / "host.yml").read_text())
    config["model"] |= {"name": "torchmd_etEarly", "pool_order": written}
    if written is None:
        del config["model"]["pool_order"]
    again = read_matdeeplearn(tmp_path / "host.pt", config)
    assert again.hparams["pool_order"] == taken
    assert differences(model, again, rocksalt[:2])["energy"] == 0
    notes = " ".join(again.metadata["converted"]["notes"])
    assert note is None or note in notes
    config["model"]["pool_order"] = "middle"
    with pytest.raises(ConfigError, match="pool_order must be 'early' or 'late', not 'middle'"):
        read_matdeeplearn(tmp_path / "host.pt", config)


def test_lone_question_marks_in_a_yaml_file(tmp_path: Path) -> None:
    """As in the files of the paper's authors: keys without name and value."""
    write_matdeeplearn(_cgcnn(), tmp_path / "host.pt")
    text = (tmp_path / "host.yml").read_text().replace("model:", "?\nmodel:").replace("dataset:", "?\ndataset:")
    (tmp_path / "host.yml").write_text(text)
    assert text.count("?") == 2
    assert read_matdeeplearn(tmp_path / "host.pt", tmp_path / "host.yml").registry_name == "cgcnn"


def test_reference_energies_are_refused_folded_or_written_beside(tmp_path: Path, rocksalt: list[Atoms]) -> None:
    model = _cgcnn()
    model.reference_energies[8], model.reference_energies[12] = -4.5, -1.5
    with pytest.raises(CheckpointError, match="have no reference energies, and this model has"):
        write_matdeeplearn(model, tmp_path / "host.pt")
    write_matdeeplearn(model, tmp_path / "folded.pt", references="fold")
    folded = read_matdeeplearn(tmp_path / "folded.pt", tmp_path / "folded.yml")
    assert differences(model, folded, rocksalt[:2])["energy"] < 1e-3
    assert not folded.reference_energies.any()
    write_matdeeplearn(model, tmp_path / "beside.pt", references="beside")
    beside = yaml.safe_load((tmp_path / "beside.yml").read_text())
    assert beside["model"]["reference_energies"] == {"O": -4.5, "Mg": -1.5}
    again = read_matdeeplearn(tmp_path / "beside.pt", beside)
    assert differences(model, again, rocksalt[:2])["energy"] == 0
    with pytest.raises(ConfigError, match="references must be one of"):
        write_matdeeplearn(model, tmp_path / "x.pt", references="ignore")


@pytest.mark.parametrize("limit", [None, 3, 7])
@pytest.mark.parametrize("images", ["all", "nearest"])
def test_selected_edges_are_those_of_a_plain_search(rocksalt: list[Atoms], images: str, limit: int | None) -> None:
    small = rocksalt[0][[0, 1, 4]]  # an uneven cell, with several images of every atom in reach
    batch = collate([build_batch(a, 5.0, dtype=torch.float64) for a in (small, rocksalt[1])])
    r = torch.linalg.vector_norm(batch.edge_vectors(), dim=1)
    centre, neighbour = batch.edge_index.numpy()
    kept = range(len(r))
    if images == "nearest":
        nearest: dict[tuple[int, int], int] = {}
        for e in kept:
            pair = (int(centre[e]), int(neighbour[e]))
            if pair[0] != pair[1] and (pair not in nearest or r[e] < r[nearest[pair]]):
                nearest[pair] = e
        kept = sorted(nearest.values())
    if limit is not None:
        group = neighbour if images == "nearest" else centre
        kept = sorted(
            e for g in set(group) for e in sorted((e for e in kept if group[e] == g), key=lambda e: r[e])[:limit]
        )
    found = select_edges(batch, r, images=images, limit=limit)
    if images == "all" and limit is None:
        assert found is None
    else:
        np.testing.assert_array_equal(np.sort(found.numpy()), np.array(kept))


def test_no_edges_at_all() -> None:
    model = _cgcnn(images="nearest", max_neighbours=2)
    out = predict(model, build_batch(Atoms("O", cell=[20, 20, 20], pbc=True), 5.0))
    assert torch.isfinite(out.energy).all()
    assert not out.forces.any()


def test_bad_hyper_parameters() -> None:
    with pytest.raises(ConfigError, match="images must be 'all' or 'nearest'"):
        CGCNN(images="some")
    with pytest.raises(ConfigError, match="max_neighbours must be at least 1"):
        CGCNN(max_neighbours=0)


def test_command_says_what_it_found_wrote_and_how_well(tmp_path: Path, rocksalt: list[Atoms]) -> None:
    write_structures(tmp_path / "cells.extxyz", rocksalt[:2])
    _cgcnn().save(tmp_path / "net.pt", elements=["Mg", "O"])
    run = CliRunner().invoke
    there = run(
        app, ["convert", str(tmp_path / "net.pt"), str(tmp_path / "h.pt"), "--check", str(tmp_path / "cells.extxyz")]
    )
    assert there.exit_code == 0, there.output
    assert "(native): cgcnn" in there.output
    assert "elements Mg, O" in there.output
    assert "h.yml (matdeeplearn)" in there.output
    assert "energy 0 eV, forces 0 eV/Å" in there.output
    command = ["convert", str(tmp_path / "h.pt"), str(tmp_path / "back.pt")]
    assert run(app, command).exit_code == 0
    assert load_model(tmp_path / "back.pt").registry_name == "cgcnn"
    again = run(app, command)
    assert again.exit_code == 2
    assert "exists" in again.output
    assert run(app, [*command, "--force"]).exit_code == 0
    (tmp_path / "second.yml").write_text("a: 1")
    (tmp_path / "h.pt").rename(tmp_path / "other.pt")
    lost = run(app, ["convert", str(tmp_path / "other.pt"), str(tmp_path / "z.pt")])
    assert lost.exit_code == 2
    assert "2 YAML files beside it" in " ".join(lost.output.split())
    same = run(
        app, ["convert", str(tmp_path / "other.pt"), str(tmp_path / "other.pt"), "--config", str(tmp_path / "h.yml")]
    )
    assert same.exit_code == 2
    assert "would overwrite what is read" in " ".join(same.output.split())


def test_files_that_are_no_model(tmp_path: Path) -> None:
    torch.save({"a": 1}, tmp_path / "plain.pt")
    with pytest.raises(CheckpointError, match="none of a model"):
        detect(tmp_path / "plain.pt")
    torch.save({"pytorch-lightning_version": "2.0", "state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match="not one of MatterTune"):
        detect(tmp_path / "other.ckpt")
    with pytest.raises(ConfigError, match="kind of checkpoint must be one of"):
        convert(tmp_path / "plain.pt", tmp_path / "x.pt", source_kind="pickle")
