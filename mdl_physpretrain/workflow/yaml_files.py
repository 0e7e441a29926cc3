"""YAML files with ``inherits`` and ``key.sub=value`` words as nested dictionaries.

Every key remembers its file and line for error messages.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.option_types import Place
from mdl_physpretrain.ownership import MARK
from mdl_physpretrain.presets import merge
from mdl_physpretrain.yaml_text import parse_yaml

__all__ = ["KeyLines", "is_config_of_run", "read_yaml", "set_value"]


NULL = "tag:yaml.org,2002:null"
#: Keys of the ``config.yaml`` in a run folder that a file which inherits it does not get: two runs need two folders.
OF_ONE_RUN = ("name", "output")
MAX_INHERITED = 50


class KeyLines:
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


def read_yaml(path: Path, source: KeyLines | None = None, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Content of a YAML file, over the files that it inherits.

    Parameters
    ----------
    path
        YAML; ``inherits: other.yaml`` (or a list) names files relative to it.
        The ``config.yaml`` of a run folder passes on all but ``name`` and ``output``.
    source
        Gets the line of every key.
    above
        Files that inherit this one.

    Raises
    ------
    ConfigError
        If a file cannot be read, is not valid YAML, has a key twice, or inherits itself.
    """
    source = source or KeyLines()
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
        return dict(source.files[path.resolve()])
    content, node = parse_yaml(text, str(path))
    content = {} if node is None else content
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(content).__name__}")
    if content.get(None, 0) is None:  # lone "?" lines, as in files of MatDeepLearn: a key without name and value
        del content[None]
    lines: dict[Place, str] = {}
    if node is not None:
        _walk(node, (), lines, path)
    parents = content.pop("inherits", [])
    if not (isinstance(parents, str) or (isinstance(parents, list) and all(isinstance(p, str) for p in parents))):
        raise ConfigError(f"{lines.get(('inherits',), path)}: inherits: expected a file name or a list of them")
    merged: dict[str, Any] = {}
    for parent in [parents] if isinstance(parents, str) else parents:
        inherited = read_yaml(path.parent / parent, source, (*above, path.resolve()))
        if is_config_of_run(path.parent / parent):
            inherited = {key: value for key, value in inherited.items() if key not in OF_ONE_RUN}
        merged = merge(merged, inherited)
    source.lines.update(lines)
    source.files[path.resolve()] = merge(merged, content)
    return dict(source.files[path.resolve()])


def _walk(node: yaml.Node, place: Place, lines: dict[Place, str], path: Path) -> None:
    """Collect the line of every key; refuse a key that occurs twice."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.tag == value.tag == NULL:
                continue
            key_place = (*place, str(key.value))
            line = f"{path}:{key.start_mark.line + 1}"
            if key_place in lines:
                raise ConfigError(f"{line}: {_dotted(key_place)} occurs twice (first at {lines[key_place]})")
            lines[key_place] = line
            _walk(value, key_place, lines, path)
    elif isinstance(node, yaml.SequenceNode):
        for k, value in enumerate(node.value):
            lines[*place, k] = f"{path}:{value.start_mark.line + 1}"
            _walk(value, (*place, k), lines, path)


def is_config_of_run(path: Path) -> bool:
    """Whether a file is the ``config.yaml`` that a run wrote into its folder."""
    path = path.resolve()
    return path.name == "config.yaml" and (path.parent / MARK).is_file()


def set_value(content: dict[str, Any], word: str, source: KeyLines) -> None:
    """Set one value of nested dictionaries from a word ``key.sub=value``; the value is YAML.

    Raises
    ------
    ConfigError
        If the word has another form, or a key on its way is a value.
    """
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
    place = tuple(names)
    source.lines = {key: line for key, line in source.lines.items() if key[: len(place)] != place}
    source.lines[place] = f"option {word!r}"


def _dotted(place: Place) -> str:
    return ".".join(str(p) for p in place)
