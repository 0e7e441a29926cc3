"""The authors' trainers: `sam` in mixed precision, `hybrid` with lower bounds."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from ase import Atoms
from mdl_jobs import CGCNN, job, run_job

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.hosts.matdeeplearn.job_checks import check_job

pytestmark = pytest.mark.hosts

pytest.importorskip("matdeeplearn", reason="MatDeepLearn is not installed")

EAM_MODEL = {"name": "EAM_Interaction", "init_mode": "covalent_radius", "freeze_params": [], "n_basis": 3}


class Quartic(torch.nn.Module):
    """Its loss has a gradient that depends on the weights, and may overflow."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.0, -2.0, 0.5]))

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return (self.weight**4 * batch).sum()


def sam_step(batch: torch.Tensor, scaler: Any, *, adaptive: bool, clip: float | None = None) -> torch.Tensor:
    """The weights after one step."""
    from mdl_physpretrain.hosts.matdeeplearn.sam_step import SAMStep

    class Host:
        def _forward(self, batches: list[Any]) -> list[Any]:
            return [self.model[0](b) for b in batches]  # type: ignore[attr-defined]

    class Trainer(SAMStep, Host):
        sam_radius, sam_adaptive, clip_grad_norm = 0.1, adaptive, clip
        model = (Quartic().train(),)
        loss_fn = staticmethod(lambda out, batch: out)

    trainer: Any = Trainer()
    trainer.optimizer, trainer.scaler = [torch.optim.SGD(trainer.model[0].parameters(), lr=0.01)], scaler
    (loss,) = trainer._forward([batch])
    trainer._backward(loss, 0)
    return trainer.model[0].weight.detach()


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_sam_under_a_gradient_scaler(adaptive: bool, clip: float | None) -> None:
    """The scale changes nothing; a batch that overflows is left out and halves it."""
    batch = torch.tensor([1.0, 2.0, 3.0])
    plain, scaled = torch.amp.GradScaler("cpu", enabled=False), torch.amp.GradScaler("cpu", init_scale=2.0**16)
    expected = sam_step(batch, plain, adaptive=adaptive, clip=clip)
    assert not torch.allclose(expected, Quartic().weight, atol=1e-3)
    assert torch.allclose(sam_step(batch, scaled, adaptive=adaptive, clip=clip), expected, rtol=1e-6)
    assert scaled.get_scale() == 2.0**16
    for large in (1e36, 1.2e33):  # overflows in the first pass; only in the second, at the larger weights
        scaled = torch.amp.GradScaler("cpu", init_scale=2.0**13)
        assert torch.equal(sam_step(batch * large, scaled, adaptive=adaptive, clip=clip), Quartic().weight)
        assert scaled.get_scale() == 2.0**12


def test_sam_with_amp_on_a_cpu_is_sam(demo_cells, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MatDeepLearn's mixed precision is that of CUDA: on a CPU the authors' files train in float32."""
    weights = []
    for use_amp in (False, True):
        config = job(CGCNN, trainer="sam", optim__rho=0.005, optim__max_epochs=1, task__use_amp=use_amp)
        config["task"]["model_save_frequency"] = 0
        results = run_job(tmp_path / str(use_amp), config, demo_cells(12, 12), monkeypatch)
        weights.append(torch.load(results / "checkpoint_0" / "best_checkpoint.pt", weights_only=True)["state_dict"])
    assert all(torch.equal(v, weights[1][k]) for k, v in weights[0].items())


def test_hybrid_is_property_with_lower_bounds(demo_cells, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells: list[Atoms] = demo_cells(12, 12)
    symbols = sorted({s for a in cells for s in a.symbols})
    reached = {}
    for name, trainer, bounds in (
        ("property", "property", {}),
        ("hybrid", "hybrid", {}),
        ("bounded", "hybrid", {"eam_params": 0.98}),
    ):
        model = {**EAM_MODEL, "atom_types": symbols, "clamped_params": bounds}
        results = run_job(tmp_path / name, job(model, trainer=trainer, optim__lr=0.05), cells, monkeypatch)
        state = torch.load(results / "checkpoint_0" / "best_checkpoint.pt", weights_only=True)["state_dict"]
        reached[name] = torch.cat([state[k].flatten() for k in sorted(state)])
        log = (results / "log.txt").read_text()
        said = "trainer hybrid: " + (
            f"lower bounds {bounds}" if bounds else "no clamped_params: the same as 'property'"
        )
        assert (said in log) == (trainer == "hybrid")
    assert torch.equal(reached["property"], reached["hybrid"])
    assert reached["property"].min() < 0.9
    assert reached["bounded"].min() >= 0.98 - 2 * 0.05  # lifted before a step, as there


def test_bounds_that_would_be_ignored(demo_cells, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mdl_physpretrain.hosts.matdeeplearn.lower_bounds import bounded_parameters

    cells = demo_cells(12, 12)
    model = {**EAM_MODEL, "atom_types": sorted({s for a in cells for s in a.symbols}), "clamped_params": {"rm": 0.5}}
    with pytest.raises(ConfigError, match=r"'rm' bounds nothing in EAM_Interaction, .* name one of eam_params"):
        run_job(tmp_path, job(copy.deepcopy(model), trainer="hybrid"), cells, monkeypatch)
    with pytest.raises(ConfigError, match="trainer property ignores it: write 'trainer: hybrid'"):
        check_job(job(model))
    with pytest.raises(ConfigError, match="a number is expected, not 'low'"):
        bounded_parameters(Quartic(), {"weight": "low"})
    with pytest.raises(ConfigError, match="names and numbers are expected"):
        bounded_parameters(Quartic(), ["weight"])
