"""Command check: the probes of any finished potentials."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from mdl_physpretrain.cli.application import app
from mdl_physpretrain.cli.options import SIMULATION, Device, shared_options
from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.recipe import CHECK

STRUCTURE_FILES = (".extxyz", ".xyz", ".cif", ".vasp", ".poscar", ".traj", ".db")  # suffixes that no potential has

__all__ = ["potentials_of", "print_check", "seeds_of", "tell"]


class _NamesProbes(TyperCommand):
    """Its help names the probes that can be left out; only then they are looked up, as that takes seconds."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from mdl_physpretrain.workflow.check_suite import probe_names

        skip = next(option for option in self.params if option.name == "skip")
        skip.help = f"Question that is not asked: {', '.join(probe_names())}."  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)


@app.command(cls=_NamesProbes)
@shared_options(SIMULATION)
def check(
    potentials: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]POTENTIAL...",
            help="Checkpoints (of this package, MatDeepLearn, MatterTune, MatterSim), or module:factory of ASE "
            "calculators.",
        ),
    ],
    structures: Annotated[
        list[str] | None,
        typer.Option("--structures", "-s", help="Files ASE reads, patterns, 'demo', load-atoms:<name>. Required."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for tables, trajectories and the report. Required."),
    ] = None,
    n_structures: Annotated[
        int | None,
        typer.Option("--max-structures", min=1, help="At most so many structures, spread evenly over the files."),
    ] = None,
    reference: Annotated[
        list[str] | None, typer.Option("--reference", help="Reference trajectories, for the RDFs.")
    ] = None,
    reference_potential: Annotated[
        str | None,
        typer.Option(
            "--reference-potential",
            help="Potential to compare with, from the same starts: what it loses is not held against others.",
        ),
    ] = None,
    reference_structures: Annotated[
        int | None,
        typer.Option(
            "--reference-structures",
            min=1,
            help="Simulate the reference potential from the first so many structures only.",
        ),
    ] = None,
    seeds: Annotated[str, typer.Option("--seeds", help="Seeds of velocities and noise, e.g. 0,1,2.")] = "0",
    trajectories: Annotated[
        int, typer.Option("--trajectories", min=1, help="A frame every so many steps.")
    ] = CHECK.trajectory_interval,
    md_structures: Annotated[
        list[str] | None,
        typer.Option(
            "--md-structures",
            metavar="ID",
            help="Id of a structure that is simulated; the others are examined without MD. Default: all.",
        ),
    ] = None,
    nve_structures: Annotated[
        int, typer.Option("--nve-structures", help="Number of structures simulated without thermostat.")
    ] = CHECK.nve_structures,
    nve_steps: Annotated[int, typer.Option("--nve-steps")] = CHECK.nve_steps,
    compressed: Annotated[
        int, typer.Option("--compressed", help="Number of structures that are compressed.")
    ] = CHECK.compressed,
    r_max: Annotated[float, typer.Option("--r-max", help="Largest distance of the RDFs, Å.")] = CHECK.r_max,
    probe: Annotated[
        list[str] | None,
        typer.Option("--probe", metavar="OPTION=VALUE", help="Further option, as in 'probe:' of YAML."),
    ] = None,
    skip: Annotated[list[str] | None, typer.Option("--skip", help="Question to leave out.")] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Tasks at a time, with one thread each.")] = 1,
    device: Device = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars and no lines of progress.")] = False,
    **simulation: Any,
) -> None:
    """Is it safe to run these potentials? MD, diatomics, compression, energy drift, RDFs, diffusion, errors.

    The same command goes on after an interruption.
    """
    from mdl_physpretrain.hosts.loading import load_potential
    from mdl_physpretrain.ownership import claim_folder
    from mdl_physpretrain.statistics.reference import REFERENCE_POTENTIAL
    from mdl_physpretrain.structures import read_structures
    from mdl_physpretrain.structures.validation import refuse_damaged
    from mdl_physpretrain.workflow.check import check as checked
    from mdl_physpretrain.workflow.reference import described

    structures, output = _given(potentials, structures, output)
    numbers, names = seeds_of(seeds), [text.partition("=")[2] for text in potentials]
    claim_folder(output, "check", inputs=[structures, potentials, names, reference, reference_potential])
    files: dict[str, str] = {}
    chosen = _spread(read_structures(structures, files=files), n_structures)
    refuse_damaged(chosen, labels=not {"errors", "stiffness"} <= set(skip or ()), files=files)
    texts, loaded = potentials_of(potentials, device)
    beside = None
    if reference_potential is not None:
        beside = load_potential(reference_potential, device)
        texts[REFERENCE_POTENTIAL] = described(reference_potential)
    bars = not quiet and sys.stderr.isatty()
    say = None if quiet else _say
    result = checked(
        loaded, chosen, output=output, references=reference or (), described=texts, command=sys.argv,
        reference_potential=beside, reference_structures=reference_structures,
        progress=bars, say=say, listener=None if quiet or (bars and jobs == 1) else tell, seeds=numbers,
        trajectory_interval=trajectories, md_structures=tuple(md_structures) if md_structures else None,
        nve_structures=nve_structures, nve_steps=nve_steps, compressed=compressed,
        r_max=r_max, skip=tuple(skip or ()), probe=_options(probe or ()),
        jobs=jobs, **simulation,
    )  # fmt: skip
    print_check(result)


