"""Say more exactly where an error is, without saying it twice."""

from __future__ import annotations

from pathlib import Path

from mdl_physpretrain.errors import StructureError

__all__ = ["located", "plain_message"]


def plain_message(error: StructureError) -> str:
    """What the error says, without the places it prints in front."""
    places = {"file": error.file, "structure": error.structure, "field": error.field}
    prefix = ", ".join(f"{name} {place!s}" for name, place in places.items() if place is not None)
    return str(error).removeprefix(f"{prefix}: ")


def located(
    error: StructureError, *, file: str | Path | None = None, structure: str | int | None = None
) -> StructureError:
    """The same error with the file and the structure it happened in (known places are kept)."""
    return StructureError(
        plain_message(error),
        file=file if error.file is None else error.file,
        structure=structure if error.structure is None else error.structure,
        field=error.field,
    )
