"""Read checkpoints of other programs without executing anything in them.

``torch.load(weights_only=True)`` does the reading, always. What it refuses by
default but other programs do store (numpy numbers, paths, ...) is replaced by
functions of ours that can only build plain values; anything else is named and
refused.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from mdl_physpretrain.errors import CheckpointError
from mdl_physpretrain.potentials.stored_arrays import StoredArray, StoredKind, restored, scalar

__all__ = ["globals_of", "load_foreign", "refuse_damaged"]

LEGACY_PICKLES = 5  # magic number, protocol, machine, the object, storage keys: the format before torch 1.6
#: What torch's own reader calls for plain tensors. It accepts more, of which some take memory for a number in the file
#: or do not look at bounds (nested tensors, bare storages): no model needs those.
PLAIN = {
    "builtins.complex",
    "builtins.set",
    "collections.OrderedDict",
    "torch.Size",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor",
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_tensor_v3",
    "torch.device",
}
PLAIN_STORAGE = re.compile(
    r"torch\.(cuda\.)?(BFloat16|Bool|Byte|Char|ComplexDouble|ComplexFloat|Double|Float|Half|Int|Long|Short)Storage"
)
STRING_CODES = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE", "SHORT_BINSTRING", "BINSTRING", "STRING"}


def load_foreign(path: str | Path) -> Any:
    """Content of a ``torch.save`` file (zip, or before torch 1.6), on the CPU, made of plain values and tensors only.

    Paths come back as text, numpy numbers as Python's, default dictionaries as dictionaries. Raises CheckpointError if
    the file is damaged or wants anything else to be imported, naming it; nothing of it has been run then.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"checkpoint {path} does not exist")
    refuse_damaged(path)
    wanted, substitutes = globals_of(path), _substitutes()
    strange = sorted(name for name in wanted if name not in substitutes and not _is_plain(name))
    if strange:
        raise CheckpointError(
            f"{path} asks to import {', '.join(strange)[:300]}: refused, a checkpoint may hold numbers and tensors "
            "only. Save its state_dict alone in the program that wrote it"
        )
    if wanted & set(substitutes) and not hasattr(torch.serialization, "safe_globals"):
        raise CheckpointError(f"{path} needs torch 2.6 or newer to be read safely, this is {torch.__version__}")
    try:
        with _allowing([(function, name) for name, function in substitutes.items() if name in wanted]):
            content = restored(torch.load(path, map_location="cpu", weights_only=True))
        _refuse_swollen(content)
    except Exception as error:  # torch raises many kinds for a damaged or foreign file
        raise CheckpointError(f"{path} is damaged or not a torch checkpoint: {_line(error)}") from error
    return content


def refuse_damaged(path: Path) -> None:
    """Refuse a zip file whose checksums are wrong, or that would grow when it is read.

    Torch checks neither: it reads other weights where a bit is wrong. What it writes is never compressed.

    Raises
    ------
    CheckpointError
        That says which part of it is damaged.
    """
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > path.stat().st_size:
                raise CheckpointError(f"{path} is compressed, and no torch checkpoint: its content is longer than it")
            if len({member.filename for member in members}) < len(members):
                raise CheckpointError(f"{path} is damaged: a part of it occurs twice")
            wrong = archive.testzip()
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        raise CheckpointError(f"{path} is damaged or not a torch checkpoint: {_line(error)}") from error
    if wrong is not None:
        raise CheckpointError(f"{path} is damaged: the checksum of {wrong} is wrong")


