"""Types that options are made of, and the words for an option that is wrong."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from mdl_physpretrain.errors import ConfigError

__all__ = [
    "CoreName",
    "Count",
    "Duration",
    "LindemannVariant",
    "NotNegative",
    "Positive",
    "Section",
    "Share",
    "Sources",
    "Weights",
    "none_as_text",
    "option_fields",
    "problems",
    "seconds_of",
    "shows_options",
    "validated",
]

Place = tuple[str | int, ...]


def _share(value: Any) -> Any:
    """Accept ``10%`` besides ``0.1``."""
    if isinstance(value, str) and value.strip().endswith("%"):
        try:
            return float(value.strip()[:-1]) / 100
        except ValueError:
            return value
    return value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def none_as_text(value: Any) -> Any:
    """YAML reads ``none`` as a text but ``null`` and ``~`` as nothing; both mean no core."""
    return "none" if value is None or value is False else value


CoreName = Annotated[Literal["none", "zbl"], BeforeValidator(none_as_text)]
LindemannVariant = Literal["literature", "liquid", "printed", "paper"]
_TIMES = "a time is written as 90s, 10min, 2h or 1h30m"
_SECONDS = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86400}


def seconds_of(text: str) -> float:
    """Seconds of ``90s``, ``10min``, ``1h30m`` or ``2 h``; raises ValueError for anything else."""
    parts = re.findall(r"(\d+(?:\.\d+)?)\s*(min|[smhd])(?![a-z])\s*", text.strip())
    if not parts or "".join(re.split(r"\s+", text.strip())) != "".join(number + unit for number, unit in parts):
        raise ValueError(_TIMES)
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if seconds <= 0:
        raise ValueError("a time must be longer than nothing")
    return seconds


def _duration(value: Any) -> Any:
    if isinstance(value, (int, float)):  # of which unit?
        raise ValueError(_TIMES)  # noqa: TRY004 - pydantic's error of a value
    if isinstance(value, str):
        seconds_of(value)
    return value


Duration = Annotated[str, BeforeValidator(_duration)]
Share = Annotated[float, BeforeValidator(_share)]
Sources = Annotated[list[str], BeforeValidator(_as_list)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Weights = Annotated[tuple[NotNegative, NotNegative, NotNegative], Field()]


class Section(BaseModel):
    """Options that belong together; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", validate_default=True, protected_namespaces=())


SectionType = TypeVar("SectionType", bound=BaseModel)
Function = TypeVar("Function", bound=Callable[..., Any])


def validated(section: type[SectionType], values: Mapping[str, Any], prefix: str = "") -> SectionType:
    """A section with these values and its defaults; raises ConfigError naming every wrong option after ``prefix``."""
    try:
        return section.model_validate(values)
    except ValidationError as error:
        raise ConfigError(problems(error, section, prefix=prefix)) from None


def shows_options(
    section: type[BaseModel], usual: Mapping[str, Any] = MappingProxyType({})
) -> Callable[[Function], Function]:
    """Decorator: the ``**options`` of a function are the section's fields, and its signature lists them.

    Their defaults are those of the fields, or the ``usual`` ones.
    """

    def decorate(function: Function) -> Function:
        signature = inspect.signature(function)
        named = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        fields = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=usual.get(name, field.get_default()),
                annotation=field.annotation,
            )
            for name, field in section.model_fields.items()
            if name not in signature.parameters
        ]
        function.__signature__ = signature.replace(parameters=[*named, *fields])  # type: ignore[attr-defined]
        return function

    return decorate


_BRANCH = re.compile(r"(constrained-|literal\[|function-|(int|float|str|bool|none|list|tuple|dict)(\[|$))")


def problems(
    error: ValidationError,
    section: type[BaseModel],
    *,
    prefix: str = "",
    line_of: Callable[[Place], str | None] = lambda place: None,
) -> str:
    """One line for every wrong option: where it stands (``line_of``), what is wrong, the nearest valid one."""
    details = _joined(error.errors())
    return "\n".join(dict.fromkeys(_sentence(detail, section, prefix, line_of) for detail in details))


def _joined(details: Iterable[Any]) -> list[dict[str, Any]]:
    """Errors, those of the branches of a union (a positive number, or 'auto') as one of its field."""
    joined: dict[Place, dict[str, Any]] = {}
    for detail in details:
        loc = tuple(detail["loc"])
        place = loc[:-1] if len(loc) > 1 and _BRANCH.match(str(loc[-1])) else loc
        if place == loc or place not in joined:
            joined[place] = {**detail, "loc": place}
        else:
            joined[place]["msg"] += f" or {detail['msg'].removeprefix('Input should be ')}"
            joined[place]["ctx"] = joined[place].get("ctx", {}) | detail.get("ctx", {})
    return list(joined.values())


def option_fields(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Dotted name and description of every option of a section and of the sections in it."""
    for name, field in section.model_fields.items():
        inner = _section_in(field.annotation)
        if inner is None or get_origin(field.annotation) is list:
            yield prefix + name, field
        else:
            mapping = get_origin(field.annotation) is dict
            yield from option_fields(inner, f"{prefix}{name}.{'<name>.' if mapping else ''}")


def _sentence(error: Any, section: type[BaseModel], prefix: str, line_of: Callable[[Place], str | None]) -> str:
    place: Place = tuple(p for p in error["loc"] if p != "[key]")
    name, line = prefix + ".".join(map(str, place)), line_of(place)
    start = f"{line}: " if line else ""
    kind, value = error["type"], error.get("input")
    if kind == "extra_forbidden":
        return f"{start}unknown key {name!r}{_hint(place, section, prefix)}"
    if kind == "missing":
        return f"{start}{name} is required"
    message = error["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    shown = "" if isinstance(value, (dict, BaseModel)) and kind == "value_error" else f", not {value!r}"
    near = difflib.get_close_matches(value, _choices(error), n=1, cutoff=0.5) if isinstance(value, str) else []
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{start}{name or 'configuration'}: {message}{shown}{hint}"


def _choices(error: Any) -> list[str]:
    expected = str(error.get("ctx", {}).get("expected", ""))
    return [word.strip(" '") for part in expected.split(",") for word in part.split(" or ")]


def _hint(place: Place, section: type[BaseModel], prefix: str) -> str:
    """The nearest valid key, here or in another section."""
    key, above = str(place[-1]), place[:-1]
    keys = _keys_under(above, section)
    lowered = {name.lower(): name for name in keys}
    near = difflib.get_close_matches(key.lower().replace("-", "_"), lowered, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {prefix + '.'.join(map(str, (*above, lowered[near[0]])))!r}?"
    elsewhere = [p for p, _ in option_fields(section) if p.rsplit(".", 1)[-1] == key]
    elsewhere += [s for s in section.model_fields if s == key and s not in elsewhere]
    if elsewhere:
        return f"; it belongs elsewhere: {', '.join(repr(prefix + p) for p in elsewhere)}"
    return f"; valid keys here: {', '.join(keys)}" if keys else ""


def _keys_under(place: Place, section: type[BaseModel]) -> list[str]:
    names = list(place)
    while names:
        field = section.model_fields.get(str(names.pop(0)))
        inner = None if field is None else _section_in(field.annotation)
        if field is None or inner is None:
            return []
        if get_origin(field.annotation) in (dict, list) and names:
            names.pop(0)  # the arm's own name, the place in the list
        section = inner
    return list(section.model_fields)


def _section_in(annotation: Any) -> type[BaseModel] | None:
    candidates = [annotation, *get_args(annotation)]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
