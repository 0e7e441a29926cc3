"""Registry of native teachers: the files of ``teacher/kinds/``, and entry points of other packages."""

from __future__ import annotations

import difflib
from functools import cache

from mdl_physpretrain import recipe
from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.option_types import Section, validated
from mdl_physpretrain.plugin_classes import plugin_classes
from mdl_physpretrain.potentials.base import EnergyModel
from mdl_physpretrain.potentials.registry import model_class
from mdl_physpretrain.teacher.base import NativeTeacher

__all__ = ["kind_modules", "kind_of", "kind_options", "kind_potentials", "teacher_kind", "teacher_kinds"]

GROUP = "mdl_physpretrain.teachers"


@cache
def teacher_kinds() -> dict[str, NativeTeacher]:
    """Every kind by name; raises ConfigError if two share a name or a potential, or a package cannot be imported."""
    classes = plugin_classes("mdl_physpretrain.teacher.kinds", GROUP, NativeTeacher, "teacher")  # type: ignore[type-abstract]
    kinds = [cls() for cls in classes]
    for words in ([kind.name for kind in kinds], [kind.potentials[0] for kind in kinds if kind.potentials]):
        twice = next((word for word in words if words.count(word) > 1), None)
        if twice is not None:
            raise ConfigError(f"two kinds of teachers are, or are made of, {twice!r}")
    return {kind.name: kind for kind in sorted(kinds, key=lambda kind: kind.name)}


def teacher_kind(name: str, option: str = "teacher.kind") -> NativeTeacher:
    """A kind by its name; raises ConfigError with the nearest one, naming the ``option``."""
    kinds = teacher_kinds()
    if name not in kinds:
        near = difflib.get_close_matches(name, kinds, 1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{option}: unknown kind of teacher {name!r}{hint}; known: {', '.join(kinds)}")
    return kinds[name]


def kind_of(model: EnergyModel) -> NativeTeacher | None:
    """The kind that a potential is of: the one that fitted it, else the one whose own potential it is."""
    kinds = teacher_kinds()
    name = model.metadata.get("teacher")
    if name in kinds and model.registry_name in kinds[name].potentials:
        return kinds[name]
    return next((kind for kind in kinds.values() if model.registry_name in kind.potentials[:1]), None)


def kind_modules(name: str) -> tuple[str, ...]:
    """Modules of a kind and of its potentials, which are looked up by name: what a cache has to count."""
    kinds = {teacher_kind(name), *(() if teacher_kind(name).potentials else teacher_kinds().values())}
    modules = sorted(type(kind).__module__ for kind in kinds)
    return (*modules, *(model_class(part).__module__ for part in kind_potentials(name)))


def kind_potentials(name: str) -> tuple[str, ...]:
    """Registered names of the potentials that a kind's teachers are made of; of all kinds for one that chooses."""
    kind = teacher_kind(name)
    return kind.potentials or tuple(sorted({part for each in teacher_kinds().values() for part in each.potentials}))


def kind_options(options: recipe.Teacher, section: str = "teacher") -> Section:
    """The options of the fit of a configuration's kind; raises ConfigError for unknown ones.

    Those of the EAM stand in the section itself, those of any other kind in ``args``.
    """
    if options.core != "none" and options.calculator is None:
        raise ConfigError(
            f"{section}.core is added to a calculator ({section}.calculator); a fit has options of its own"
        )
    kind = teacher_kind(options.kind, f"{section}.kind")
    if kind.Options.model_fields and issubclass(recipe.Teacher, kind.Options):
        if options.args:
            words = ", ".join(f"{section}.{name}" for name in kind.Options.model_fields)
            raise ConfigError(f"{section}.args is for other kinds than {kind.name!r}, whose options are {words}")
        return kind.Options(**options.model_dump(include=set(kind.Options.model_fields)))
    if not kind.potentials:  # the options above are then those of the EAM among its candidates
        fit = {"eam": options.model_dump(include=set(recipe.EAMFit.model_fields))}
        return validated(kind.Options, {**fit, **options.args}, prefix=f"{section}.args.")
    for name, field in recipe.EAMFit.model_fields.items():
        if getattr(options, name) != field.get_default():
            words = ", ".join(kind.Options.model_fields) or "it has none"
            raise ConfigError(
                f"{section}.{name} is an option of the EAM; those of {kind.name!r} stand in {section}.args: {words}"
            )
    return validated(kind.Options, options.args, prefix=f"{section}.args.")
