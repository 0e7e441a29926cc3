"""Which files and folders may be written to: nothing of the user's is overwritten or deleted."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.files import file_hash, write_atomic

__all__ = [
    "EDITED", "LEFT", "MARK", "claim_folder", "forget_contents", "is_edited", "is_ours", "keep_edited", "keep_existing",
    "note_contents", "refuse_other_kind", "refuse_overwriting", "write_again",
]  # fmt: skip

#: File that says for what a folder was made.
MARK = ".physpretrain"
#: File of a run folder with the names of the tasks that are not done as its configuration says.
LEFT = ".stages/left.json"
#: Folder for what the user changed in files that are written again.
EDITED = "edited"
#: By their names, files that are no structures.
FOREIGN = {".yaml", ".yml", ".toml", ".tex", ".md", ".rst", ".py", ".ipynb", ".csv", ".html", ".pdf", ".png", ".svg",
           ".jpg", ".pt", ".pth", ".ckpt", ".npz", ".npy", ".zip", ".fs"}  # fmt: skip
#: Files by which a folder of an older version, without a mark, is recognised; how a text file begins.
OLDER: dict[str, tuple[tuple[str, str], ...]] = {
    "run": ((".stages", ""), ("config.yaml", ""), ("environment.json", '{\n "mdl_physpretrain"')),
    "check": (("check.json", '{\n "version"'), ("environment.json", '{\n "mdl_physpretrain"')),
    "md": (("runs.npz", "PK"),),
    "training": (("history.csv", "epoch,train_loss,val_loss"),),
    "report": (("index.html", "<!doctype html>"), ("figures", ""), ("tables", "")),
    "alignment": (("alignment_summary.csv", ""), ("alignment.csv", "arm,")),
    "pretraining with its finetuning": (("labelled.extxyz", ""), ("pretrain", ""), ("finetune", "")),
    "released": (("released.csv", ""), ("native", "")),
}


def claim_folder(folder: str | Path, kind: str, *, inputs: Iterable[Any] = (), inside: bool = False) -> Path:
    """Make a folder and mark it as ours, or say why it cannot be written to.

    Parameters
    ----------
    folder
        Must be new, empty (but for hidden files), or ours already.
    kind
        What is written into it; a folder of another kind is refused.
    inputs
        Files and folders that are read, patterns and lists of them; words
        that are no files are left aside. None may lie in the folder.

    Raises
    ------
    ConfigError
        That says what is in the way.
    """
    folder = Path(folder)
    for path in _files(inputs):
        if folder.resolve() in path.resolve().parents:
            raise ConfigError(f"{path} is read and lies in the output folder {folder}: choose another output folder")
    try:
        if inside and any((parent / MARK).is_file() for parent in folder.resolve().parents):
            folder.mkdir(parents=True, exist_ok=True)
            return folder
        if not is_ours(folder, kind):
            there = sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) if folder.exists() else []
            if there:
                shown = ", ".join(there[:3]) + (", ..." if len(there) > 3 else "")
                raise ConfigError(
                    f"the output folder {folder} holds files that this command did not write ({shown}): "
                    "choose a new or an empty folder"
                )
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / MARK).is_file():
            write_atomic(folder / MARK, json.dumps({"kind": kind}))
    except OSError as error:
        raise ConfigError(f"cannot write to the output folder {folder}: {error.strerror or error}") from error
    return folder


def is_ours(folder: Path, kind: str) -> bool:
    """Whether a folder was made for this.

    Raises
    ------
    ConfigError
        If it was made for something else.
    """
    try:
        marked = json.loads((folder / MARK).read_text(encoding="utf-8"))["kind"]
    except (FileNotFoundError, NotADirectoryError):
        return all(_begins(folder / name, start) for name, start in OLDER.get(kind, (("", "never"),)))
    except (ValueError, KeyError, TypeError):
        raise ConfigError(f"{folder / MARK} is damaged: choose another output folder") from None
    if marked != kind:
        also = " (or of md with several potentials or seeds)" if "check" in (marked, kind) else ""
        raise ConfigError(f"{folder} is the folder of a {marked}, not of a {kind}{also}: choose another output folder")
    return True


def note_contents(folder: Path, names: Iterable[str]) -> None:
    """Note the contents of files in a marked folder as ours, so that an edit shows (:func:`is_edited`)."""
    _note(folder, {name: file_hash(folder / name) for name in names if (folder / name).is_file()})


def forget_contents(folder: Path, names: Iterable[str]) -> None:
    """Files that are about to be made anew one by one: what an interruption leaves of them is nobody's edit."""
    mark, gone = _mark(folder), set(names)
    before = mark.get("written", {})
    if not gone.isdisjoint(before):
        mark["written"] = {name: texts for name, texts in before.items() if name not in gone}
        write_atomic(folder / MARK, json.dumps(mark, indent=1))


def _note(folder: Path, hashes: dict[str, str]) -> None:
    """Note contents, and keep those noted before: an interruption may leave either."""
    mark = _mark(folder)
    before = mark.get("written", {})
    new = {name: [*before.get(name, [])[-1:], text] for name, text in hashes.items()}
    if "kind" in mark and any(before.get(name, [None])[-1] != text for name, text in hashes.items()):
        mark["written"] = {name: texts for name, texts in (before | new).items() if (folder / name).is_file()} | new
        write_atomic(folder / MARK, json.dumps(mark, indent=1))


