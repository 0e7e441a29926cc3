"""Commands about whole runs: run, report, compare, config, init, datasets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mdl_physpretrain.cli.application import app
from mdl_physpretrain.errors import ConfigError

if TYPE_CHECKING:
    from ase import Atoms
    from rich.console import Console

    from mdl_physpretrain.workflow.forecast import Forecast
    from mdl_physpretrain.workflow.task import Task

Overrides = Annotated[list[str] | None, typer.Argument(help="Changes, e.g. md.steps=5000 'seeds=[0,1]'.")]

MANY_COMPOSITIONS = 5  # from so many on a split by composition is proposed
MINIMAL = """\
# A run of physpretrain. All options: physpretrain config
budget: 1h                # trajectories, seeds and epochs are fitted to this; without it: all of the recipe
first_verdict: 10min      # the first seed is judged by then, the others follow; less of it shortens training
data:
  source: {source}        # any file ASE reads, a pattern, 'demo', or load-atoms:<name>; energy and forces
{split}seeds: [0, 1, 2, 3, 4]    # results vary between seeds: several, always
backbone:
  name: torchmd_et        # or cgcnn, m3gnet
  args: {{cutoff: 5.0}}     # Å
md:
  temperature: 1000       # K
  steps: 5000             # of 1 fs; fewer, or less than 5 ps, say little
