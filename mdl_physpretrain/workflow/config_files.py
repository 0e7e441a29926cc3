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
from mdl_physpretrain.option_types import Place, option_fields, problems
from mdl_physpretrain.recipe import merge, over_preset
from mdl_physpretrain.workflow.config import RunConfig
from mdl_physpretrain.yaml_text import parse_yaml

__all__ = ["build_config", "dump_config", "load_config", "load_layers", "schema_rows"]


MAX_INHERITED = 50


class _Source:
    """Where each key of a YAML file stands, and files that were read."""

    def __init__(self) -> None:
        self.lines: dict[Place, str] = {}
        self.files: dict[Path, dict[str, Any]] = {}

    def of(self, place: Place) -> str | None:
        """``file:line`` of a place or of the nearest one above it."""
        for end in range(len(place), 0, -1):
            if place[:end] in self.lines:
                return self.lines[place[:end]]
        return None


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a configuration.

    Parameters
    ----------
    path
        YAML file. ``inherits: other.yaml`` (or a list) in it names files,
        relative to it, that it extends key by key.
    overrides
        ``key.sub=value`` words; the value is YAML.

    Raises
    ------
    ConfigError
        If a file cannot be read, a key is unknown, or a value is out of range.
    """
    source = _Source()
    content = dict(_read(Path(path), source, ()))
    for word in overrides:
        _override(content, word, source)
    config = build_config(content, source=source, base=Path(path).resolve().parent)
    if config.name is None:
        config.name = Path(path).stem
    if config.output is None:
        config.output = f"runs/{Path(path).stem}"
    return config


def load_layers(paths: Sequence[Path], content: Mapping[str, Any], overrides: Sequence[str] = ()) -> RunConfig:
    """Several files over one another, ``content`` over them, and ``key.sub=value`` words over all.

    Raises
    ------
    ConfigError
        As :func:`load_config`.
    """
    source = _Source()
    merged: dict[str, Any] = {}
    for path in paths:
        merged = merge(merged, _read(path, source, ()))
    merged = merge(merged, content)
    for word in overrides:
        _override(merged, word, source)
    return build_config(merged, source=source, base=Path.cwd())


def build_config(content: Mapping[str, Any], *, source: _Source | None = None, base: Path | None = None) -> RunConfig:
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
    source = source or _Source()
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
    """Every option: dotted key, type, default, description."""
    for key, field in option_fields(RunConfig):
        default = field.get_default(call_default_factory=True)
        text = yaml.safe_dump(list(default) if isinstance(default, tuple) else default, default_flow_style=True)
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


def _read(path: Path, source: _Source, above: tuple[Path, ...]) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read: {error}"
        named = f" (inherited by {above[-1]})" if above else ""
        raise ConfigError(f"configuration {path} {reason}{named}") from error
    if path.resolve() in above:
        raise ConfigError(f"{path}: 'inherits' goes round in a circle")
    if len(above) > MAX_INHERITED:
        raise ConfigError(f"{path}: 'inherits' goes deeper than {MAX_INHERITED} files")
    if path.resolve() in source.files:  # of several that inherit it
        return source.files[path.resolve()]
    content, node = parse_yaml(text, str(path))
    content = {} if node is None else content
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(content).__name__}")
    lines: dict[Place, str] = {}
    if node is not None:
        _walk(node, (), lines, path)
    parents = content.pop("inherits", [])
    if not (isinstance(parents, str) or (isinstance(parents, list) and all(isinstance(p, str) for p in parents))):
        raise ConfigError(f"{lines.get(('inherits',), path)}: inherits: expected a file name or a list of them")
    merged: dict[str, Any] = {}
    for parent in [parents] if isinstance(parents, str) else parents:
        inherited = _read(path.parent / parent, source, (*above, path.resolve()))
        merged = merge(merged, inherited)
    source.lines.update(lines)
    source.files[path.resolve()] = merge(merged, content)
    return source.files[path.resolve()]


def _walk(node: yaml.Node, place: Place, lines: dict[Place, str], path: Path) -> None:
    """Collect the line of every key; refuse a key that occurs twice."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*place, str(key.value))
            line = f"{path}:{key.start_mark.line + 1}"
            if here in lines:
                raise ConfigError(f"{line}: {_dotted(here)} occurs twice (first at {lines[here]})")
            lines[here] = line
            _walk(value, here, lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for k, value in enumerate(node.value):
            lines[*place, k] = f"{path}:{value.start_mark.line + 1}"
            _walk(value, (*place, k), lines, path)


def _override(content: dict[str, Any], word: str, source: _Source) -> None:
    key, equals, value = word.partition("=")
    names = key.strip().split(".")
    if not equals or not all(names):
        raise ConfigError(f"{word!r} is not of the form key.sub=value")
    parsed, _ = parse_yaml(value, repr(word))
    inner = content
    for k, name in enumerate(names[:-1]):
        if not isinstance(inner.get(name), dict):
            if name in inner and inner[name] is not None:
                raise ConfigError(f"{word!r}: {'.'.join(names[: k + 1])} is a value, it has no {names[k + 1]!r}")
            inner[name] = {}
        inner[name] = dict(inner[name])
        inner = inner[name]
    inner[names[-1]] = parsed
    source.lines[tuple(names)] = f"option {word!r}"


def _dotted(place: Place) -> str:
    return ".".join(str(p) for p in place)


def _absolute(config: RunConfig, base: Path) -> None:
    """Make relative paths absolute: of the working folder, else of the file's folder."""

    def absolute(text: str) -> str:
        path = Path(text).expanduser()
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

    data, words = config.data, {"demo"}
    data.source, data.train = sources(data.source, words), sources(data.train, words)
    data.val, data.test = sources(data.val, words), sources(data.test, words)
    config.md.source = sources(config.md.source, {"demo", "train", "val", "test"}) or []
    config.md.reference = sources(config.md.reference, set())
    if config.teacher.checkpoint is not None:
        config.teacher.checkpoint = absolute(config.teacher.checkpoint)
