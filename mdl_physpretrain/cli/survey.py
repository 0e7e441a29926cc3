"""Command survey: known potentials and one's own on textbook crystals, each in its own environment."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from mdl_physpretrain.cli.application import app
from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.recipe import MD

__all__: list[str] = []


@app.command()
def survey(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the checks and the page of all.")],
    potential: Annotated[
        list[str] | None,
        typer.Option(
            "--potential",
            "-p",
            metavar="NAME[=POTENTIAL][@PYTHON]",
            help="A known potential, or NAME=checkpoint or module:factory; @PYTHON: of its environment. Default: all "
            "known ones whose packages are there.",
        ),
    ] = None,
    python: Annotated[str, typer.Option("--python", help="Python of the potentials that name none.")] = sys.executable,
    material: Annotated[list[str] | None, typer.Option("--material", "-m", help="Default: all crystals.")] = None,
    md_material: Annotated[
        list[str] | None,
        typer.Option("--md-material", help="Material that is simulated; the others are examined without MD."),
    ] = None,
    temperatures: Annotated[str, typer.Option("--temperatures", help="K.")] = "300,1000",
    pressures: Annotated[str, typer.Option("--pressures", help="GPa, at the first temperature; 0: none.")] = "20",
    steps: Annotated[int, typer.Option("--steps", min=1, help="Of MD.")] = MD.steps,
    timestep: Annotated[float, typer.Option("--timestep", help="fs.")] = MD.timestep,
    option: Annotated[
        list[str] | None, typer.Option("--check", metavar="WORDS", help="Further words for physpretrain check.")
    ] = None,
    skip: Annotated[list[str] | None, typer.Option("--skip", help="Question that is not asked.")] = None,
) -> None:
    """Which potentials are safe to run? A check of each on textbook crystals, and one page of all.

    The same command goes on after an interruption; with further potentials it adds them.
    """
    from rich.console import Console
    from rich.text import Text

    from mdl_physpretrain.survey.page import still_physical
    from mdl_physpretrain.survey.survey import conditions, known_potentials
    from mdl_physpretrain.survey.survey import survey as surveyed

    console = Console()
    chosen = _chosen(potential, python) if potential else list(known_potentials(python).values())
    words = ["--steps", str(steps), "--timestep", f"{timestep:g}", *(w for text in option or () for w in text.split())]

    def tell(name: str, condition: str, state: str) -> None:
        console.print(Text(f"{name}, {condition}: {state}"), soft_wrap=True)

    found = surveyed(
        chosen, output=output, names=material, md_names=md_material,
        simulated=conditions(_numbers(temperatures), _numbers(pressures)),
        options=words, skip=tuple(skip or ()), listener=tell,
    )  # fmt: skip
    for (name, condition), group in found.trajectories.groupby(["potential", "condition"], sort=False):
        shares = ", ".join(f"{time:g} ps {text}" for time, text in still_physical(group).items())
        console.print(Text(f"{name}, {condition}: physical after {shares}"), soft_wrap=True)
    console.print(Text(f"Wrote {found.page}"), soft_wrap=True)
    if found.earlier:
        told = "; ".join(f"{name}, {condition}: {reason}" for (name, condition), reason in found.earlier.items())
        console.print(Text(f"Not done in earlier calls, and not asked for now: {told}"), soft_wrap=True)
    if found.failures:
        raise typer.Exit(1)


def _chosen(words: list[str], python: str) -> list:  # type: ignore[type-arg]
    """Potentials of texts; raises ConfigError for a name that is not known."""
    from mdl_physpretrain.survey.known import KNOWN
    from mdl_physpretrain.survey.survey import SurveyPotential

    found = []
    for word in words:
        text, _, place = word.partition("@")
        name, equals, rest = text.partition("=")
        if not equals and name in KNOWN:
            make = KNOWN[name][1]
            rest = f"{make.__module__}:{make.__name__}"
        elif not equals or not rest:
            raise ConfigError(f"--potential {word!r} is neither NAME=POTENTIAL nor one of {', '.join(KNOWN)}")
        if Path(rest).is_file():
            rest = str(Path(rest).resolve())
        found.append(SurveyPotential(name, rest, place or python))
    return found


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split(",")]
    except ValueError:
        raise ConfigError(f"{text!r} is not a list of numbers such as 300,1000") from None
