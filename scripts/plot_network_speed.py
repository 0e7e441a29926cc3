"""Figure of docs/performance/networks.md from docs/tables/speed_*.csv, the results of scripts/bench_backbones.py."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

DOCS = Path(__file__).resolve().parents[1] / "docs"
COLOURS = {"MD": "tab:blue", "training": "tab:orange"}
MARKERS = {1: "o", 2: "s"}


def main() -> None:
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), sharey=True, layout="constrained")
    for panel, (name, title, aim) in zip(panels, (("cgcnn", "CGCNN", 4), ("torchmd_et", "TorchMD-ET", 3)), strict=True):
        rows = pd.read_csv(DOCS / "tables" / f"speed_{name}.csv")
        for (step, threads), part in rows.groupby(["step", "threads"]):
            ratio = part["ratio"]
            panel.errorbar(
                part["edges"] * (1.04 if step == "MD" else 0.96),
                ratio,
                yerr=[ratio - part["ratio_min"], part["ratio_max"] - ratio],
                fmt=MARKERS[threads],
                color=COLOURS[step],
                markerfacecolor="white" if threads == 2 else COLOURS[step],
                capsize=2,
                label=f"{step}, {threads} thread{'s' if threads > 1 else ''}",
            )
        panel.axhline(aim, color="grey", linestyle="--", linewidth=1, label="aim")
        panel.axhline(1, color="black", linewidth=1)
        panel.set(xscale="log", yscale="log", xlabel="edges of the graph", title=title)
        panel.set_yticks([1, 2, 4, 10, 20, 40], labels=["1", "2", "4", "10", "20", "40"], minor=False)
        panel.set_xticks([2000, 5000, 10000, 20000, 50000], labels=["2,000", "5,000", "10,000", "20,000", "50,000"])
        panel.minorticks_off()
    panels[0].set_ylabel("times faster than MatDeepLearn")
    panels[1].legend(fontsize=8)
    figure.savefig(DOCS / "pictures" / "network_speed.png", dpi=120)


if __name__ == "__main__":
    main()
