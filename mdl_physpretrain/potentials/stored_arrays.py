"""Inert stand-ins for numpy's types in a pickle: only arrays and numbers of plain kinds come out of them."""

from __future__ import annotations

import math
import pickle
import re
from typing import Any

import numpy as np

__all__ = ["StoredArray", "StoredKind", "restored", "scalar"]

#: Fixed sizes of numbers; bytes and text of so many characters at most.
KINDS = re.compile(r"b1|[iu][1248]|f[248]|c8|c16|[SU]\d{1,6}")
#: What numpy writes of a number's type beside version and byte order: no fields, no subarray, no flags.
NUMBER = (None, None, None, -1, -1, 0)


class StoredKind:
    """In place of ``numpy.dtype``: a plain kind of fixed size, and its byte order.

    Nothing is kept of the state in a file but the byte order: fields, flags and subarrays, with which a forged type
    makes numpy take bytes for objects, are refused.
    """

    def __init__(self, name: Any, *_: Any) -> None:
        if not isinstance(name, str) or not KINDS.fullmatch(name):
            raise pickle.UnpicklingError(f"an array of the type {name!r:.40}")
        self.name, self.order = name, "|"

    def __setstate__(self, state: Any) -> None:
        size, letter = int(self.name[1:]), self.name[0]
        expected = {"S": (None, None, None, size, 1, 0), "U": (None, None, None, 4 * size, 4, 8)}.get(letter, NUMBER)
        plain = isinstance(state, tuple) and len(state) == 8 and isinstance(state[1], str) and state[1] in "<>|="
        if not plain or len(state[1]) != 1 or state[2:] != expected:
            raise pickle.UnpicklingError("an array of a type that is not plain")
        self.order = state[1]

    @property
    def dtype(self) -> np.dtype:
        """The plain type."""
        return np.dtype(self.name if self.order == "|" else self.order + self.name)


class StoredArray:
    """In place of ``numpy.ndarray``: shape, plain kind and bytes of an array."""

    value: np.ndarray | None = None

    def __new__(cls, *_: Any) -> StoredArray:
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None:
        try:
            _, shape, kind, fortran, data = state
        except (TypeError, ValueError):
            raise pickle.UnpicklingError("an array without its content") from None
        shape_is_plain = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
        if not (type(kind) is StoredKind and type(data) is bytes and shape_is_plain and len(shape) < 32):
            raise pickle.UnpicklingError("an array that does not hold plain numbers")
        if math.prod(shape) * kind.dtype.itemsize != len(data):
            raise pickle.UnpicklingError(f"an array of the shape {shape} with {len(data)} bytes")
        flat = np.zeros(math.prod(shape), kind.dtype) if not data else np.frombuffer(data, kind.dtype).copy()
        if kind.name[0] == "U":
            flat.tolist()  # raises on what is no character
        self.value = flat.reshape(shape, order="F" if fortran else "C")


def scalar(kind: Any, data: Any) -> Any:
    """In place of numpy's ``scalar``: a Python number, text or bytes."""
    if type(kind) is not StoredKind or type(data) is not bytes or len(data) != kind.dtype.itemsize:
        raise pickle.UnpicklingError("a number that is not plain")
    return np.frombuffer(data, kind.dtype)[0].item() if data else kind.dtype.type()


def restored(value: Any) -> Any:
    """Content of a file with arrays in place of their stand-ins, in the containers it has.

    Raises
    ------
    UnpicklingError
        If an array was never filled.
    """
    return _restored(value, {})


def _restored(value: Any, done: dict[int, Any]) -> Any:
    if isinstance(value, StoredArray):
        if value.value is None:
            raise pickle.UnpicklingError("an array without its content")
        return value.value
    if isinstance(value, StoredKind):
        return value.dtype.str
    if id(value) in done or not isinstance(value, (dict, list, tuple, set)):
        return done.get(id(value), value)
    done[id(value)] = value
    if isinstance(value, dict):
        for key in value:
            value[key] = _restored(value[key], done)
    elif isinstance(value, list):
        value[:] = [_restored(one, done) for one in value]
    elif type(value) is tuple:
        done[id(value)] = tuple(_restored(one, done) for one in value)
    return done[id(value)]
