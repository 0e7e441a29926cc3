"""The plugin inside the real MatDeepLearn: models, transform, losses, SAM."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from mdl_jobs import CGCNN, TORCHMD, job, run_job

from mdl_physpretrain.augmentation import augment
from mdl_physpretrain.errors import CheckpointError, ConfigError, TeacherRefused
from mdl_physpretrain.graphs.batch import build_batch
from mdl_physpretrain.potentials import EAM, predict
from mdl_physpretrain.teacher import label

pytestmark = pytest.mark.hosts

pytest.importorskip("matdeeplearn", reason="MatDeepLearn is not installed")

ELEMENTS = ["Li", "O", "Mn"]
EAM_MODEL = {"name": "mdl_physpretrain.hosts.matdeeplearn.EAM_Interaction", "atom_types": ELEMENTS, "n_basis": 4}


@pytest.fixture(scope="module")
def cells(demo_cells) -> list[Atoms]:
    """Sixteen small Li-Mn-O cells."""
    structures = demo_cells(16, 12)
    assert {s for a in structures for s in a.symbols} == set(ELEMENTS)
    return structures


@pytest.fixture
def eam() -> EAM:
    torch.manual_seed(3)
    model = EAM(ELEMENTS, cutoff=4.5, n_basis=4, core=False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1 + 0.3 * torch.rand_like(parameter)
    return model


def host_model(name: str, **options: Any) -> Any:
    from mdl_physpretrain.hosts import matdeeplearn as plugin

    graph = {"cutoff_radius": 4.5, "n_neighbors": 250, "graph_method": "ocp", "num_offsets": 3, "edge_dim": 20}
    flags = {"otf_edge_index": True, "otf_edge_attr": True, "otf_node_attr": True, "gradient": True}
    return getattr(plugin, name)(node_dim=100, output_dim=1, **graph, **flags, **options)


def host_batch(structures: list[Atoms]) -> Any:
    from torch_geometric.data import Batch, Data

    return Batch.from_data_list(
        [
            Data(
                pos=torch.tensor(a.positions, dtype=torch.float32),
                cell=torch.tensor(a.cell.array[None], dtype=torch.float32),
                z=torch.tensor(a.numbers),
                n_atoms=torch.tensor([len(a)]),
            )
            for a in structures
        ]
    )


@pytest.mark.parametrize("training", [False, True])
def test_eam_has_our_numbers(cells: list[Atoms], eam: EAM, training: bool) -> None:
    from mdl_physpretrain.hosts.matdeeplearn.eam_layout import eam_from_layout, eam_to_layout

    model = host_model("EAM_Interaction", atom_types=ELEMENTS, n_basis=4).train(training)
    model.load_state_dict(eam_to_layout(eam))  # strict: the released keys, no others
    chosen = cells[7:14:3]  # large forces, beside which the rounding of single precision is small
    out = model(host_batch(chosen))
    first = 0
    for k, atoms in enumerate(chosen):
        ours = predict(eam.double(), build_batch(atoms, 4.5, torch.float64))
        scale = max(1.0, float(ours.forces.abs().max()))
        assert out["output"][k].item() == pytest.approx(ours.energy.item(), rel=1e-5)
        forces = out["pos_grad"][first : first + len(atoms)].detach().double()
        assert torch.allclose(forces, ours.forces, rtol=0, atol=1e-5 * scale)
        assert torch.allclose(out["cell_grad"][k].detach().double(), ours.stress[0], rtol=1e-5, atol=1e-5)
        first += len(atoms)
    assert out["pos_grad"].requires_grad == training
    back = eam_from_layout(model.state_dict(), ELEMENTS, cutoff=4.5)
    assert all(torch.equal(a, b.float()) for a, b in zip(back.parameters(), eam.parameters(), strict=True))


def test_eam_options(tmp_path: Path, eam: EAM) -> None:
    from mdl_physpretrain.hosts.matdeeplearn.eam_layout import eam_to_layout

    ones = host_model("EAM_Interaction", atom_types=ELEMENTS).state_dict()
    assert len(ones) == 5 * 6 + 3 * 3
    assert all(bool((v == 1).all()) for k, v in ones.items() if ".rm." not in k)
    torch.save({"state_dict": eam_to_layout(eam)}, tmp_path / "host.pt")
    eam.save(tmp_path / "ours.pt")
    for name in ("host.pt", "ours.pt"):
        made = host_model("EAM_Interaction", atom_types=ELEMENTS, init_mode=str(tmp_path / name))
        assert all(torch.equal(v, made.state_dict()[k]) for k, v in eam_to_layout(eam).items())
    frozen = host_model("EAM_Interaction", atom_types=ELEMENTS, freeze_params=["rm", "rho0"])
    assert {k.split(".")[2] for k, p in frozen.named_parameters() if not p.requires_grad} == {"rm", "rho0"}
    with pytest.raises(ConfigError, match="freeze_params: unknown r_m"):
        host_model("EAM_Interaction", atom_types=ELEMENTS, freeze_params=["r_m"])
    with pytest.raises(ConfigError, match="init_mode"):
        host_model("EAM_Interaction", atom_types=ELEMENTS, init_mode="zeros")
    with pytest.raises(CheckpointError, match="elements are"):
        host_model("EAM_Interaction", atom_types=["O", "Li", "Mn"], init_mode=str(tmp_path / "ours.pt"))


def test_eam_fitted_by_the_host_improves_and_comes_back(cells: list[Atoms], tmp_path: Path, monkeypatch) -> None:
    from mdl_physpretrain.hosts.matdeeplearn.checkpoint import read_matdeeplearn

    config = job(EAM_MODEL, optim__max_epochs=1, optim__lr=1e-9)
    before = run_job(tmp_path / "start", config, cells, monkeypatch)
    config = job(EAM_MODEL, optim__max_epochs=60, optim__lr=0.03)
    after = run_job(tmp_path / "fit", config, cells, monkeypatch)
    errors = [_total_error(folder, "train") for folder in (before, after)]
    assert errors[1] < 0.1 * errors[0]  # measured: 222.7 and 4.5
    ours = read_matdeeplearn(after / "checkpoint_0" / "best_checkpoint.pt", tmp_path / "fit" / "config.yml").double()
    table = np.genfromtxt(
        after / "train_results" / "test_predictions_pos_grad.csv", delimiter=",", skip_header=1, dtype=str
    )
    for atoms in cells[-2:]:
        rows = table[[name.strip("[]'") == atoms.info["structure_id"] for name in table[:, 0]]]
        theirs = rows[:, -3:].astype(float)
        mine = predict(ours, build_batch(atoms, 4.5, torch.float64)).forces.numpy()
        assert np.abs(mine - theirs).max() < 1e-5 * max(1.0, np.abs(mine).max())


def _total_error(results: Path, part: str) -> float:
    total = 0.0
    for weight, kind, width in ((0.01, "", 1), (50.0, "_pos_grad", 3), (50.0, "_cell_grad", 9)):
        file = results / "train_results" / f"{part}_predictions{kind}.csv"
        values = np.genfromtxt(file, delimiter=",", skip_header=1, dtype=str)[:, -2 * width :].astype(float)
        total += weight * float(np.abs(values[:, :width] - values[:, width:]).mean())
    return total


@pytest.mark.parametrize(
    ("name", "options"),
    [("CGCNN_EAM", CGCNN), ("TorchMD_EAM", TORCHMD), ("TorchMD_EAM", {**TORCHMD, "pool_order": "late"})],
)
def test_hybrid_is_the_sum_and_ours_too(cells: list[Atoms], eam: EAM, name: str, options: dict[str, Any]) -> None:
    from matdeeplearn.models import cgcnn
    from matdeeplearn.models.torchmd_et import TorchMD_ET
    from matdeeplearn.models.torchmd_etEarly import TorchMD_ET_Early

    from mdl_physpretrain.hosts.matdeeplearn.eam_layout import HYBRID_PREFIX, eam_to_layout
    from mdl_physpretrain.hosts.matdeeplearn.potential import native_of

    network = {k: v for k, v in options.items() if k != "name"}
    eam_args = {"atom_types": ELEMENTS, "n_basis": 4, "init_mode": "covalent_radius", "cutoff_radius": 4.5}
    hybrid = host_model(name, eam_args=eam_args, **network)
    hybrid.load_state_dict({**hybrid.state_dict(), **{HYBRID_PREFIX + k: v for k, v in eam_to_layout(eam).items()}})
    late = options["pool_order"] == "late"
    parent = cgcnn.CGCNN if name == "CGCNN_EAM" else TorchMD_ET if late else TorchMD_ET_Early
    alone = parent(
        node_dim=100, edge_dim=20, output_dim=1, cutoff_radius=4.5, n_neighbors=250, graph_method="ocp", num_offsets=3,
        otf_edge_index=True, otf_edge_attr=True, otf_node_attr=True, gradient=True, **network,
    )  # fmt: skip
    alone.load_state_dict({k: v for k, v in hybrid.state_dict().items() if not k.startswith(HYBRID_PREFIX)})
    batch = host_batch(cells[:2])
    with torch.no_grad():  # as the host validates
        both, one = hybrid.eval()(batch.clone()), alone.eval()(batch.clone())
    term = host_model("EAM_Interaction", atom_types=ELEMENTS, n_basis=4).eval()
    term.load_state_dict(eam_to_layout(eam))
    other = term(batch.clone())
    for key in ("output", "pos_grad", "cell_grad"):
        assert torch.allclose(both[key], one[key] + other[key], rtol=1e-5, atol=1e-6)
    hybrid.train()(batch.clone())["pos_grad"].sum().backward()
    assert all(p.grad is not None for k, p in hybrid.named_parameters() if ".A." in k or "attention" in k)
    config = job({**options, "name": f"mdl_physpretrain.hosts.matdeeplearn.{name}", "eam_args": eam_args})
    ours = predict(native_of(hybrid, config), build_batch(cells[0], 4.5, torch.float64))
    assert ours.energy.item() == pytest.approx(both["output"][0].item(), rel=1e-5, abs=1e-4)
    scale = max(1.0, float(ours.forces.abs().max()))
    assert torch.allclose(ours.forces.float(), both["pos_grad"][: len(cells[0])], rtol=0, atol=1e-4 * scale)


def test_hybrid_options(tmp_path: Path, eam: EAM) -> None:
    """Those of the authors and the short ones of earlier versions mean the same."""
    eam.save(tmp_path / "eam.pt")
    network = {k: v for k, v in CGCNN.items() if k != "name"}
    args = {"atom_types": ELEMENTS, "cutoff_radius": 4.5}
    theirs = host_model(
        "CGCNN_EAM", eam_args=args, load_trained_eam=str(tmp_path / "eam.pt"), freeze_eam=True, **network
    )
    short = host_model(
        "CGCNN_EAM", atom_types=ELEMENTS, init_mode=str(tmp_path / "eam.pt"), freeze_params=True, **network
    )
    for key, value in theirs.eam_potential.state_dict().items():
        assert torch.equal(value, short.eam_potential.state_dict()[key])
    for made in (theirs, short):
        assert not any(p.requires_grad for p in made.eam_potential.parameters())
        assert all(p.requires_grad for k, p in made.named_parameters() if not k.startswith("eam_potential"))
    for wrong, message in (
        ({"eam_args": {"atom_types": ELEMENTS}}, "longer than the network's graph"),  # 8 Å, as theirs
        ({"eam_args": {**args, "cutof": 4.0}}, "unknown cutof"),
        ({"eam_args": args, "n_basis": 4}, "not both"),
        ({}, "atom_types is required"),
    ):
        with pytest.raises(ConfigError, match=message):
            host_model("CGCNN_EAM", **wrong, **network)


def host_items(structures: list[Atoms], tmp_path: Path, **transform: Any) -> Any:
    from mdl_physpretrain.hosts.matdeeplearn.data import host_data

    config = job(CGCNN)["dataset"]
    made = host_data(structures, config, tmp_path / "set.json")
    if transform:
        from mdl_physpretrain.hosts import matdeeplearn as plugin

        made.transform = plugin.AugmentAndLabel(**transform)
    return made


@pytest.mark.parametrize("anchor", [False, True])
def test_transform_is_our_augmentation_and_labels(cells: list[Atoms], eam: EAM, tmp_path: Path, anchor: bool) -> None:
    from mdl_physpretrain.hosts.matdeeplearn.data import structures_of

    eam.double().save(tmp_path / "eam.pt")
    options = {"n_aug": 3, "pull": 0.4, "perturb": 0.3, "pairs": "every-kind"}
    plain = host_items(cells[:2], tmp_path)
    changed = host_items(cells[:2], tmp_path, teacher=str(tmp_path / "eam.pt"), seed=7, anchor=anchor, **options)
    parents = structures_of(plain)
    anchors = parents if anchor else None
    expected = [label(augment(parents, seed=7 + n, **options), eam, anchor=anchor, parents=anchors) for n in range(3)]
    for k in range(2):
        start = int(changed.transform.draw(parents[k].info["structure_id"])[1])
        changed.transform.accesses.clear()
        for access in range(5):
            count = start + access
            reference = expected[count // 3][3 * k + count % 3]
            item = changed[k]
            assert np.allclose(item.pos.numpy(), reference.positions, atol=1e-5)
            assert item.y.item() == pytest.approx(reference.get_potential_energy(), rel=1e-6)
            assert np.allclose(item.forces.numpy(), reference.get_forces(), rtol=1e-5, atol=1e-4)
            assert np.allclose(item.stress[0].numpy(), reference.get_stress(voigt=False), rtol=1e-5, atol=1e-5)
    assert np.allclose(plain[0].pos.numpy(), cells[0].positions, atol=1e-5)  # the stored item is as it was


def test_transform_limits_forces_and_refuses_edges(cells: list[Atoms], eam: EAM, tmp_path: Path) -> None:
    eam.double().save(tmp_path / "eam.pt")
    options = {"teacher": str(tmp_path / "eam.pt"), "n_aug": 4, "max_force": 1e-6}
    kept = host_items(cells[:1], tmp_path, **options)[0]
    assert np.allclose(kept.pos.numpy(), cells[0].positions, atol=1e-5)
    kept.edge_index = torch.zeros(2, 0, dtype=torch.int64)
    with pytest.raises(ConfigError, match="preprocess_edges"):
        host_items(cells[:1], tmp_path, **options).transform(kept)
    with pytest.raises(ConfigError, match="n_par"):
        host_items(cells[:1], tmp_path, teacher=str(tmp_path / "eam.pt"), n_par=2)


def test_transform_refuses_a_teacher_that_is_not_finite(cells: list[Atoms], eam: EAM, tmp_path: Path) -> None:
    with torch.no_grad():
        eam.D.fill_(float("nan"))
    eam.save(tmp_path / "eam.pt")
    with pytest.raises(CheckpointError, match="the weight D is NaN"):
        host_items(cells[:1], tmp_path, teacher=str(tmp_path / "eam.pt"), n_aug=2)


def test_transform_refuses_a_teacher_that_failed(cells: list[Atoms], eam: EAM, tmp_path: Path) -> None:
    eam.metadata["examination"] = {"passed": False, "failures": ["Mg-O: no wall"]}
    eam.save(tmp_path / "eam.pt")
    with pytest.raises(TeacherRefused, match="Mg-O: no wall"):
        host_items(cells[:1], tmp_path, teacher=str(tmp_path / "eam.pt"))
    host_items(cells[:1], tmp_path, teacher=str(tmp_path / "eam.pt"), force=True)


def test_transform_in_workers_draws_afresh_every_epoch(cells: list[Atoms], eam: EAM, tmp_path: Path) -> None:
    from torch_geometric.loader import DataLoader

    eam.double().save(tmp_path / "eam.pt")
    data = host_items(cells[:1], tmp_path, teacher=str(tmp_path / "eam.pt"), n_aug=3)
    loader = DataLoader(data, batch_size=1, num_workers=1)
    first, second = (next(iter(loader)).pos for _ in range(2))
    assert not torch.allclose(first, second, atol=1e-3)


def test_transform_in_a_job(cells: list[Atoms], eam: EAM, tmp_path: Path, monkeypatch) -> None:
    eam.double().save(tmp_path / "eam.pt")
    config = job(CGCNN)
    args = {"teacher": str(tmp_path / "eam.pt"), "n_aug": 3, "pull": 0.3, "perturb": 0.2}
    name = "mdl_physpretrain.hosts.matdeeplearn.AugmentAndLabel"
    config["dataset"]["transforms"].append({"name": name, "args": {**args, "round": 2}, "otf_transform": False})
    results = run_job(tmp_path / "job", config, cells, monkeypatch)
    table = np.genfromtxt(results / "train_results" / "test_predictions.csv", delimiter=",", skip_header=1, dtype=str)
    labelled = label(augment(cells[-2:], **{k: v for k, v in args.items() if k != "teacher"}), eam)
    energies = {a.info["parent_id"]: a.get_potential_energy() for a in labelled if a.info["aug_round"] == 2}
    for row in table:
        assert float(row[1]) == pytest.approx(energies[row[0].strip("[]'")], rel=1e-4)


def test_loss_equals_ours_and_names_what_is_missing(cells: list[Atoms], tmp_path: Path) -> None:
    from matdeeplearn.modules.loss import ForceStressLoss
    from torch_geometric.data import Batch

    from mdl_physpretrain.hosts.matdeeplearn import EFSLoss
    from mdl_physpretrain.potentials.base import Prediction
    from mdl_physpretrain.training.loss import EFSLoss as OurLoss

    items = [host_items(cells[:2], tmp_path)[k] for k in range(2)]
    batch = Batch.from_data_list(items)
    torch.manual_seed(0)
    out = {"output": torch.randn(2, 1), "pos_grad": torch.randn(len(batch.z), 3), "cell_grad": torch.randn(2, 3, 3)}
    weights = {"weight_energy": 0.1, "weight_force": 2.0, "weight_stress": 3.0}
    assert EFSLoss(**weights)(out, batch).item() == pytest.approx(
        ForceStressLoss(**weights)(out, batch).item(), rel=1e-6
    )
    from mdl_physpretrain.graphs.batch import collate

    ours = OurLoss(0.1, 2.0, 3.0, force_scale=0.5)
    prediction = Prediction(out["output"][:, 0], out["pos_grad"], out["cell_grad"])
    reference = ours(prediction, collate([build_batch(a, 3.0) for a in cells[:2]]))
    assert EFSLoss(**weights, force_scale=0.5)(out, batch).item() == pytest.approx(reference.item(), rel=1e-4)
    batch.forces[0] = float("nan")
    assert np.isfinite(EFSLoss(**weights, force_scale=0.5)(out, batch).item())
    del batch.stress
    with pytest.raises(ConfigError, match="additional_attributes"):
        EFSLoss(**weights)(out, batch)
    assert np.isfinite(EFSLoss(weight_stress=0.0)({**out, "cell_grad": None}, batch).item())


def test_sam_takes_the_gradient_at_the_worst_point(cells: list[Atoms], tmp_path: Path, monkeypatch) -> None:
    from matdeeplearn.preprocessor.processor import process_data
    from mdl_jobs import write_job

    from mdl_physpretrain.hosts.matdeeplearn import SAMTrainer, register

    register()
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    config = job({**CGCNN, "batch_norm": True}, optim__clip_grad_norm=1e9, physpretrain={"sam": 0.1})
    config["optim"]["optimizer"] = {"optimizer_type": "SGD", "optimizer_args": {}}
    config["optim"].update(lr=0.01, max_epochs=1, batch_size=100)
    config["task"]["run_mode"] = "train"
    write_job(tmp_path, config, cells[:8])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    process_data(config["dataset"])
    trainer = SAMTrainer.from_config(config)
    assert trainer.sam_radius == 0.1
    (model,) = trainer.model
    batch = next(iter(trainer.data_loader[0]["train_loader"]))
    reference = copy.deepcopy(model).train()
    gradient = _gradient(reference, trainer.loss_fn, batch)
    mean = reference.bn_list[0].running_mean.clone()
    norm = torch.sqrt(sum(g.square().sum() for g in gradient))
    with torch.no_grad():
        for parameter, g in zip(reference.parameters(), gradient, strict=True):
            parameter += 0.1 * g / norm
    steepest = _gradient(reference, trainer.loss_fn, batch)
    start = [p.detach().clone() for p in model.parameters()]
    model.train()
    (out,) = trainer._forward([batch.clone()])
    trainer._backward(trainer.loss_fn(out, batch), 0)
    for new, old, g in zip(model.parameters(), start, steepest, strict=True):
        assert torch.allclose(new, old - 0.01 * g, rtol=1e-4, atol=1e-6)
    assert torch.allclose(model.bn_list[0].running_mean, mean)  # the second pass leaves the statistics alone


def test_left_handed_cells_are_turned_round(cells: list[Atoms], tmp_path: Path) -> None:
    """MatDeepLearn's networks flip the stress there; what we write for it has none."""
    from matdeeplearn.models import cgcnn

    from mdl_physpretrain.hosts.matdeeplearn.data import right_handed, structures_of

    left = cells[0].copy()
    left.cell = left.cell.array[[1, 0, 2]]
    left.calc = cells[0].calc
    options = {k: v for k, v in CGCNN.items() if k != "name"}
    network = cgcnn.CGCNN(
        node_dim=100, edge_dim=20, output_dim=1, cutoff_radius=4.5, n_neighbors=250, graph_method="ocp", num_offsets=3,
        otf_edge_index=True, otf_edge_attr=True, otf_node_attr=True, gradient=True, **options,
    ).eval()  # fmt: skip
    stresses = [network(host_batch([a]))["cell_grad"] for a in (cells[0], left, right_handed(left))]
    assert torch.allclose(stresses[1], -stresses[0], atol=1e-6)
    assert torch.allclose(stresses[2], stresses[0], atol=1e-6)
    (read,) = structures_of(host_items([left], tmp_path))
    assert np.linalg.det(read.cell.array) > 0
    assert np.allclose(read.get_forces(), cells[0].get_forces(), atol=1e-5)
    assert np.allclose(read.get_stress(), cells[0].get_stress(), atol=1e-6)


