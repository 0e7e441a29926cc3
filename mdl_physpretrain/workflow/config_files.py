"""From YAML files and ``key=value`` words to a checked configuration.

Errors name the file and line, the dotted place and the nearest valid key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.files import nameable
from mdl_physpretrain.option_types import option_fields, problems
from mdl_physpretrain.potentials.factories import FACTORY
from mdl_physpretrain.presets import PRESETS, merge, over_preset
from mdl_physpretrain.structures.datasets import SHIPPED, shipped_configuration
from mdl_physpretrain.workflow.config import RunConfig
from mdl_physpretrain.workflow.yaml_files import KeyLines, is_config_of_run, read_yaml, set_value

__all__ = ["build_config", "dump_config", "load_config", "load_layers", "refuse_foreign_output", "schema_rows"]


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a configuration.

    Parameters
    ----------
    path
        YAML file. ``inherits: other.yaml`` (or a list) in it names files,
        relative to it, that it extends key by key. ``demo`` is the shipped
        one, where no file has this name.
    overrides
        ``key.sub=value`` words; the value is YAML.

    Raises
    ------
    ConfigError
        If a file cannot be read, a key is unknown, or a value is out of range.
    """
    source = KeyLines()
    path = Path(path)
    if path == Path("demo") and not path.is_file():
        path = shipped_configuration()
    content = read_yaml(path, source)
    for word in overrides:
        set_value(content, word, source)
    config = build_config(content, source=source, base=path.resolve().parent)
    if config.name is None:
        config.name = path.stem
    if config.output is None:
        config.output = f"runs/{path.stem}"
    return config


def refuse_foreign_output(path: Path, config: RunConfig) -> None:
    """Raise where the ``config.yaml`` of a run folder names another one: of a folder that was moved or copied.

    Raises
    ------
    ConfigError
        Naming both folders.
    """
    folder = path.resolve().parent
    if not is_config_of_run(path) or config.output is None:
        return
    if Path(config.output).resolve() != folder:
        raise ConfigError(
            f"{path} lies in the run folder {path.parent}, and its output is {config.output}: say which one you mean, "
            f"-o {path.parent} or -o {config.output}"
        )


def load_layers(paths: Sequence[Path], content: Mapping[str, Any], overrides: Sequence[str] = ()) -> RunConfig:
    """Several files over one another, ``content`` over them, and ``key.sub=value`` words over all."""
    source = KeyLines()
    merged: dict[str, Any] = {}
    for path in paths:
        merged = merge(merged, read_yaml(path, source))
    merged = merge(merged, content)
    for word in overrides:
        set_value(merged, word, source)
    return build_config(merged, source=source, base=Path.cwd())


def build_config(content: Mapping[str, Any], *, source: KeyLines | None = None, base: Path | None = None) -> RunConfig:
    """Check a configuration given as nested dictionaries.

    Parameters
    ----------
    content
        Keys of :class:`RunConfig`.
    source
        Lines for the messages.
    base
        Folder that relative paths may be relative to, besides the working folder.

    Raises
    ------
    ConfigError
        Naming every wrong key and value.
    """
    source = source or KeyLines()
    try:
        config = RunConfig.model_validate(over_preset(content))
    except ValidationError as error:
        raise ConfigError(problems(error, RunConfig, line_of=source.of)) from None
    if base is not None:
        _absolute(config, base)
    return config


def dump_config(config: RunConfig) -> str:
    """The configuration as YAML, every option written out."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)


def schema_rows() -> Iterator[tuple[str, str, str, str]]:
    """Every option: dotted key, type, default of a run, description."""
    preset = PRESETS["default"]
    for key, field in option_fields(RunConfig):
        section, _, name = key.partition(".")
        default = preset.get(section, {}).get(name, field.get_default(call_default_factory=True))
        text = yaml.safe_dump(
            list(default) if isinstance(default, tuple) else default, default_flow_style=True, width=10**6
        )
        yield key, _kind(field.annotation), text.split("\n")[0], field.description or ""


def _kind(annotation: Any) -> str:
    """A type in words: ``number or null``, ``list of text``, ``nvt | npt | nve``."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(args[0])
    if origin is Literal:
        return " | ".join(map(str, args))
    if origin in (Union, UnionType):
        return " or ".join("null" if a is NoneType else _kind(a) for a in args)
    if origin in (list, tuple):
        return f"list of {_kind(args[0])}"
    if annotation is dict or origin is dict:
        return "keys and values"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "{" + ", ".join(annotation.model_fields) + "}"  # type: ignore[attr-defined]
    return {int: "integer", float: "number", str: "text", bool: "true | false"}.get(annotation, str(annotation))


def _absolute(config: RunConfig, base: Path) -> None:
    """Make relative paths absolute: of the working folder, else of the file's folder."""

    def absolute(text: str) -> str:
        path = nameable(text)
        magic = any(c in text for c in "*?[")
        for root in (Path.cwd(), base):
            if (root / path).exists():
                return str((root / path).resolve())
            if magic and not path.is_absolute() and any(root.glob(text)):
                return str(root / path)
        return str(path)

    def sources(names: list[str] | None, words: set[str]) -> list[str] | None:
        if names is None:
            return None
        return [s if s in words or s.startswith("load-atoms:") else absolute(s) for s in names]

    data, words = config.data, set(SHIPPED)
    data.source, data.train = sources(data.source, words), sources(data.train, words)
    data.val, data.test = sources(data.val, words), sources(data.test, words)
    config.md.source = sources(config.md.source, {*SHIPPED, "train", "val", "test"}) or []
    config.md.reference = sources(config.md.reference, set())
    if config.teacher.checkpoint is not None:
        config.teacher.checkpoint = absolute(config.teacher.checkpoint)
    reference = config.md.reference_potential
    if reference is not None and not FACTORY.fullmatch(reference):
        config.md.reference_potential = absolute(reference)
