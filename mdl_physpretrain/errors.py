"""Errors that tell a user what is wrong, where, and what to do about it."""

from __future__ import annotations

from pathlib import Path


class PhysPretrainError(Exception):
    """Base class of every error this package raises on purpose."""


class StructureError(PhysPretrainError, ValueError):
    """A structure or a file of structures cannot be used.

    Parameters
    ----------
    message
        What is wrong.
    file, structure, field
        Where it is wrong; each is printed when given.
    """

    def __init__(
        self,
        message: str,
        *,
        file: str | Path | None = None,
        structure: str | int | None = None,
        field: str | None = None,
    ) -> None:
        self.message, self.file, self.structure, self.field = message, file, structure, field
        places = {"file": file, "structure": structure, "field": field}
        where = ", ".join(f"{name} {place!s}" for name, place in places.items() if place is not None)
        super().__init__(f"{where}: {message}" if where else message)

    def at(self, *, file: str | Path | None = None, structure: str | int | None = None) -> StructureError:
        """The same error with the file and the structure it happened in; places it names already are kept."""
        return StructureError(
            self.message,
            file=file if self.file is None else self.file,
            structure=structure if self.structure is None else self.structure,
            field=self.field,
        )


class ConfigError(PhysPretrainError, ValueError):
    """A configuration or an option has a wrong key or a value out of range."""


class CheckpointError(PhysPretrainError, ValueError):
    """A checkpoint is damaged, of another format, or of another model."""


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM) while it trained."""


class TeacherRefused(PhysPretrainError, RuntimeError):
    """A teacher failed its examination and may not label (unless forced)."""