def _given(potentials: Sequence[str], structures: list[str] | None, output: Path | None) -> tuple[list[str], Path]:
    """Structures and folder; raises ConfigError where one is missing, or structures stand where potentials belong."""
    form = "physpretrain check POTENTIAL... -s STRUCTURES -o FOLDER"
    for text in potentials:
        if Path(text).suffix.lower() in STRUCTURE_FILES:
            raise ConfigError(
                f"{text} holds structures, no potential: {form}, as in 'physpretrain check net.pt -s {text} -o check'"
            )
    for option, value in (("-s (structures)", structures), ("-o (output folder)", output)):
        if not value:
            raise ConfigError(f"{option} is missing: {form}")
    return structures or [], output or Path()


def _say(line: str) -> None:
    """Print a line of progress with the time, to where a file of answers does not get it."""
    typer.echo(f"  {datetime.now():%H:%M}  {line}", err=True)


def tell(event: str, task: Any, seconds: float) -> None:
    """Print that a task of a check has ended."""
    words = {"done": f"done in {seconds:.1f} s", "skip": "unchanged", "fail": "failed"}
    if event in words:
        _say(f"{task.name}: {words[event]}")


def potentials_of(words: list[str], device: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Texts and potentials by name."""
    from mdl_physpretrain.hosts.loading import load_potential, named_potentials

    texts = named_potentials(words)
    return texts, {name: load_potential(text, device) for name, text in texts.items()}


def seeds_of(text: str) -> tuple[int, ...]:
    """Numbers from a text such as ``0,1,2``."""
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise ConfigError(f"--seeds: {text!r} is not a list of numbers such as 0,1,2") from None


def _options(words: Sequence[str]) -> dict[str, Any]:
    """Values by name of texts such as ``name=3``."""
    from mdl_physpretrain.yaml_text import parse_yaml

    options = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(f"--probe: {word!r} is not of the form option=value")
        options[name] = parse_yaml(value, f"--probe {word}")[0]
    return options


def print_check(result: Any) -> None:
    """Print what a check found: counts, answers, comparisons, where everything is."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    _counts(console, result)
    colours = {"yes": "green", "no": "bold red", "unanswered": "yellow", "not judged": "yellow"}
    rows = result.answers[result.answers["question"] != "MD stays physical"]
    if len(rows):
        table = Table("potential", "question", "", "finding", title="Answers", box=box.SIMPLE_HEAD, pad_edge=False)
        for row in result.answers.to_dict("records"):
            mark = Text(row["verdict"], style=colours.get(row["verdict"], ""))
            table.add_row(Text(row["arm"]), row["question"], mark, Text(row["finding"]))
        console.print(table)
    if result.short:
        console.print(Text(result.short), style="yellow", soft_wrap=True)
    for pair in result.pairs:
        console.print(Text(pair.sentence()), soft_wrap=True)
    console.print(Text(f"Wrote {result.page or result.folder / 'physicality.csv'}"), soft_wrap=True)


def _counts(console: Any, result: Any) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from mdl_physpretrain.statistics.proportions import summarize
    from mdl_physpretrain.statistics.survival import shares_in_words

    runs = result.tables.get("physicality")
    if runs is None:
        return
    s = result.settings
    title = f"{s.ensemble.upper()}, {s.temperature:g} K, {s.timestep:g} fs, {s.steps} steps: unphysical trajectories"
    title += ", melting not judged" if s.limits.liquid else ""
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("potential")
    for name in ("runs", "overlap", "Lindemann", "broken", "unphysical", "95 % interval"):
        table.add_column(name, justify="right")
    main = runs[runs["label"].isna()]
    main = main[~main["verdict"].isin(["not judged", "unreadable"])] if "verdict" in main else main
    counts = summarize(main.assign(unphysical=~main["physical"].astype(bool)), by="arm")
    for row in counts.to_dict("records"):
        potential_rows = main[main["arm"] == row["arm"]]
        broken = int((potential_rows["nan"].astype(bool) | potential_rows["exploded"].astype(bool)).sum())
        interval = f"{100 * (1 - row['physical_high']):.0f}-{100 * (1 - row['physical_low']):.0f} %"
        numbers = (row["n"], row["overlap"], row["lindemann_violation"], broken, row["n"] - row["physical"])
        table.add_row(Text(str(row["arm"])), *map(str, numbers), interval)
    console.print(table)
    for name, rows in main.groupby("arm", sort=False):
        lost = rows["first_unphysical_step"].astype("float64")
        per_step = rows["timestep"].astype("float64") / 1000
        words = shares_in_words(
            lost.where(lost.notna(), rows["steps_done"]) * per_step, ~rows["physical"].astype(bool),
            rows["steps"] * per_step,
        )  # fmt: skip
        shares = ", ".join(f"{time:g} ps {text}" for time, text in words.items())
        console.print(Text(f"{name}: physical after {shares}"), soft_wrap=True)


def _spread(structures: list[Any], most: int | None) -> list[Any]:
    """At most so many, evenly spread."""
    if most is None or len(structures) <= most:
        return structures
    return [structures[k * len(structures) // most] for k in range(most)]
