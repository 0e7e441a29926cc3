"""Options that several commands share, and options added from the sections of the recipe."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Collection, Mapping
from inspect import Parameter
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_origin

import typer

from mdl_physpretrain import recipe
from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.option_types import Section, validated
from mdl_physpretrain.presets import PRESETS
from mdl_physpretrain.recipe import MD

if TYPE_CHECKING:
    from mdl_physpretrain.structures.reading import Check

__all__ = [
    "ON_REFERENCE",
    "REPLAY",
    "SIMULATION",
    "TRAINING",
    "Device",
    "Parents",
    "Preset",
    "Seed",
    "Structures",
    "Val",
    "Workers",
    "named_arguments",
    "potential_of",
    "progress_bars",
    "read_all",
    "recipe_options",
    "shared_options",
]

Device = Annotated[str, typer.Option("--device", help="Device: auto, cpu, cuda, cuda:0, mps.")]
Parents = Annotated[list[str] | None, typer.Option("--parents", help="Structures that were augmented.")]
Preset = Annotated[
    recipe.Preset,
    typer.Option("--preset", help=f"{recipe.PRESET_WORDS} Defaults shown here are those of 'default'."),
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Seed of a run; all random choices are derived from it.")]
Structures = Annotated[list[str], typer.Argument(help="Files ASE reads, patterns, 'demo' or load-atoms:<name>.")]
Val = Annotated[list[str] | None, typer.Option("--val", help="Structures that choose the best state.")]
Workers = Annotated[
    str,
    typer.Option(
        "--executor",
        help="Where the work is done: serial, processes[:N], threads[:N] or dask://host:port (docs/cluster.md).",
    ),
]

#: Options of a simulation, with their defaults.
SIMULATION: dict[str, tuple[Any, Any]] = {
    "ensemble": (Annotated[str, typer.Option(help="Ensemble: nvt, npt or nve.")], MD.ensemble),
    "temperature": (Annotated[float, typer.Option("--temperature", "-T", help="Temperature, K.")], MD.temperature),
    "timestep": (Annotated[float, typer.Option(help="Time step, fs.")], MD.timestep),
    "steps": (int, MD.steps),
    "friction": (Annotated[float, typer.Option(help="Friction of the Langevin thermostat, 1/fs.")], MD.friction),
    "pressure": (Annotated[float, typer.Option(help="Pressure, eV/Å³.")], MD.pressure),
    "barostat": (
        Annotated[str, typer.Option(help="Of npt: berendsen, or cell_rescaling, which samples the ensemble.")],
        MD.barostat,
    ),
    "lindemann_variant": (
        Annotated[
            str,
            typer.Option("--variant", help="Verdict: literature, liquid (melting is no failure), printed or paper."),
        ],
        MD.lindemann_variant,
    ),
    "engine": (Annotated[str, typer.Option(help="Engine: auto, ase or batched.")], MD.engine),
    "compiled": (
        Annotated[bool | None, typer.Option(help="Networks by PyTorch's compiler; else on a GPU, for 1000 steps.")],
        MD.compiled,
    ),
}

#: Options of every training, with their defaults.
TRAINING: dict[str, tuple[Any, Any]] = {
    "model": (
        Annotated[
            str | None, typer.Option(help="Registered name, or checkpoint to go on from; default: the preset's.")
        ],
        None,
    ),
    "arg": (Annotated[list[str] | None, typer.Option(help="Argument of a new model, e.g. cutoff=5.0.")], None),
    "core": (
        Annotated[str | None, typer.Option(help="Repulsive core: none or zbl; default: that of the preset.")],
        None,
    ),
    "preset": (Preset, "default"),
    "accelerator": (Annotated[str, typer.Option(help="Accelerator of Lightning: auto, cpu or gpu.")], "auto"),
    "devices": (Annotated[str, typer.Option(help="Devices of Lightning: a number, or auto.")], "1"),
    "strategy": (Annotated[str, typer.Option(help="Strategy of Lightning, e.g. ddp.")], "auto"),
}
#: Options of replay, with the default preset's values.
REPLAY = {
    name: PRESETS["default"]["finetune"][name]
    for name in ("replay_fraction", "replay_tolerance", "replay_final_weight")
}
#: Further options of a training on reference labels.
ON_REFERENCE: dict[str, tuple[Any, Any]] = {
    "val": (Val, None),
    "eam": (Annotated[str | None, typer.Option(help="Fitted EAM (.pt) added to a new model.")], None),
    "freeze_eam": (Annotated[bool, typer.Option("--freeze-eam", help="Do not train the added EAM.")], False),
    "replay": (Annotated[list[str] | None, typer.Option(help="Teacher-labelled structures mixed in.")], None),
}

SHORT = {"learning_rate": ("--lr",)}
SWITCHES = {"anchor": "--anchored/--no-anchored"}  # `--anchor` took a file once: `label` refuses it


def read_all(sources: list[str] | None, check: Check = "labels") -> list[Any]:
    """Structures of all sources, none without a source; ``check`` as of ``read_structures``."""
    from mdl_physpretrain.structures import read_structures
    from mdl_physpretrain.structures.outliers import warn_of_outliers

    structures = read_structures(sources, check=check) if sources else []
    warn_of_outliers(structures)
    return structures


def progress_bars() -> bool:
    """Whether somebody sees them: standard error is a terminal."""
    return sys.stderr.isatty()


def named_arguments(words: list[str] | None) -> dict[str, Any]:
    """Values of ``--arg name=value``, as YAML reads them."""
    from mdl_physpretrain.yaml_text import parse_yaml

    values = {}
    for word in words or ():
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise ConfigError(f"--arg: {word!r} is not of the form name=value")
        values[name] = parse_yaml(value, f"--arg {word}")[0]
    return values


def potential_of(text: str, device: str) -> Any:
    """Any potential by its checkpoint or factory, with ``NAME=`` in front or without."""
    from mdl_physpretrain.hosts.loading import load_potential, named_potentials

    return load_potential(next(iter(named_potentials([text]).values())), device)


def shared_options(options: Mapping[str, tuple[Any, Any]]) -> Callable[..., Any]:
    """Decorator: give a command further options (annotation and default by name) in place of its ``**`` parameter."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
        added = [
            Parameter(name, Parameter.KEYWORD_ONLY, annotation=annotation, default=default)
            for name, (annotation, default) in options.items()
        ]
        command.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
        return command

    return decorate