def is_edited(folder: Path, name: str, *, unknown: bool = False) -> bool:
    """Whether a file is not as we left it; ``unknown``: the answer where nobody noted how that was."""
    if not (folder / name).is_file():
        return False
    noted = _mark(folder).get("written", {}).get(name)
    return unknown if noted is None else file_hash(folder / name) not in noted


def keep_edited(folder: Path, names: Iterable[str]) -> None:
    """Move files that are about to be written again, and that the user changed, to ``edited/``, and say so."""
    moved = []
    for name in names:
        target = folder / EDITED / name
        number = 1
        while target.exists():
            number += 1
            target = (folder / EDITED / name).with_stem(f"{Path(name).stem}-{number}")
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(folder / name, target)
        moved.append(str(target.relative_to(folder)))
    if moved:
        warnings.warn(
            f"{folder}: files that were changed since they were written are made anew; the changed ones are kept as "
            f"{', '.join(moved[:5])}" + (f" and {len(moved) - 5} others" if len(moved) > 5 else ""),
            stacklevel=2,
        )


def write_again(folder: Path, name: str, text: str, *, unknown: bool = False) -> None:
    """Write a text file of a marked folder; where the user changed it, that is kept in ``edited/``."""
    path = folder / name
    if is_edited(folder, name, unknown=unknown) and path.read_bytes() != text.encode():
        keep_edited(folder, [name])
    _note(folder, {name: hashlib.sha256(text.encode()).hexdigest()})
    write_atomic(path, text)


def _mark(folder: Path) -> dict[str, Any]:
    try:
        mark = json.loads((folder / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return mark if isinstance(mark, dict) else {}


def refuse_overwriting(output: str | Path | None, *inputs: Any, table: bool = False) -> None:
    """Raise where a file that is written is one of those that are read, or a file of a folder that is read.

    Parameters
    ----------
    output
        File; ``None``: nothing is written.
    *inputs
        As in :func:`claim_folder`.
    table
        A table (CSV) is written, which takes the place of nothing else.

    Raises
    ------
    ConfigError
        Naming both.
    """
    if output is None:
        return
    output = Path(output)
    if output.is_dir():
        raise ConfigError(f"{output} is a folder: name the file to write")
    if table and output.suffix.lower() not in (".csv", ".txt", ".dat", "") and output.exists():
        raise ConfigError(f"{output} exists and is no table: choose another output file, as table.csv")
    for path in _files(inputs):
        inside = path.is_dir() and path.resolve() in output.resolve().parents and output.exists()
        if inside or output.resolve() == path.resolve() or (output.exists() and output.samefile(path)):
            raise ConfigError(f"{output} would overwrite what is read ({path}): choose another output file")


def refuse_other_kind(output: str | Path, what: str, suffixes: Iterable[str] = ()) -> None:
    """Raise where a file exists whose name says that it is something else than ``what`` is written.

    Parameters
    ----------
    output
        File to write.
    what
        In words.
    suffixes
        That it may have; none: any but those of configurations, texts, tables, pictures and checkpoints.
    """
    path, allowed = Path(output), tuple(suffixes)
    suffix = path.suffix.lower()
    if path.is_file() and (suffix not in allowed if allowed else suffix in FOREIGN):
        known = f" ({', '.join(allowed)})" if allowed else ""
        raise ConfigError(f"{path} exists and is no {what}{known} by its name: choose another output file")


@contextlib.contextmanager
def keep_existing(*outputs: str | Path) -> Iterator[None]:
    """Keep files that the block replaces by other contents under another name, and say so."""
    copies = {path: _copy(path) for path in map(Path, outputs) if path.is_file()}
    try:
        yield
    finally:
        for path, copy in copies.items():
            if path.is_file() and file_hash(path) == file_hash(copy):
                copy.unlink()
            else:
                warnings.warn(f"{path} was there: it is kept as {copy}", stacklevel=3)


def _copy(path: Path) -> Path:
    copy, number = path.with_name(f"{path.name}.replaced"), 1  # of no kind: no pattern of data files takes it
    while copy.exists():
        number += 1
        copy = path.with_name(f"{path.name}.replaced-{number}")
    shutil.copy2(path, copy)
    return copy


def _files(inputs: Any) -> Iterator[Path]:
    """Files and folders that texts and lists of them stand for."""
    if inputs is None:
        return
    if not isinstance(inputs, str | Path):
        for one in inputs if isinstance(inputs, Iterable) else ():
            yield from _files(one)
        return
    try:
        text = str(Path(inputs).expanduser())
    except RuntimeError:  # the home of nobody; who reads it says so
        return
    checkpoint, _, config = text.rpartition(":")
    for part in (text, checkpoint, config):
        try:
            if part and Path(part).exists():
                yield Path(part)
            elif any(c in part for c in "*?["):
                yield from map(Path, glob.glob(part, recursive=True))  # noqa: PTH207 - absolute patterns, too
        except (OSError, ValueError):  # no name that a file can have
            continue


def _begins(path: Path, start: str) -> bool:
    if path.is_dir():
        return not start
    try:
        with path.open("rb") as file:
            return file.read(len(start.encode())).lower() == start.lower().encode()
    except OSError:
        return False
