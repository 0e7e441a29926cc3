"""The reference potential of a run: made from its text, what its results depend on, a look at its elements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase import Atoms

from mdl_physpretrain.dynamics import simulate
from mdl_physpretrain.errors import CheckpointError, ConfigError, StructureError
from mdl_physpretrain.potentials.checkpoint import load_model
from mdl_physpretrain.potentials.devices import resolve_device
from mdl_physpretrain.potentials.factories import FACTORY, calculator_factory
from mdl_physpretrain.potentials.identity import package_versions
from mdl_physpretrain.potentials.registry import model_class

if TYPE_CHECKING:
    from mdl_physpretrain.workflow.md_options import MD

__all__ = ["described", "load_reference", "reference_modules", "see_every_element", "versions_of"]


def load_reference(md: MD, device: str = "auto") -> Any:
    """The potential that ``md.reference_potential`` names: a function that makes a calculator, or a network.

    Raises
    ------
    ConfigError, CheckpointError
        If it cannot be imported or read; the message names the option.
    """
    text = md.reference_potential
    assert text is not None
    try:
        if FACTORY.fullmatch(text):
            return calculator_factory(text, md.reference_potential_args)
        return load_model(text).to(resolve_device(device))
    except (ConfigError, CheckpointError) as error:
        raise type(error)(f"md.reference_potential: {error}") from error


def reference_modules(md: MD) -> tuple[str, ...]:
    """Modules whose code the potential runs, beside what they import."""
    text = md.reference_potential
    assert text is not None
    if FACTORY.fullmatch(text):
        return (text.partition(":")[0],)
    if not Path(text).is_file():  # the look before the work says so
        return ()
    model = load_model(text)
    names = {m.registry_name for m in model.modules() if getattr(m, "registry_name", None)}
    return tuple(sorted(model_class(name).__module__ for name in names))


def versions_of(potential_text: str) -> dict[str, str]:
    """Versions of the packages that ``module:factory`` belongs to or uses; of a checkpoint none."""
    match = FACTORY.fullmatch(potential_text)
    return package_versions(match["module"]) if match else {}


def described(potential_text: str, arguments: Mapping[str, Any] | None = None) -> str:
    """The potential in words: its text, arguments and packages."""
    given = ", ".join(f"{key}={value!r}" for key, value in (arguments or {}).items())
    packages = ", ".join(f"{name} {version}" for name, version in versions_of(potential_text).items())
    return potential_text + (f"({given})" if given else "") + (f" ({packages})" if packages else "")


def see_every_element(potentials: Mapping[str, Any], structures: Sequence[Atoms], ensemble: str = "nve") -> None:
    """Let every potential see every element once, and give what the ensemble needs, before any long work.

    Raises
    ------
    ConfigError
        If a potential fails; the message names it and the structure.
    """
    first: dict[str, Atoms] = {}
    for atoms in sorted(structures, key=len):
        for symbol in set(atoms.symbols):
            first.setdefault(symbol, atoms)
    chosen = list({id(a): a for a in first.values()}.values())
    for name, potential in potentials.items():
        try:
            simulate(potential, chosen, ensemble=ensemble, steps=0)
        except (ConfigError, StructureError) as error:
            raise ConfigError(f"{name}: {error}") from error
