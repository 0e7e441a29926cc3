"""YAML from files and command lines: plain values of a sane size, or one line that says where it is wrong."""

from __future__ import annotations

import re
from typing import Any

import yaml

from mdl_physpretrain.errors import ConfigError

__all__ = ["parse_yaml"]

MAX_DEPTH = 100
MAX_ENTRIES = 100_000  # with aliases written out


class _Loader(yaml.SafeLoader):
    """Safe YAML in which ``1e-3`` is a number, as everybody expects (YAML 1.1 wants ``1.0e-3``)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def parse_yaml(text: str, where: str) -> tuple[Any, yaml.Node | None]:
    """Value of a YAML text, and its nodes with their lines.

    Parameters
    ----------
    text
        To read.
    where
        File or option, for the message.

    Raises
    ------
    ConfigError
        If it is no YAML, refers to itself, is nested too deep, or grows too
        large when its aliases are written out.
    """
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is None:
            return None, None
        _refuse_endless(node, where)
        return yaml.load(text, Loader=_Loader), node
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{where}:{mark.line + 1}" if mark is not None else where
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ConfigError(f"{place}: not valid YAML: {reason[:200]}") from error
    except RecursionError:
        raise ConfigError(f"{where}: nested too deep") from None
    except (ValueError, TypeError, OverflowError) as error:  # an impossible date, a number of thousands of digits
        raise ConfigError(f"{where}: not valid YAML: {' '.join(str(error).split())[:200]}") from error


def _refuse_endless(root: yaml.Node, where: str) -> None:
    """Sizes of all nodes with their aliases written out, without writing them out."""
    sizes: dict[int, tuple[int, int]] = {}  # entries, levels
    above: set[int] = set()

    def size(node: yaml.Node) -> tuple[int, int]:
        key = id(node)
        line = f"{where}:{node.start_mark.line + 1}"
        if key in above:
            raise ConfigError(f"{line}: refers to itself")
        if key not in sizes:
            above.add(key)
            pairs = node.value if isinstance(node, yaml.CollectionNode) else ()
            children = [child for pair in pairs for child in (pair if isinstance(pair, tuple) else (pair,))]
            below = [size(child) for child in children]
            sizes[key] = 1 + sum(n for n, _ in below), 1 + max((levels for _, levels in below), default=0)
            above.discard(key)
        if sizes[key][1] > MAX_DEPTH:
            raise ConfigError(f"{line}: nested deeper than {MAX_DEPTH} levels")
        if sizes[key][0] > MAX_ENTRIES:
            raise ConfigError(f"{line}: more than {MAX_ENTRIES} entries when its aliases are written out")
        return sizes[key]

    size(root)