def globals_of(path: str | Path) -> set[str]:
    """Dotted names that a checkpoint would import, read from its opcodes; raises CheckpointError without a pickle."""
    path = Path(path)
    names: set[str] = set()
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                members = [name for name in archive.namelist() if name.endswith(".pkl")]
                for member in members:
                    with archive.open(member) as stream:
                        names.update(_names(stream))
        else:
            with path.open("rb") as stream:
                for _ in range(LEGACY_PICKLES):
                    names.update(_names(stream))
                    if not stream.peek(1):
                        break
    except (ValueError, EOFError, IndexError, KeyError, OSError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is damaged or not a torch checkpoint: {_line(error)}") from error
    return names


@contextmanager
def _allowing(names: Sequence[Any]) -> Iterator[None]:
    """Allow these and nothing else: other packages of the process may have allowed theirs (e3nn, mattersim)."""
    serialization: Any = torch.serialization
    if not hasattr(serialization, "get_safe_globals"):  # before torch 2.5; nothing is allowed by name there
        yield
        return
    before = serialization.get_safe_globals()
    serialization.clear_safe_globals()
    try:
        serialization.add_safe_globals(list(names))
        yield
    finally:
        serialization.clear_safe_globals()
        serialization.add_safe_globals(before)


def _names(stream: IO[bytes]) -> Iterator[str]:
    """Imports of one pickle; leaves the stream behind it."""
    pushed: list[str] = []
    memo: dict[int, str] = {}
    for code, argument, _ in pickletools.genops(stream):
        if code.name in STRING_CODES:
            pushed.append(str(argument))
        elif code.name == "MEMOIZE":
            memo[len(memo)] = pushed[-1] if pushed else ""
        elif code.name in {"BINPUT", "LONG_BINPUT", "PUT"}:
            memo[int(str(argument))] = pushed[-1] if pushed else ""
        elif code.name in {"BINGET", "LONG_BINGET", "GET"}:
            pushed.append(memo.get(int(str(argument)), ""))
        elif code.name in {"GLOBAL", "INST"}:
            yield _modern(*str(argument).split(" ", 1))
        elif code.name == "STACK_GLOBAL":
            yield ".".join(pushed[-2:])
        elif code.name.startswith("EXT"):
            yield f"copyreg extension {argument}"


def _modern(module: str, name: str) -> str:
    """Today's name of something that was called otherwise in Python 2, which old pickle protocols write."""
    from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING

    if (module, name) in NAME_MAPPING:
        return ".".join(NAME_MAPPING[module, name])
    return f"{IMPORT_MAPPING.get(module, module)}.{name}"


def _is_plain(name: str) -> bool:
    """Whether a name makes nothing but plain tensors, whose bounds torch checks, and containers."""
    if name in PLAIN or PLAIN_STORAGE.fullmatch(name):
        return True
    return name.startswith("torch.") and isinstance(getattr(torch, name[6:], None), torch.dtype)


def _refuse_swollen(content: Any) -> None:
    """Refuse tensors that are larger than their data: one number can stand for all elements of any shape."""
    todo, seen = [content], set()
    while todo:
        value = todo.pop()
        if isinstance(value, Tensor):
            if value.numel() * value.element_size() > value.untyped_storage().nbytes():
                raise pickle.UnpicklingError(f"a tensor of the shape {tuple(value.shape)} is larger than its data")
        elif isinstance(value, dict | list | tuple | set) and id(value) not in seen:
            seen.add(id(value))
            todo += [*value.keys(), *value.values()] if isinstance(value, dict) else list(value)


def _substitutes() -> dict[str, Callable[..., Any]]:
    """Names that may be asked for, and what is called in their place."""
    functions: dict[str, Callable[..., Any]] = {
        "_codecs.encode": _encode,
        "builtins.bytes": _no_bytes,
        "collections.defaultdict": _dictionary,
        "numpy.dtype": StoredKind,
        "numpy.ndarray": StoredArray,
    }
    for plain in (bool, dict, float, int, list, str):  # what default dictionaries make
        functions[f"builtins.{plain.__name__}"] = plain
    for package in ("numpy.core", "numpy._core"):
        functions[f"{package}.multiarray.scalar"] = scalar
        functions[f"{package}.multiarray._reconstruct"] = StoredArray
    for kind in ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath"):
        functions[f"pathlib.{kind}"] = functions[f"pathlib._local.{kind}"] = _path
    return functions


def _encode(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in {"latin1", "latin-1"}:
        raise pickle.UnpicklingError(f"bytes in the encoding {encoding!r}")
    return text.encode("latin1")


def _no_bytes() -> bytes:
    return b""


def _dictionary(*_: object) -> dict[Any, Any]:
    return {}


def _path(*parts: str) -> str:
    return "/".join(str(p).rstrip("/") or "" for p in parts)


def _line(error: Exception) -> str:
    """The line of an error that says what happened; torch puts advice before it."""
    _, _, telling = str(error).rpartition("WeightsUnpickler error:")
    return (telling.strip().splitlines() or [type(error).__name__])[0][:200]
