"""The page of a survey: potentials by questions, and every trajectory, with links into the pages of the checks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from mdl_physpretrain import __version__
from mdl_physpretrain.probes.page import DASH
from mdl_physpretrain.probes.registry import probe_classes
from mdl_physpretrain.statistics.survival import CLAIM_TIME, TIMES, shares_in_words

__all__ = ["still_physical", "survey_page"]

UNJUDGED = ("not judged", "unreadable")
CSS = {"yes": "good", "no": "flag", "unanswered": "wrap"}
PHYSICAL = ("physical", "diffusing")


def still_physical(trajectories: pd.DataFrame) -> dict[float, str]:
    """Share of trajectories still physical after 1, 2, 5 and 10 ps, in words: those planned for so long count."""
    judged = trajectories[~trajectories["verdict"].isin(UNJUDGED)]
    return shares_in_words(judged["ps"], ~judged["verdict"].isin(PHYSICAL), judged["planned_ps"])


def survey_page(
    answers: pd.DataFrame,
    trajectories: pd.DataFrame,
    checks: pd.DataFrame,
    failures: Mapping[tuple[str, str], str],
    refused: Mapping[tuple[str, str], str],
    versions: Mapping[str, str],
) -> str:
    """HTML of the page; needs no network and no other file but the pages that it links to.

    ``failures``: why a potential has no check under a condition; ``refused``: why it cannot evaluate a material;
    ``versions``: of the packages of a potential. The tables are those of ``tables.py``.
    """
    environment = Environment(
        loader=PackageLoader("mdl_physpretrain.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    questions = [q for q in dict.fromkeys(answers["question"]) if q != "MD stays physical"]
    return environment.get_template("survey.html.j2").render(
        questions=questions,
        potentials=_potentials(answers, questions),
        survival=_survival(trajectories, checks),
        lengths=_lengths(checks),
        sources=_sources(checks, refused, versions),
        times=[f"{time:g} ps" for time in TIMES],
        claim=f"{CLAIM_TIME:g}",
        trajectories=_trajectories(trajectories),
        failures=[(name, condition, reason) for (name, condition), reason in failures.items()],
        generated=datetime.now().astimezone(),
        version=__version__,
    )


def _cell(text: str, note: str = "", link: str = "", css: str = "", key: Any = None) -> dict[str, Any]:
    return {"text": text, "note": note, "link": link, "css": css, "key": text if key is None else key}


def _page_of(potential: str, condition: str, section: str) -> str:
    return f"{potential}/{condition}/report/index.html#{section}"


def _potentials(answers: pd.DataFrame, questions: list[str]) -> list[list[dict[str, Any]]]:
    """A row per potential, a cell per question: the answer under the first condition that has one."""
    asked = answers.groupby("question")["condition"].nunique()  # the cell of a question to several must say which
    sections = {cls.question: cls.name if cls.title else "verdict" for cls in probe_classes().values()}
    rows = []
    for potential, group in answers.groupby("potential", sort=False):
        row = [_cell(str(potential))]
        for question in questions:
            found = group[group["question"] == question]
            if not len(found):
                row.append(_cell(DASH, key=""))
                continue
            first = found.iloc[0]
            verdict = str(first["verdict"])
            link = _page_of(str(potential), str(first["condition"]), sections.get(question, "verdict"))
            shown = "" if verdict == "value" else verdict
            finding = "" if pd.isna(first["finding"]) else str(first["finding"])
            note = ": ".join(filter(None, (str(first["condition"]) if asked[question] > 1 else "", finding)))
            row.append(_cell(shown, note, link, CSS.get(verdict, ""), key=verdict))
        rows.append(row)
    return rows


def _survival(trajectories: pd.DataFrame, checks: pd.DataFrame) -> list[list[dict[str, Any]]]:
    """A row per potential and condition: trajectories, how many fail of what, shares over time, time of the check."""
    seconds = checks.set_index(["potential", "condition"])["seconds"]
    rows = []
    for (potential, condition), group in trajectories.groupby(["potential", "condition"], sort=False):
        judged = group[~group["verdict"].isin(UNJUDGED)]
        failed = judged[~judged["verdict"].isin(PHYSICAL)]
        reasons = failed["reason"].str.split(",").str[0].value_counts().items()
        link = _page_of(str(potential), str(condition), "failures")
        row = [_cell(str(potential)), _cell(str(condition), link=link), _cell(str(len(judged)))]
        planned = group["planned_ps"].max()
        none_lost = "good" if planned >= CLAIM_TIME else ""  # too short for a claim: no colour
        row.append(_cell(str(len(failed)), ", ".join(f"{reason} {n}" for reason, n in reasons),
                         css="bad" if len(failed) else none_lost))  # fmt: skip
        row.append(_number(planned))
        row += [_cell(words, css="short", key=_share(words)) for words in still_physical(group).values()]
        rows.append([*row, _number(seconds.get((potential, condition), math.nan) / 60)])
    return rows


def _share(words: str) -> Any:
    """What ``"3 of 12"`` sorts by; nothing where trajectories were not run that long."""
    part, of, total = words.partition(" of ")
    return int(part) / int(total) if of and int(total) else ""


def _lengths(checks: pd.DataFrame) -> str:
    """The MD of a survey in words, such as ``NVT, 500 steps of 2 fs``; that of most checks first."""
    columns = (checks[name].tolist() for name in ("ensemble", "steps", "timestep"))
    words = [
        f"{name.upper()}, {steps:,} steps of {timestep:g} fs" for name, steps, timestep in zip(*columns, strict=True)
    ]
    return "; ".join(word for word, _ in Counter(words).most_common())


def _sources(
    checks: pd.DataFrame, refused: Mapping[tuple[str, str], str], versions: Mapping[str, str]
) -> list[list[dict[str, Any]]]:
    """A row per potential: what it is, its packages, the materials that it cannot evaluate and why not the first."""
    rows = []
    for potential, group in checks.groupby("potential", sort=False):
        reasons = {material: reason for (name, material), reason in refused.items() if name == potential}
        row = [_cell(str(potential)), _cell(str(group["source"].iloc[0]), css="wrap"),
               _cell(versions.get(str(potential), ""), css="wrap")]  # fmt: skip
        rows.append([*row, _cell(", ".join(reasons) or DASH, next(iter(reasons.values()), ""))])
    return rows


def _trajectories(table: pd.DataFrame) -> list[tuple[bool, list[dict[str, Any]]]]:
    """A row per trajectory, and whether it failed."""
    rows = []
    for row in table.astype(object).where(table.notna(), "").to_dict("records"):
        failing = row["verdict"] not in (*PHYSICAL, *UNJUDGED)
        section = "worst" if failing else "trajectories"
        link = _page_of(row["potential"], row["condition"], section)
        why = ", ".join(filter(None, (str(row["reason"]), str(row["closest_pair"]) if failing else "")))
        rows.append((failing, [
            _cell(row["potential"]), _cell(row["condition"]), _cell(row["structure_id"]),
            _cell(row["verdict"], why, link, "flag" if failing else ""), _number(row["ps"]),
            _number(row["planned_ps"]),
        ]))  # fmt: skip
    return rows


def _number(value: Any) -> dict[str, Any]:
    """A cell of a number, empty where there is none."""
    known = isinstance(value, int | float) and not math.isnan(value)
    return _cell(f"{value:.3g}" if known else "")
