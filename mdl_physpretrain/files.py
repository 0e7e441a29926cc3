"""Files that are complete or not there, their hashes, and folders that can be written to."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from mdl_physpretrain.errors import ConfigError

__all__ = ["file_hash", "make_writable", "nameable", "replacing", "write_atomic"]


def nameable(text: str | Path) -> Path:
    """A user's path, ``~`` written out; raises ConfigError where no file can have that name.

    (Too long, a null character, the home of a user that does not exist.)
    """
    try:
        path = Path(text).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return path
    except (OSError, ValueError, RuntimeError) as error:
        words = getattr(error, "strerror", None) or str(error)
        shown = str(text) if len(str(text)) <= 60 else f"{str(text)[:60]}... ({len(str(text))} characters)"
        raise ConfigError(f"no file can be called {shown!r}: {words}") from None
    return path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield ``.<name>.part`` to write to, which takes the place of ``path`` if the block ends without an error."""
    part = path.with_name(f".{path.name}.part")
    path.parent.mkdir(parents=True, exist_ok=True)
    part.unlink(missing_ok=True)
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def write_atomic(path: Path, text: str) -> None:
    """Write a text file that is complete or not there."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_writable(folder: Path) -> None:
    """Make a folder and write into it for a moment; raises OSError now rather than after hours of work."""
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / f".write-test-{os.getpid()}"
    probe.write_text("test")
    probe.unlink()