def test_replay_and_what_is_minimised() -> None:
    """Replayed items are drawn at random; while training another loss than the reported one may be minimised."""
    from mdl_physpretrain.hosts.matdeeplearn.data import Replay
    from mdl_physpretrain.hosts.matdeeplearn.sam_step import SAMStep

    torch.manual_seed(0)
    mixed = Replay(list(range(30)), list(range(100, 140)), 0.5)
    assert len(mixed) == 60
    assert [mixed[k] for k in range(30)] == list(range(30))
    draws = [[mixed[k] for k in range(30, 60)] for _ in range(2)]
    assert draws[0] != draws[1]
    assert all(100 <= v < 140 for v in draws[0] + draws[1])
    assert Replay(list(range(30)), [1, 2], 0.5).replayed == 2

    class Host:
        loss_fn = staticmethod(lambda out, batch: ("reported", out, batch))

        def _compute_loss(self, out: Any, batch: Any) -> Any:
            return [self.loss_fn(o, b) for o, b in zip(out, batch, strict=True)]

    class Trainer(SAMStep, Host):
        model = (torch.nn.Linear(1, 1),)

    trainer = Trainer()
    assert trainer._compute_loss([1], [2]) == [("reported", 1, 2)]
    trainer.step_loss = lambda out, batch: ("minimised", out, batch)
    assert trainer._compute_loss([1], [2]) == [("minimised", 1, 2)]
    trainer.model[0].eval()
    assert trainer._compute_loss([1], [2]) == [("reported", 1, 2)]


def _gradient(model: Any, loss: Any, batch: Any) -> list[torch.Tensor]:
    copied = batch.clone()
    return list(torch.autograd.grad(loss(model(copied), copied), list(model.parameters())))
