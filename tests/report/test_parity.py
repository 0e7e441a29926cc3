"""Parity plots: where they come from, what they say, how large they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from report_page import Page
from report_run_folder import make_run

from mdl_physpretrain.report import build, write_report
from mdl_physpretrain.report.figures import all_figures
from mdl_physpretrain.report.parity import MAX_ARMS, parity_caption, parity_figure
from mdl_physpretrain.report.read import read_run

ERRORS = {"baseline": 0.2, "pretrained": 0.05}


def add_predictions(folder: Path, *, seeds: int = 2, forces: int = 3000, arms=tuple(ERRORS)) -> pd.DataFrame:
    rng = np.random.default_rng(2)
    tables = []
    for seed in range(seeds):
        for arm in arms:
            for quantity, n, unit in (("energy_per_atom", 40, -5.0), ("forces", forces, 0.0), ("stress", 240, 0.0)):
                reference = unit + rng.normal(size=n) * (0.01 if quantity == "stress" else 1.0)
                noise = rng.normal(0, ERRORS.get(arm, 0.1), n) * (0.01 if quantity == "stress" else 1.0)
                tables.append(pd.DataFrame({
                    "seed": seed, "arm": arm, "split": "test", "quantity": quantity, "structure_id": "a", "atom": "",
                    "axis": "", "reference": reference, "predicted": reference + noise,
                    "of": 50_000 if quantity == "forces" else n,
                }))  # fmt: skip
    table = pd.concat(tables, ignore_index=True)
    table.to_csv(folder / "predictions.csv", index=False)
    return table


@pytest.fixture
def only_parity(monkeypatch):
    """Other figures take time."""
    monkeypatch.setattr(build, "probe_parts", lambda run: {})
    monkeypatch.setattr(build, "all_figures", lambda run: {"parity": all_figures(run)["parity"]})


def test_a_page_with_parity_plots_of_every_arm(tmp_path, only_parity):
    folder = make_run(tmp_path / "run", seeds=2, structures=3, pairs=1)
    before = write_report(folder).stat().st_size
    assert "parity" not in Page((folder / "report/index.html").read_text()).text
    add_predictions(folder, forces=10_000)
    page = write_report(folder)
    assert page.stat().st_size - before < 300_000
    parsed = Page(page.read_text())
    shown = [v for t, k, v in parsed.attributes if (t, k) == ("svg", "aria-label") and v.startswith("Parity")]
    wanted = [f"Parity: {q}, {x}" for q in ("Energy", "Forces", "Stress") for x in ("baseline", "pretrained", "errors")]
    assert shown == wanted
    assert "40 energies, 10,000 of 50,000 force components, 240 stress components of each arm and seed" in parsed.text
    assert (folder / "report/figures/parity.png").stat().st_size > 20_000
    assert read_run(folder).notes == {}


def test_wild_and_missing_predictions(tmp_path):
    folder = make_run(tmp_path / "run", seeds=1, structures=3, pairs=1)
    table = add_predictions(folder, seeds=1)
    table.loc[0, "predicted"] = 1e6
    table.loc[1, "predicted"] = np.inf
    table.loc[2, "predicted"] = np.nan
    table.to_csv(folder / "predictions.csv", index=False)
    run = read_run(folder)
    assert "2 values that are NaN or infinite cannot be shown" in parity_caption(run)
    axes = _painted(parity_figure(run, build.arm_styles(run.arms)).panels[0])
    text = axes.texts[0].get_text()
    assert "1 outside, at the edge" in text
    errors = read_run(folder).efs.set_index("arm")["energy_per_atom_mae"]
    assert text.startswith(f"MAE {1000 * errors['baseline']:.3g} meV/atom")  # of all structures, as the table has it
    low, high = axes.get_xlim()
    assert high - low < 20
    assert axes.get_ylim() == (low, high)


def _painted(panel):
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    panel.paint(axes)
    return axes


def test_many_arms_and_damaged_or_odd_files(tmp_path, only_parity, monkeypatch):
    arms = ("baseline", "pretrained", "c", "d", "e")
    folder = make_run(tmp_path / "run", seeds=1, structures=3, pairs=1, arms=arms)
    add_predictions(folder, seeds=1, arms=arms)
    run = read_run(folder)
    assert len(parity_figure(run, build.arm_styles(run.arms)).panels) == 3 * (MAX_ARMS + 1)
    assert f"The first {MAX_ARMS} are shown" in parity_caption(run)
    monkeypatch.setattr(build, "draw", lambda makers, folder, notes: {})
    for content in (b"\xff\xfe[{,;\x00 not", b"arm,seed,quantity,reference\na,0,forces,1\n"):
        (folder / "predictions.csv").write_bytes(content)
        page = Page(write_report(folder).read_text())
        assert "predictions.csv could not be read" in page.text
        assert "Energy, force and stress errors" in page.tables
    (folder / "predictions.csv").write_text("arm,seed,quantity,reference,predicted\nz,0,forces,low,2\n")
    run = read_run(folder)
    assert parity_figure(run, build.arm_styles(run.arms)) is None
    write_report(folder)


def test_predictions_of_seeds_that_are_done_are_shown_before_all_are(tmp_path):
    folder = make_run(tmp_path / "run", seeds=1, structures=3, pairs=1)
    table = add_predictions(folder, seeds=1)
    (folder / "predictions.csv").unlink()
    place = folder / "seed-0" / "evaluate"
    place.mkdir()
    for arm, part in table.groupby("arm"):
        part.to_csv(place / f"{arm}.predictions.csv", index=False)
        pd.DataFrame([{"seed": 0, "arm": arm, "split": "test", "total": 1.0}]).to_csv(place / f"{arm}.efs.csv")
    (folder / "efs.csv").unlink()
    assert len(read_run(folder).tables["predictions"]) == len(table)
