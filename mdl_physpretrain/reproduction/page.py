"""The tables of a reproduction for people, as Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from mdl_physpretrain.reproduction.configuration import SYSTEMS

__all__ = ["markdown"]

SETUPS = {"baseline": "", "sam": " + SAM", "hybrid": " + EAM", "pretrained": " + Pretrain"}
NETWORKS = {"cgcnn": "CGCNN", "torchmd_et": "TorchMD", "m3gnet": "M3GNet"}


def markdown(tables: Mapping[str, pd.DataFrame], scale: str) -> str:
    """All tables on one page.

    Parameters
    ----------
    tables
        ``stability, accuracy, claims, overhead``.
    scale
        Name of the scale the runs have.
    """
    parts = [
        f"# The paper's tables at scale “{scale}”\n",
        _stability(tables["stability"]),
        _accuracy(tables["accuracy"]),
    ]
    parts += [_claims(tables["claims"]), _overhead(tables["overhead"])]
    return "\n".join(parts)


def _stability(table: pd.DataFrame) -> str:
    lines = [
        "## Trajectories that are unphysical (Tables 1 and B.1)\n",
        "Brackets: Wilson's 95 % interval of the share, in %. “Paper”: printed counts of 100, overlap / Lindemann,",
        "where system, network and ensemble are the paper's (other data, sizes and lengths than a small run's).\n",
        "| system | MD | setup | overlap | Lindemann | unphysical | per seed | paper |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in table.to_dict("records"):
        n = row["trajectories"]
        cells = [
            SYSTEMS[row["system"]]["title"],
            row["condition"],
            _setup(row),
            *(_count(row, name, n) for name in ("overlap", "lindemann", "unphysical")),
            row["per_seed"],
            _paper_counts(row),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _accuracy(table: pd.DataFrame) -> str:
    lines = [
        "## Errors on test data (Tables 2 and B.2)\n",
        "Mean ± standard deviation over seeds; total = 0.01 E + 50 F + 50 S with S in eV/Å³. “Paper”: printed total.\n",
        "| system | setup | E, eV | F, eV/Å | S, eV/Å³ | total | trivial predictor | paper |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in table.to_dict("records"):
        cells = [
            SYSTEMS[row["system"]]["title"],
            _setup(row),
            *(_spread(row, key) for key in ("energy_mae", "forces_mae", "stress_mae", "total")),
            _number(row["trivial_total"]),
            _number(row["printed_total"], ".3f"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _claims(table: pd.DataFrame) -> str:
    lines = [
        "## “More stable at no cost in accuracy”, row by row\n",
        "Against the baseline of the same network. Stability: exact McNemar over pairs, no seed against it.",
        "Accuracy: difference of the total error within seeds, 95 % t interval; “no cost”: 5 % of the baseline's error",
        "is excluded. A question mark: the seeds do not carry it.\n",
        "| system | MD | setup | pairs | only baseline / only setup fails | p | stability | difference of total"
        " | accuracy | claim |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in table.to_dict("records"):
        cells = [
            SYSTEMS[row["system"]]["title"],
            row["condition"],
            _setup(row),
            str(row["pairs"]),
            f"{row['only_baseline']} / {row['only_setup']}",
            f"{row['p']:.2g}",
            row["stability"],
            f"{row['difference']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f})",
            row["accuracy"],
            row["claim"],
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _overhead(table: pd.DataFrame) -> str:
    stages = list(dict.fromkeys(table["stage"]))
    lines = [
        "## Seconds per stage (section 4.1)\n",
        "Per task: one fit, one augmentation with its labels, one pretraining, finetuning, evaluation or MD of a seed",
        "and setup. Last row: the paper's, MPtrj subset with TorchMD on an A100; it counts labelling apart.\n",
        "| run | " + " | ".join(stages) + " |",
        "|---" * (len(stages) + 1) + "|",
    ]
    for (system, backbone), group in table.groupby(["system", "backbone"], sort=False):
        seconds = dict(zip(group["stage"], group["seconds_per_task"], strict=True))
        name = "paper" if system == "paper" else f"{SYSTEMS[system]['title']}, {NETWORKS[backbone]}"
        lines.append("| " + " | ".join([name, *(_number(seconds.get(s, math.nan), ".4g") for s in stages)]) + " |")
    return "\n".join(lines) + "\n"


def _setup(row: Mapping[str, Any]) -> str:
    return NETWORKS[row["backbone"]] + SETUPS.get(row["setup"], f" {row['setup']}")


def _count(row: Mapping[str, Any], name: str, total: int) -> str:
    low, high = 100 * row[f"{name}_low"], 100 * row[f"{name}_high"]
    return f"{row[name]} of {total} [{low:.0f}, {high:.0f}]"


def _paper_counts(row: Mapping[str, Any]) -> str:
    if math.isnan(row["printed_overlap"]):
        return ""
    return f"{row['printed_overlap']:.0f} / {row['printed_lindemann']:.0f} ({row['printed_usage']:.0%} of the data)"


def _spread(row: Mapping[str, Any], key: str) -> str:
    mean, std = row[key], row[f"{key}_std"]
    return _number(mean) if math.isnan(std) else f"{mean:.3g} ± {std:.1g}"


def _number(value: float, form: str = ".3g") -> str:
    return "" if math.isnan(value) else format(value, form)
