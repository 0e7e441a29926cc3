"""Sharpness-aware minimisation: its definition, and what must not notice the perturbed weights."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from ase import Atoms
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn

from mdl_physpretrain.errors import CheckpointError, ConfigError
from mdl_physpretrain.graphs.batch import build_batch, collate
from mdl_physpretrain.potentials import EAM, load_model, predict
from mdl_physpretrain.potentials.error_metrics import evaluate
from mdl_physpretrain.structures import write_structures
from mdl_physpretrain.structures.labels import Labels, set_labels
from mdl_physpretrain.training import EFSLoss, new_network, train
from mdl_physpretrain.training.data import loader
from mdl_physpretrain.training.module import TrainingModule
from mdl_physpretrain.training.sam import ClosureSAM

SMALL = {"cutoff": 4.0, "dim1": 12, "dim2": 12, "gc_count": 2, "post_fc_count": 1, "edge_dim": 16}
RHO, CLIP, LR, DECAY = 0.05, 0.3, 1e-2, 0.1


@pytest.fixture
def labelled(rocksalt: list[Atoms]) -> list[Atoms]:
    """Rock salt with the labels of an EAM."""
    torch.manual_seed(0)
    teacher = EAM(["O", "Mg"], cutoff=4.0, n_basis=2).double()
    with torch.no_grad():
        teacher.B.mul_(0.05)
        teacher.rm.fill_(2.1)
    for atoms in rocksalt:
        out = predict(teacher, build_batch(atoms, 4.0, torch.float64))
        set_labels(atoms, Labels(float(out.energy[0]), out.forces.detach().numpy(), out.stress[0].detach().numpy()))
    return rocksalt


def student(labelled: list[Atoms], **args: Any) -> Any:
    return new_network("cgcnn", labelled, model_args={**SMALL, **args}).double().train()


def by_definition(
    model: nn.Module, steps: int, loss_of: Callable[[nn.Module, int], torch.Tensor], clip: float | None
) -> list[float]:
    """Foret et al., Algorithm 1, over AdamW, in plain torch; returns the losses before each step."""
    parameters = list(model.parameters())
    adamw = torch.optim.AdamW(parameters, lr=LR, weight_decay=DECAY)
    losses = []
    for step in range(steps):
        first = loss_of(model, step)
        losses.append(first.item())
        gradients = torch.autograd.grad(first, parameters, materialize_grads=True)
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        up = deepcopy(model)
        with torch.no_grad():
            for p, g in zip(up.parameters(), gradients, strict=True):
                p += RHO * g / norm
        second = torch.autograd.grad(loss_of(up, step), list(up.parameters()), materialize_grads=True)
        norm = torch.cat([g.flatten() for g in second]).norm()
        factor = 1.0 if clip is None else min(1.0, clip / (float(norm) + 1e-6))  # torch's clip_grad_norm_
        assert clip is None or factor < 1
        for p, g in zip(parameters, second, strict=True):
            p.grad = factor * g
        adamw.step()
    return losses


def test_a_step_is_the_definition() -> None:
    torch.manual_seed(3)
    mine = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)).double()
    other = deepcopy(mine)
    x, y = torch.randn(5, 10, 4, dtype=torch.float64), torch.randn(5, 10, 1, dtype=torch.float64)

    def loss_of(net: nn.Module, step: int) -> torch.Tensor:
        return (net(x[step]) - y[step]).square().mean()

    sam = ClosureSAM(mine.parameters(), rho=RHO, perturbed=nullcontext, lr=LR, weight_decay=DECAY)
    losses = []
    for step in range(5):

        def closure(step: int = step) -> torch.Tensor:
            sam.zero_grad()
            loss = loss_of(mine, step)
            loss.backward()
            return loss

        losses.append(sam.step(closure).item())
    assert losses == pytest.approx(by_definition(other, 5, loss_of, None), rel=1e-12)
    for a, b in zip(mine.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("clip", [None, CLIP])
def test_a_training_is_the_definition(labelled: list[Atoms], clip: float | None) -> None:
    mine = student(labelled)
    other = deepcopy(mine)
    loss = EFSLoss(0.01, 50.0, 50.0)
    module = TrainingModule(
        mine, loss, learning_rate=LR, weight_decay=DECAY, scheduler={"factor": 0.5}, optimizer="sam", rho=RHO
    )
    trainer = fitted(module, labelled, gradient_clip_val=clip)
    batches = [collate([build_batch(a, 4.0, torch.float64) for a in labelled[k : k + 4]]) for k in (0, 4)]

    def loss_of(net: Any, step: int) -> torch.Tensor:
        return loss(predict(net, batches[step], create_graph=True), batches[step])

    losses = by_definition(other, 2, loss_of, clip)
    for a, b in zip(mine.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert module.train_loss == pytest.approx([sum(losses), 2], rel=1e-12)  # the first passes'
    assert trainer.global_step == 2


def fitted(module: TrainingModule, labelled: list[Atoms], *callbacks: Callback, **options: Any) -> Trainer:
    data = loader(labelled, module.model.cutoff, batch_size=4, dtype=module.model.dtype)
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, inference_mode=False, callbacks=list(callbacks), **options,
    )  # fmt: skip
    trainer.fit(module, data, data)
    return trainer


class Witness(Callback):
    """Weights after every step, at validation, and in every pass."""

    def __init__(self) -> None:
        self.passes: list[torch.Tensor] = []
        self.after: list[torch.Tensor] = []
        self.validated: list[torch.Tensor] = []

    def on_before_backward(self, trainer: Trainer, pl_module: Any, loss: torch.Tensor) -> None:
        self.passes.append(flat(pl_module.model))

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.after.append(flat(pl_module.model))

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.validated.append(flat(pl_module.model))


def flat(model: nn.Module) -> torch.Tensor:
    return nn.utils.parameters_to_vector(model.parameters()).detach().clone()


def sam_module(model: Any) -> TrainingModule:
    return TrainingModule(
        model, EFSLoss(0.01, 50.0, 50.0), learning_rate=LR, weight_decay=DECAY, scheduler={"factor": 0.5},
        optimizer="sam", rho=RHO,
    )  # fmt: skip


def test_only_the_second_pass_sees_perturbed_weights(labelled: list[Atoms]) -> None:
    model, witness = student(labelled), Witness()
    start = flat(model)
    ema = EMAWeightAveraging(decay=0.9)
    fitted(sam_module(model), labelled, witness, ema)
    one, two = witness.after
    assert torch.equal(witness.passes[0], start)
    assert torch.equal(witness.passes[2], one)
    for before, above in (witness.passes[:2], witness.passes[2:]):
        assert float((above - before).norm()) == pytest.approx(RHO, rel=1e-9)
    assert torch.equal(witness.validated[0], two)  # before the average takes its place
    average = 0.9 * one + 0.1 * two  # the first update copies
    torch.testing.assert_close(flat(model), average, rtol=1e-12, atol=1e-12)  # Lightning leaves the average


def test_running_statistics_are_updated_once(labelled: list[Atoms]) -> None:
    model = student(labelled, fixed_norm=False)
    once = deepcopy(model)
    fitted(sam_module(model), labelled[:4])
    predict(once, collate([build_batch(a, 4.0, torch.float64) for a in labelled[:4]]))
    assert int(model.bn_list[0].num_batches_tracked) == 1
    for a, b in zip(model.bn_list.buffers(), once.bn_list.buffers(), strict=True):
        torch.testing.assert_close(a, b)


def test_an_error_in_the_second_pass_leaves_the_weights() -> None:
    net = nn.Linear(2, 1)
    start = flat(net)
    sam = ClosureSAM(net.parameters(), rho=RHO, perturbed=nullcontext, lr=LR)
    calls = []

    def closure() -> torch.Tensor:
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        loss = net(torch.ones(1, 2)).sum()
        loss.backward()
        return loss

    with pytest.raises(KeyboardInterrupt):
        sam.step(closure)
    assert torch.equal(flat(net), start)
    assert not sam.state_dict()["state"].get(0)


def test_it_learns(labelled: list[Atoms]) -> None:
    start = evaluate(new_network("cgcnn", labelled, model_args=SMALL), labelled)
    options: dict[str, Any] = {"epochs": 30, "batch_size": 4, "learning_rate": 5e-3, "model_args": SMALL, "ema": None}
    model = train("cgcnn", labelled, optimizer="sam", rho=0.02, **options)
    assert evaluate(model, labelled)["total"] < 0.6 * start["total"]
    plain = train("cgcnn", labelled, **options)
    assert not torch.equal(flat(plain), flat(model))


@pytest.mark.parametrize("ema", [None, 0.9])
def test_resumed_equals_uninterrupted(labelled: list[Atoms], tmp_path: Path, ema: float | None) -> None:
    options: dict[str, Any] = {
        "val": labelled[:2], "batch_size": 3, "model_args": SMALL, "seed": 5, "ema": ema, "scheduler_patience": 0,
        "learning_rate": 0.03, "optimizer": "sam",
    }  # fmt: skip
    whole = train("cgcnn", labelled, epochs=6, directory=tmp_path / "whole", **options)
    train("cgcnn", labelled, epochs=3, directory=tmp_path / "parts", **options)
    stored = torch.load(tmp_path / "parts" / "last.ckpt", weights_only=True)["optimizer_states"][0]
    assert all(set(state) == {"step", "exp_avg", "exp_avg_sq"} for state in stored["state"].values())
    assert len(stored["state"]) == len(list(whole.parameters()))
    parts = train("cgcnn", labelled, epochs=6, directory=tmp_path / "parts", **options)
    for a, b in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    history = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in m.metadata["history"]] for m in (whole, parts)
    ]
    assert history[0] == history[1]
    if ema is None:  # the average gets better every epoch
        assert history[0][-1]["lr"] < 0.03  # the schedule acts on the base optimiser
    with pytest.raises(CheckpointError, match="written with optimizer='sam', not 'adamw'"):
        train("cgcnn", labelled, epochs=7, directory=tmp_path / "parts", **{**options, "optimizer": "adamw"})
    with pytest.raises(CheckpointError, match=r"written with rho=.*, not 3"):
        train("cgcnn", labelled, epochs=7, directory=tmp_path / "parts", **{**options, "rho": 3.0})


@pytest.mark.long
def test_two_processes_equal_one(labelled: list[Atoms], tmp_path: Path) -> None:
    """Both gradients are averaged over the processes: batches of 2 + 2 are batches of 4."""
    write_structures(tmp_path / "data.extxyz", labelled)
    script = tmp_path / "job.py"
    script.write_text(
        "import torch\ntorch.set_num_threads(1)\nimport mdl_physpretrain as pp\n"
        f"data = pp.read_structures({str(tmp_path / 'data.extxyz')!r})\n"
        f"start = pp.load_model({str(tmp_path / 'start.pt')!r})\n"
        f"pp.train(start, data, epochs=2, batch_size=2, optimizer='sam', rho={RHO},"
        f" directory={str(tmp_path / 'two')!r}, accelerator='cpu', devices=2, strategy='ddp')\n"
    )
    start = student(labelled)
    start.save(tmp_path / "start.pt")
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, script], env=env, check=True, timeout=300)
    one = train(start, labelled, epochs=2, batch_size=4, optimizer="sam", rho=RHO, directory=tmp_path / "one")
    plain = train(start, labelled, epochs=2, batch_size=4)
    found = flat(load_model(tmp_path / "two" / "best.pt"))
    assert float((found - flat(plain)).abs().max()) > 1e-4
    torch.testing.assert_close(found, flat(one), rtol=1e-8, atol=1e-8)


def test_refusals(labelled: list[Atoms], monkeypatch: pytest.MonkeyPatch) -> None:
    for rho in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="rho: input should be"):
            train("cgcnn", labelled, epochs=1, optimizer="sam", rho=rho)
    with pytest.raises(ConfigError, match="'adamw' or 'sam', not 'sgd'"):
        train("cgcnn", labelled, epochs=1, optimizer="sgd")
    monkeypatch.setitem(sys.modules, "pytorch_optimizer", None)
    with pytest.raises(ConfigError, match="pip install pytorch-optimizer"):
        train("cgcnn", labelled, epochs=1, optimizer="sam")


def test_adaptive_ascent_is_the_papers() -> None:
    """Kwon et al. 2021: e = rho w^2 g / | |w| g |, and back again."""
    torch.manual_seed(2)
    net = nn.Linear(3, 1).double()
    x = torch.randn(5, 3, dtype=torch.float64)
    base = torch.optim.SGD(net.parameters(), lr=0.1)
    sam = ClosureSAM.around(base, rho=RHO, perturbed=nullcontext, adaptive=True)
    before = [p.detach().clone() for p in net.parameters()]
    net(x).square().sum().backward()
    gradients = [p.grad.clone() for p in net.parameters()]
    norm = torch.cat([(w.abs() * g).flatten() for w, g in zip(before, gradients, strict=True)]).norm()
    sam.first_step(zero_grad=True)
    for p, w, g in zip(net.parameters(), before, gradients, strict=True):
        assert torch.allclose(p, w + RHO * w**2 * g / norm, rtol=1e-9)
    sam.restore()
    assert all(torch.equal(p, w) for p, w in zip(net.parameters(), before, strict=True))