# Where a foundation model knows these elements, it may teach better than a fitted potential (docs/recipe.md);
# with_fitted: true lets a fitted one label what it knows better.
# teacher: {{calculator: "chgnet.model.dynamics:CHGNetCalculator", core: zbl}}
"""


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="YAML file, or 'demo': the job that comes with the package.")],
    overrides: Overrides = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Run folder.")] = None,
    only: Annotated[str | None, typer.Option("--only", help="Do this stage only.")] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="Begin with this stage; earlier results are taken as they are.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Do the stages again although nothing changed.")] = False,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Seeds and arms at a time; default: one per core.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option("--budget", help="Fit the run into this time, e.g. 2h or 90min.")
    ] = None,
    plan_only: Annotated[
        bool, typer.Option("--plan", help="Prepare the data, print the plan with its estimated time, and stop.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars and no remaining times.")] = False,
) -> None:
    """From data to a checked potential: teacher, labels, training, MD, report.

    Stages: prepare, teacher, augment, pretrain, finetune, loop, evaluate, reference, md, report. A plan with the
    estimated time comes first. Unchanged stages are skipped, interrupted ones go on. The first seed runs through all
    stages before the others.
    """
    from datetime import datetime

    from rich.console import Console
    from rich.markup import escape

    from mdl_physpretrain.workflow.config_files import load_config, refuse_foreign_output

    resolved = load_config(config, [*(overrides or ()), *([f"budget={budget}"] if budget else [])])
    if output is None and not any(word.startswith("output=") for word in overrides or ()):
        refuse_foreign_output(config, resolved)
    console = Console(highlight=False)
    folder = output or Path(resolved.output or "runs/run")

    from mdl_physpretrain.workflow.plan_table import plan_parts
    from mdl_physpretrain.workflow.run import run_pipeline, selected_stages
    from mdl_physpretrain.workflow.summary import closing_lines, summary_table
    from mdl_physpretrain.workflow.workers import default_jobs

    selected_stages(only, start)
    workers = jobs or default_jobs(len(resolved.seeds) * len(resolved.arms))
    console.print(
        f"[bold]{escape(str(resolved.name))}[/], run folder {escape(str(folder))}"
        + (f", {workers} at a time" if workers > 1 else "")
    )

    def report_progress(event: str, task: Task, seconds: float) -> None:
        if event == "leave":
            return
        if event == "verdict":
            console.print(f"First verdict, seed {resolved.seeds[0]} (report/index.html has the page):")
            console.print(summary_table(folder) or "")
            return
        words = {"start": "…", "resume": "↻ going on with", "skip": "[dim]= unchanged:", "done": "[green]✓[/]"}
        time = f" ({seconds:.1f} s)" if event == "done" else ""
        console.print(f"{words[event]} {escape(task.name)}{time}")
        if task.name == "teacher" and event in ("done", "skip"):
            _print_examination(console, folder)
        if task.name == "prepare" and event in ("done", "skip"):
            _split(console, folder)

    plans: list[Forecast] = []

    def show_plan(expected: Forecast) -> None:
        plans.append(expected)
        for part in plan_parts(expected, resolved):
            console.print(part, soft_wrap=isinstance(part, str), markup=False)

    def say(line: str) -> None:
        if not quiet:
            console.print(f"  {datetime.now():%H:%M}  {line}", soft_wrap=True, markup=False)

    bars = not quiet and workers == 1 and console.is_terminal
    result = run_pipeline(
        resolved,
        output=output,
        only=only,
        start=start,
        force=force,
        jobs=workers,
        progress=bars,
        listener=report_progress,
        planned=show_plan,
        say=say,
        only_plan=plan_only,
    )
    if plan_only:
        if not plans:
            short = f"Nothing that takes long is left to do, only {', '.join(result.left)}."
            console.print(short if result.left else "Nothing is left to do.", soft_wrap=True, markup=False)
        return
    table = summary_table(folder)
    if table is not None:
        console.print(table)
    for line in closing_lines(folder):
        console.print(line, soft_wrap=True, markup=False)
    if result.report is not None:
        console.print(f"Report: {escape(str(result.report.resolve()))}", soft_wrap=True)


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="A run folder.")]) -> None:
    """Write the HTML report of a run folder, finished or not."""
    from mdl_physpretrain.report import write_report
    from mdl_physpretrain.report.read import read_left
    from mdl_physpretrain.report.sentences import left_sentence

    page = write_report(folder)
    if left := left_sentence(read_left(folder)):
        typer.echo(f"Warning: {left.text.striptags()}", err=True)
    typer.echo(f"Report: {page.resolve()}")


@app.command()
def compare(
    folders: Annotated[list[Path], typer.Argument(help="Run folders.")],
    csv: Annotated[Path | None, typer.Option("--csv", help="Write the whole table to this file.")] = None,
) -> None:
    """Several runs in one table (Markdown): stability, errors and training time of every arm."""
    from mdl_physpretrain.ownership import keep_existing, refuse_overwriting
    from mdl_physpretrain.report.compare import compare_runs, markdown

    refuse_overwriting(csv, folders, table=True)
    table = compare_runs(folders)
    typer.echo(markdown(table), nl=False)
    if csv is not None:
        try:
            with keep_existing(csv):
                table.to_csv(csv, index=False)
        except OSError as error:
            raise ConfigError(f"cannot write {csv}: {error.strerror}") from error
        typer.echo(f"Wrote {csv}", err=True)


@app.command("config")
def show_config(
    config: Annotated[Path | None, typer.Argument(help="YAML file; without one, all options are listed.")] = None,
    overrides: Overrides = None,
) -> None:
    """Show a configuration with every default filled in, or all options there are."""
    from mdl_physpretrain.workflow.config_files import dump_config, load_config, schema_rows

    if config is not None:
        typer.echo(dump_config(load_config(config, overrides or ())), nl=False)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("key", "type", "default", "what", title="Options of a run")
    for row in schema_rows():
        table.add_row(*map(Text, row))
    Console().print(table)


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("config.yaml"),
    data: Annotated[str, typer.Option("--data", help="Where the structures are.")] = "demo",
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Look at the data and write a small configuration to start from."""
    import json

    if path.exists() and not force:
        raise ConfigError(f"{path} exists; choose another name or say --force")
    split = _describe_data(data)
    plain = all(c.isalnum() or c in "/._-" for c in data)
    try:
        path.write_text(MINIMAL.format(source=data if plain else json.dumps(data), split=split), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
    typer.echo(f"Wrote {path}: set md.temperature there to that of the MD you mean to run.")
    typer.echo(f"Then: physpretrain run {path} --plan (stages and times), and without --plan the run")


@app.command()
def datasets(
    name: Annotated[str | None, typer.Argument(help="'demo' or a load-atoms name such as P-GAP-20.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the structures to this file.")] = None,
) -> None:
    """List datasets that have a name, or describe (and write) one of them."""
    from mdl_physpretrain.structures.datasets import PUBLIC_DATASETS, SHIPPED

    if name is None:
        for shipped in SHIPPED:
            typer.echo(f"{shipped} (shipped; labels by CHGNet, not DFT)")
        for dataset in PUBLIC_DATASETS:
            typer.echo(f"load-atoms:{dataset}")
        return
    from mdl_physpretrain.structures import label_counts, read_structures, write_structures

    if output is not None and output.exists():
        raise ConfigError(f"{output} exists: name a new file")
    source = name if name in SHIPPED or name.startswith("load-atoms:") else f"load-atoms:{name}"
    structures = read_structures(source, duplicates="rename")
    counts = ", ".join(f"{count} {label_name}" for label_name, count in label_counts(structures).items())
    typer.echo(f"{source}: {counts}; elements {' '.join(sorted({s for a in structures for s in a.symbols}))}")
    if output is not None:
        write_structures(output, structures)
        typer.echo(f"Wrote {output}")


def _describe_data(source: str) -> str:
    """Print what there is; the line of the configuration that proposes a split, or nothing."""
    from collections import Counter

    from mdl_physpretrain.structures import read_structures
    from mdl_physpretrain.structures.groups import composition, grouping_tags
    from mdl_physpretrain.structures.label_keys import available_keys
    from mdl_physpretrain.structures.labels import LABEL_NAMES, has_label
    from mdl_physpretrain.structures.reading import LABEL_OPTIONS, LabelOptions

    names: dict[str, Counter[str]] = {}
    token = LABEL_OPTIONS.set(LabelOptions(names=names))
    try:
        structures = read_structures(source, duplicates="rename")
    finally:
        LABEL_OPTIONS.reset(token)
    elements = " ".join(sorted({s for atoms in structures for s in atoms.symbols}))
    typer.echo(f"{source}: {len(structures)} structures of {elements}")
    for label in LABEL_NAMES:
        count = sum(has_label(atoms, label) for atoms in structures)
        words = ", ".join(f"{name!r}" for name in names.get(label, ()))
        size = _size(structures, label) if count else ""
        typer.echo(f"  {label}: {count} of {len(structures)}{size}" + (f", as {words}" if count and words else ""))
        if not count and label != "stress":
            keys = ", ".join(available_keys(structures[0]))
            typer.echo(f"    data.{label}_key says how it is called; the first structure has: {keys}")
    if any(has_label(atoms, label) for atoms in structures for label in LABEL_NAMES):
        typer.echo("  do these look right? data.units states other units than eV, eV/Å and eV/Å³")
    compositions = len({composition(atoms) for atoms in structures})
    if not MANY_COMPOSITIONS <= compositions < len(structures):
        return _tags_to_split_by(grouping_tags(structures))
    typer.echo(
        f"  {compositions} compositions: with split_by: composition the test set has those that training has not; "
        "it is in the file, behind a #"
    )
    return f"  # split_by: composition  # of {compositions}; without it structures are split at random\n"


def _size(structures: list[Atoms], label: str) -> str:
    """How large a label is, in words: a wrong unit shows in it."""
    import numpy as np

    from mdl_physpretrain.structures.labels import get_labels, has_label

    labelled = [(atoms, getattr(get_labels(atoms), label)) for atoms in structures if has_label(atoms, label)]
    if label == "energy":
        per_atom = [float(value) / len(atoms) for atoms, value in labelled]
        return f", {np.nanmin(per_atom):.4g} to {np.nanmax(per_atom):.4g} eV/atom"
    each = np.concatenate([np.ravel(value) for _, value in labelled])
    return f", {np.sqrt(np.nanmean(each**2)):.3g} eV/Å{'³' if label == 'stress' else ''} (root mean square)"


def _tags_to_split_by(tags: dict[str, int]) -> str:
    """Print which tags may tell frames of one material; a line of the configuration for the first, or nothing."""
    if not tags:
        return ""
    words = ", ".join(f"{tag} ({count} values)" for tag, count in tags.items())
    tag, count = next(iter(tags.items()))
    typer.echo(
        f"  tags: {words}; if all frames of a material share a value, split_by: {tag} tests on materials that training "
        "has not seen; it is in the file, behind a #"
    )
    return f"  # split_by: {tag}  # of {count} values; without it structures are split at random\n"


def _split(console: Console, folder: Path) -> None:
    """Print how many structures there are and how they were split."""
    import json

    from mdl_physpretrain.report.sentences import split_words

    try:
        summary = json.loads((folder / "data" / "summary.json").read_text())
        sizes = ", ".join(f"{summary[f'n_{part}']} {part}" for part in ("train", "val", "test"))
    except (OSError, ValueError, KeyError):
        return
    console.print(f"  {sizes}; split {split_words(summary)}", soft_wrap=True, markup=False)


def _print_examination(console: Console, folder: Path) -> None:
    """Print the stored examination of the teacher."""
    import json

    from mdl_physpretrain.teacher.examine import Examination, PairExamination

    file = folder / "teacher" / "examination.json"
    if not file.exists():  # not every kind of teacher has one
        return
    try:
        stored = json.loads(file.read_text())
        stored["pairs"] = [PairExamination(**pair) for pair in stored["pairs"]]
        console.print(Examination(**stored).table())
    except (OSError, ValueError, TypeError, KeyError):
        console.print("the teacher's examination is not readable; see teacher/examination.json")