def recipe_options(
    section: type[Section], key: str, only: Collection[str] | None = None, also: Mapping[str, str] | None = None
) -> Callable[..., Any]:
    """Decorator: give a command the options of a section of the recipe, with its defaults and descriptions.

    The command's parameter ``options`` becomes one option for every field (``only`` some), and gets the checked
    section: the values on the command line, over those of ``--preset`` (under ``key``), over the defaults. ``also``
    has parameters that are fields of other sections, which follow ``--preset``, too. The defaults that ``--help`` shows
    are those of the default preset.
    """
    fields = {name: f for name, f in section.model_fields.items() if only is None or name in only}

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(command, eval_str=True)
        common = [p for name, p in signature.parameters.items() if name != "options"]
        added = [Parameter("context", Parameter.KEYWORD_ONLY, annotation=typer.Context)]
        usual = PRESETS["default"].get(key, {})
        added += [_parameter(name, field, usual) for name, field in fields.items()]
        if "preset" not in {p.name for p in [*common, *added]}:
            added.append(Parameter("preset", Parameter.KEYWORD_ONLY, default="default", annotation=Preset))

        @functools.wraps(command)
        def run(context: typer.Context, **arguments: Any) -> Any:
            values = {name: arguments.pop(name) for name in fields}
            explicit = {k: v for k, v in values.items() if _is_given(context, k)}
            presets = PRESETS[values.get("preset") or arguments["preset"]]
            for name, other in (also or {}).items():
                if not _is_given(context, name):
                    its_default = recipe.Recipe.model_fields[other].get_default(call_default_factory=True)
                    arguments[name] = presets.get(other, {}).get(name, getattr(its_default, name))
            if "preset" not in signature.parameters:
                arguments.pop("preset", None)
            below = {k: v for k, v in presets.get(key, {}).items() if k in section.model_fields}
            return command(**arguments, options=validated(section, below | explicit, prefix="--"))

        shown = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in [*common, *added]]
        run.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in shown}
        return run

    return decorate


def _is_given(context: typer.Context, name: str) -> bool:
    return context.get_parameter_source(name).name != "DEFAULT"  # type: ignore[union-attr]


def _parameter(name: str, field: Any, usual: Mapping[str, Any]) -> Parameter:
    """The option of one field, ``usual`` over its default; what the command line has no type for is read as YAML."""
    words, default = f"--{name.replace('_', '-')}", usual.get(name, field.get_default(call_default_factory=True))
    annotation: Any = field.annotation
    if annotation is bool:
        option = typer.Option(SWITCHES.get(name, f"{words}/--no-{words[2:]}"), help=field.description)
    elif annotation in (int, float, str) or get_origin(annotation) is Literal:
        option = typer.Option(words, *SHORT.get(name, ()), help=field.description)
    else:
        option = typer.Option(words, parser=_value, metavar="VALUE", help=field.description)
        annotation = str
        default = ",".join(map(str, default)) if isinstance(default, tuple) else str(default or "none").lower()
    kind = Parameter.KEYWORD_ONLY
    return Parameter(name, kind, default=default, annotation=Annotated[annotation, option])


def _value(text: str) -> Any:
    """``none``, a number, numbers with commas between them, or any YAML."""
    from mdl_physpretrain.yaml_text import parse_yaml

    if text.lower() == "none":
        return None
    try:
        value, _ = parse_yaml(text, repr(text))
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from None
    return value.split(",") if isinstance(value, str) and "," in value else value
