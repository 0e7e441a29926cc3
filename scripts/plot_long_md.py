"""Figure of docs/explanation/known.md from docs/tables/long_md.csv: lost trajectories and errors.

The table has the results of ``physpretrain run configs/long-md/....yaml``, every attempt of each row counted.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy import stats

DOCS = Path(__file__).resolve().parents[1] / "docs"
COLOURS = {"plain": "#d55e00", "recipe": "#0072b2"}
MARKS = {"present": "", "energies weighted 0.01": " ²", "earlier": " *"}  # by the column "recipe" of the table


def relative_difference(plain: str, recipe: str) -> tuple[float, float]:
    """Mean paired difference of totals over the plain networks' mean, and half of its 95 % interval, in percent."""
    first, second = (np.array([float(x) for x in text.split()]) for text in (plain, recipe))
    difference = second - first
    half = stats.t.ppf(0.975, len(first) - 1) * difference.std(ddof=1) / np.sqrt(len(first))
    return 100 * difference.mean() / first.mean(), 100 * half / first.mean()


def main() -> None:
    table = pd.read_csv(DOCS / "tables" / "long_md.csv")
    newest = table.groupby(["material", "network", "teacher"], sort=False)["recipe"].transform("first")
    shown = table[table["recipe"] == newest]  # the table has the present recipe first
    groups = list(shown.groupby(["material", "network", "teacher", "recipe"], sort=False))
    places = np.arange(len(groups))[::-1]
    figure, (lost, cost) = plt.subplots(1, 2, figsize=(8.6, 0.9 + 0.5 * len(groups)), sharey=True, layout="constrained")
    for place, (_, rows) in zip(places, groups, strict=True):
        arms = rows.set_index("arm")
        for arm, colour in COLOURS.items():
            row = arms.loc[arm]
            shift = 0.19 if arm == "plain" else -0.19
            share = 100 * row["unphysical"] / row["trajectories"]
            lost.barh(
                place + shift, max(share, 0.6), height=0.34, color=colour, label=arm if place == places[0] else None
            )
            lost.text(
                share + 2, place + shift, f"{row['unphysical']} of {row['trajectories']}", va="center", fontsize=8
            )
        mean, half = relative_difference(arms.loc["plain", "total_by_seed"], arms.loc["recipe", "total_by_seed"])
        cost.errorbar(mean, place, xerr=half, fmt="o", color=COLOURS["recipe"], capsize=3)
        name = ", ".join(rows.iloc[0][["material", "network", "teacher", "recipe"]])
        print(f"{name}: {mean:+.1f} % ({mean - half:+.1f} to {mean + half:+.1f})")
    labels = [
        f"{material}, {network}"
        + (f"\n{teacher} {'teach' if ' and ' in teacher else 'teaches'}" if teacher != "fitted" else "")
        + MARKS[recipe]
        for (material, network, teacher, recipe), _ in groups
    ]
    lost.set_yticks(places, labels=labels)
    lost.set_ylim(-0.7, len(groups) - 0.3)
    lost.set(xlim=(0, 124), xlabel="unphysical trajectories, %", xticks=[0, 25, 50, 75, 100])
    lost.legend(loc="upper center", bbox_to_anchor=(0.5, 1 + 0.8 / len(groups)), ncol=2, frameon=False)
    cost.axvline(0, color="black", linewidth=1)
    cost.axvline(5, color="grey", linewidth=1, linestyle="--")
    cost.set(xlabel="total error, recipe against plain, %\n(95 % interval; dashed: the aim)")
    for panel in (lost, cost):
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(left=False)
    figure.savefig(DOCS / "pictures" / "long_md.png", dpi=120)


if __name__ == "__main__":
    main()
