"""The tables of a reproduction for people, as Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from mdl_physpretrain.report.compare import ERRORS
from mdl_physpretrain.report.formats import markdown_table, plain_number, plain_spread
from mdl_physpretrain.reproduction.configuration import SYSTEMS

__all__ = ["markdown"]

SETUPS = {"baseline": "", "sam": " + SAM", "hybrid": " + EAM", "pretrained": " + Pretrain"}
NETWORKS = {"cgcnn": "CGCNN", "torchmd_et": "TorchMD", "m3gnet": "M3GNet"}


def markdown(tables: Mapping[str, pd.DataFrame], scale: str) -> str:
    """The tables ``stability, accuracy, claims, overhead`` on one page."""
    parts = {"stability": _stability, "accuracy": _accuracy, "claims": _claims, "overhead": _overhead}
    texts = [part(tables[name]) for name, part in parts.items()]
    return "\n".join([f"# The paper's tables at scale “{scale}”\n", *texts])


def _stability(table: pd.DataFrame) -> str:
    text = (
        "## Trajectories that are unphysical (Tables 1 and B.1)\n\n"
        "Brackets: Wilson's 95 % interval of the share, in %. “Paper”: printed counts of 100, overlap / Lindemann,\n"
        "where system, network and ensemble are the paper's (other data, sizes and lengths than a small run's).\n\n"
    )
    rows = [
        {
            "system": SYSTEMS[row["system"]]["title"],
            "MD": row["condition"],
            "setup": _setup(row),
            "overlap": _count(row, "overlap"),
            "Lindemann": _count(row, "lindemann"),
            "unphysical": _count(row, "unphysical"),
            "per seed": row["per_seed"],
            "paper": _paper_counts(row),
        }
        for row in table.to_dict("records")
    ]
    return text + markdown_table(rows)


def _accuracy(table: pd.DataFrame) -> str:
    text = (
        "## Errors on test data (Tables 2 and B.2)\n\nMean ± standard deviation over seeds; "
        "total = 0.01 E + 50 F + 50 S with S in eV/Å³. “Paper”: printed total.\n\n"
    )
    rows = [
        {
            "system": SYSTEMS[row["system"]]["title"],
            "setup": _setup(row),
            **{heading: plain_spread(row[key], row[f"{key}_std"]) for heading, key in ERRORS.items()},
            "trivial predictor": plain_number(row["trivial_total"]),
            "paper": plain_number(row["printed_total"], ".3f"),
        }
        for row in table.to_dict("records")
    ]
    return text + markdown_table(rows)


def _claims(table: pd.DataFrame) -> str:
    text = (
        "## “More stable at no cost in accuracy”, row by row\n\n"
        "Against the baseline of the same network. Stability: exact McNemar over pairs, no seed against it.\n"
        "Accuracy: difference of the total error within seeds, 95 % t interval; “no cost”: 5 % of the baseline's "
        "error\nis excluded. A question mark: the seeds do not carry it.\n\n"
    )
    rows = [
        {
            "system": SYSTEMS[row["system"]]["title"],
            "MD": row["condition"],
            "setup": _setup(row),
            "pairs": row["pairs"],
            "only baseline / only setup fails": f"{row['only_baseline']} / {row['only_setup']}",
            "p": f"{row['p']:.2g}",
            "stability": row["stability"],
            "difference of total": f"{row['difference']:+.2f} ({row['low']:+.2f} to {row['high']:+.2f})",
            "accuracy": row["accuracy"],
            "claim": row["claim"],
        }
        for row in table.to_dict("records")
    ]
    return text + markdown_table(rows)


def _overhead(table: pd.DataFrame) -> str:
    text = (
        "## Seconds per stage (section 4.1)\n\n"
        "Per task: one fit, one augmentation with its labels, one pretraining, finetuning, evaluation or MD of a seed\n"
        "and setup. Last row: the paper's, MPtrj subset with TorchMD on an A100; it counts labelling apart.\n\n"
    )
    rows = []
    for names, group in table.groupby(["system", "backbone"], sort=False):
        system, backbone = map(str, names)
        seconds = dict(zip(group["stage"], group["seconds_per_task"], strict=True))
        run = "paper" if system == "paper" else f"{SYSTEMS[system]['title']}, {NETWORKS[backbone]}"
        stages = table["stage"].unique()
        rows.append({"run": run, **{stage: plain_number(seconds.get(stage, math.nan), ".4g") for stage in stages}})
    return text + markdown_table(rows)


def _setup(row: Mapping[Any, Any]) -> str:
    return NETWORKS[row["backbone"]] + SETUPS.get(row["setup"], f" {row['setup']}")


def _count(row: Mapping[Any, Any], name: str) -> str:
    low, high = 100 * row[f"{name}_low"], 100 * row[f"{name}_high"]
    return f"{row[name]} of {row['trajectories']} [{low:.0f}, {high:.0f}]"


def _paper_counts(row: Mapping[Any, Any]) -> str:
    if math.isnan(row["printed_overlap"]):
        return ""
    return f"{row['printed_overlap']:.0f} / {row['printed_lindemann']:.0f} ({row['printed_usage']:.0%} of the data)"
