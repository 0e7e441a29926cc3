"""One self-contained HTML page, PNG figures and CSV/JSON tables from a run folder."""

from __future__ import annotations

import re
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mdl_physpretrain import __version__
from mdl_physpretrain.errors import PhysPretrainError
from mdl_physpretrain.files import write_atomic
from mdl_physpretrain.ownership import claim_folder, forget_contents, is_edited, keep_edited, note_contents
from mdl_physpretrain.probes.page import MAX_PANELS, PagePart
from mdl_physpretrain.report.downloads import Downloads, script_json
from mdl_physpretrain.report.drawing import arm_styles, css_colour, draw
from mdl_physpretrain.report.failing_frames import earliest_failures, element_colour
from mdl_physpretrain.report.figures import all_figures
from mdl_physpretrain.report.figures_failing_frames import frames_figure
from mdl_physpretrain.report.figures_survival import MANY
from mdl_physpretrain.report.formats import number
from mdl_physpretrain.report.html_tables import MAX_ROWS
from mdl_physpretrain.report.probes import probe_notes, probe_parts, probe_sections, save_parts
from mdl_physpretrain.report.read import RunData, read_run, refuse_foreign
from mdl_physpretrain.report.sections import section_values

__all__ = ["write_report"]

SECTIONS = {  # of the page, in its order
    "verdict": "Verdict",
    "physicality": "Physicality",
    "accuracy": "Accuracy",
    "failures": "Failures over time",
    "worst": "Worst trajectories",
    "trajectories": "Trajectories",
    **probe_sections(),
    "teacher": "Teacher",
    "augmentation": "Augmentation",
    "learning": "Learning curves",
    "loop": "Closed loop",
    "alignment": "Force alignment",
    "data": "Data",
    "timings": "Timings",
    "configuration": "Configuration",
}
WRITTEN = ".written"  # names of the figures and tables that a report wrote
OPTIONAL = {"worst", "loop", *probe_sections()}  # nothing is said where a run has no such file


def write_report(run_dir: Path) -> Path:
    """Write the report of a run.

    Parameters
    ----------
    run_dir
        A run folder as ``physpretrain run`` writes it. Every file in it is
        optional: what is missing or unreadable drops its part of the page,
        with a note that says so.

    Returns
    -------
    pathlib.Path
        ``run_dir/report/index.html``; beside it ``figures/*.png`` and
        ``tables/*.csv`` and ``*.json``. The page needs none of them, no
        network and no other file. What the user changed there is kept in
        ``run_dir/report/edited``.

    Raises
    ------
    PhysPretrainError
        If ``run_dir`` is not a folder or the report cannot be written into it.
    """
    run = read_run(Path(run_dir))
    refuse_foreign(run)
    out = claim_folder(run.path / "report", "report")
    try:
        for name in ("figures", "tables"):
            (out / name).mkdir(exist_ok=True)
        keep_edited(out, [name for name in ("index.html", *_written(out)) if is_edited(out, name)])
        forget_contents(out, _written(out))
        for name in _written(out):  # a figure of an earlier state of the run would contradict the page
            (out / name).unlink(missing_ok=True)
        html, files = _page(run, out)
        write_atomic(out / WRITTEN, "\n".join(sorted(files)))
        page = out / "index.html"
        write_atomic(page, html)
        note_contents(out, [page.name, *files])
    except OSError as error:
        raise PhysPretrainError(f"cannot write the report into {out}: {error}") from error
    return page


def _written(out: Path) -> list[str]:
    """Figures and tables that an earlier report wrote."""
    try:
        names = (out / WRITTEN).read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, UnicodeDecodeError):
        return []
    return [name for name in names if re.fullmatch(r"(figures|tables)/[^/]+", name)]


def _page(run: RunData, out: Path) -> tuple[str, set[str]]:
    """The page, and the files that were written beside it."""
    environment = Environment(
        loader=PackageLoader("mdl_physpretrain.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "css_colour": css_colour}
    downloads = Downloads(out / "tables")
    frames = earliest_failures(run)
    parts, styles = probe_parts(run), arm_styles(run.arms)
    save_parts(parts, downloads)
    makers = {**all_figures(run), "failing_frames": lambda: frames_figure(frames)}
    makers |= {name: partial(part.figure, styles) for name, part in parts.items() if part.figure is not None}
    values = {
        "figures": draw(makers, out / "figures", run.notes),
        "frames": frames,
        "playing": sum(f.motion is not None for f in frames),
        "beside": sum(f.beside is not None for f in frames),
        **section_values(run, downloads),
    }
    elements = dict.fromkeys(s for f in frames for s in f.symbols)
    scene = {"colours": {s: element_colour(s) for s in elements}, "frames": [f.plain() for f in frames]}
    files = {f"figures/{name}.png" for name in makers} | {f"tables/{name}" for name in downloads.files}
    html = environment.get_template("index.html.j2").render(
        run=run,
        arms={arm: style.variable for arm, style in styles.items()},
        probe_parts=parts,
        probe_notes=probe_notes,
        generated=datetime.now().astimezone(),
        max_panels=MAX_PANELS,
        many=MANY,
        max_rows=MAX_ROWS,
        notes=run.notes,
        version=_version(),
        sections=({"use": "Use it"} if values["recommended"] else {})
        | {name: title for name, title in SECTIONS.items() if name in _shown(run, values, parts)},
        downloads=script_json(downloads.embedded) if downloads.embedded else "",
        scene=script_json(scene) if frames else "",
        elements={s: element_colour(s) for s in elements},
        **values,
    )
    return html, files


def _shown(run: RunData, values: dict[str, Any], parts: dict[str, PagePart]) -> set[str]:
    """Sections with something in them; of a run also those whose files a run should have."""
    figures, notes = values["figures"], run.notes
    content = {
        "verdict": True,
        "physicality": values["physicality"] or "physicality" in notes,
        "accuracy": values["efs"] or "parity" in figures or not notes.keys().isdisjoint({"efs", "predictions"}),
        "failures": values["trajectories"],
        "worst": values["frames"] or "worst" in notes,
        "trajectories": values["trajectories"],
        **dict.fromkeys(parts, True),
        "teacher": run.examination or run.curves is not None or values["decomposition"],
        "augmentation": run.filter or "min_distances" in figures,
        "learning": "learning_curves" in figures,
        "loop": values["rounds"] or "rounds" in notes,
        "alignment": values["alignment"],
        "data": values["facts"],
        "timings": values["timings"],
        "configuration": run.config_text or values["environment"],
    }
    return {name for name, present in content.items() if present or not (run.is_check or name in OPTIONAL)}


def _version() -> str:
    return __version__
