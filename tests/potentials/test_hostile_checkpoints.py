"""Checkpoints that were damaged, forged or blown up: refused in one line, before memory is taken."""

from __future__ import annotations

import io
import pickle
import random
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_potentials import small

from mdl_physpretrain.errors import CheckpointError
from mdl_physpretrain.potentials import load_model
from mdl_physpretrain.potentials.safe_load import load_foreign

NETWORKS = ["cgcnn", "eam", "classical", "schnet", "sum", "torchmd_et", "zbl"]


def with_pickle(path: Path, data: bytes) -> Path:
    """A torch file whose pickle is this."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
    return path


class Forged:
    """Calls a global with arguments, and builds it with a state."""

    def __init__(self, module: str, name: str, arguments: bytes, state: bytes | None) -> None:
        self.content = b"c" + f"{module}\n{name}\n".encode() + arguments + b"R" + (state + b"b" if state else b"")


def plain(value: Any) -> bytes:
    """Opcodes that push a plain value, without its frame."""
    return pickle.dumps(value, protocol=2)[2:-1]


def forged_dtype(name: str, state: Any) -> bytes:
    return Forged("numpy", "dtype", plain((name, False, True)), plain(state)).content


OBJECT = (3, "|", None, ("a",), {"a": ("O", 0)}, 8, 1, 63)
KINDS = {
    "a void type with a field": forged_dtype("V8", OBJECT),
    "a number with a field": forged_dtype("f8", OBJECT),
    "flags": forged_dtype("f8", (3, "<", None, None, None, -1, -1, 63)),
    "a subarray": forged_dtype("f8", (3, "<", ("O", (1,)), None, None, -1, -1, 0)),
    "names": forged_dtype("f8", (3, "<", None, ("a",), None, -1, -1, 0)),
    "objects": forged_dtype("O8", (3, "|", None, None, None, -1, -1, 63)),
    "metadata": forged_dtype("f8", (4, "<", None, None, None, -1, -1, 0, {"a": 1})),
    "another size": forged_dtype("S8", (3, "|", None, None, None, 80, 1, 0)),
    "times": forged_dtype("M8", (4, "<", None, None, None, -1, -1, 0, ({}, ("s", 1, 1, 1)))),
    "a list of fields": Forged("numpy", "dtype", plain(([("a", "O")], False, True)), None).content,
    "a state that is none": forged_dtype("f8", (1, 2)),
    "another order": forged_dtype("f8", (3, "x", None, None, None, -1, -1, 0)),
}


@pytest.mark.parametrize("use", ["scalar", "array"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_forged_type_makes_no_object(tmp_path: Path, kind: str, use: str) -> None:
    pointer = struct.pack("<Q", id(tmp_path))
    if use == "scalar":
        content = b"cnumpy.core.multiarray\nscalar\n(" + KINDS[kind] + plain(pointer) + b"tR"
    else:
        array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + plain((0,)) + plain(b"b") + b"tR"
        content = array + b"(" + plain(1) + plain((1,)) + KINDS[kind] + plain(False) + plain(pointer) + b"tb"
    path = with_pickle(tmp_path / "m.pt", b"\x80\x02" + content + b".")
    with pytest.raises(CheckpointError, match=r"m\.pt"):
        load_foreign(path)


@pytest.mark.parametrize("order", ["<", ">"])
def test_plain_arrays_come_back(tmp_path: Path, order: str) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        kind: rng.integers(0, 2, (2, 3)).astype(kind if kind[1:] == "1" else order + kind)
        for kind in ("b1", "i1", "i2", "i4", "i8", "u1", "u8", "f2", "f4", "f8", "c8", "c16")
    }
    arrays |= {"text": np.array([["Å", "bc"]]), "bytes": np.array([b"a", b"bcd"]), "empty": np.zeros((0, 3))}
    arrays["columns"] = np.asfortranarray(rng.normal(size=(3, 4)))
    numbers = {k: v.flat[0] for k, v in arrays.items() if v.size}
    torch.save({"arrays": arrays, "numbers": [numbers, numbers]}, tmp_path / "m.pt")
    content = load_foreign(tmp_path / "m.pt")
    for name, value in arrays.items():
        np.testing.assert_array_equal(content["arrays"][name], value)
        assert type(content["arrays"][name]) is np.ndarray
    for name, value in numbers.items():
        assert content["numbers"][0][name] == value
        assert type(content["numbers"][0][name]) in (bool, int, float, complex, str, bytes)


@pytest.mark.parametrize(
    ("module", "name", "arguments"),
    [
        ("torch", "FloatTensor", (10**11,)),
        ("torch", "Tensor", (10**11,)),
        ("torch.storage", "UntypedStorage", (10**12,)),
        ("builtins", "bytearray", (10**12,)),
        ("torch._utils", "_rebuild_nested_tensor", ()),
        ("torch._utils", "_rebuild_sparse_tensor", ()),
        ("torch._utils", "_rebuild_wrapper_subclass", ()),
        ("torch._tensor", "_rebuild_from_type_v2", ()),
        ("torch.nn.parameter", "Parameter", ()),
        ("numpy", "frombuffer", (b"", "O")),
        ("numpy", "void", (b"",)),
        ("numpy.dtypes", "ObjectDType", ()),
        ("numpy.lib.format", "read_array", ()),
        ("os", "system", ("true",)),
        ("mdl_physpretrain.files", "file_hash", ()),
    ],
)
def test_nothing_else_is_called(tmp_path: Path, module: str, name: str, arguments: Any) -> None:
    content = Forged(module, name, plain(arguments), None).content
    path = with_pickle(tmp_path / "m.pt", b"\x80\x02" + content + b".")
    with pytest.raises(CheckpointError, match=f"asks to import {module}.{name}"):
        load_foreign(path)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_single_wrong_bit_is_seen(tmp_path: Path, name: str) -> None:
    model = small(name)
    model.save(tmp_path / "m.pt")
    good, weights = (tmp_path / "m.pt").read_bytes(), model.state_dict()
    generator = random.Random(name)
    for _ in range(20):
        place = generator.randrange(len(good) * 8)
        bad = bytearray(good)
        bad[place // 8] ^= 1 << place % 8
        (tmp_path / "bad.pt").write_bytes(bad)
        try:
            other = load_model(tmp_path / "bad.pt")
        except CheckpointError:
            continue
        assert all(torch.equal(v, weights[k]) for k, v in other.state_dict().items())


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.5, 0.9, 0.999])
def test_a_cut_file(tmp_path: Path, share: float) -> None:
    small("cgcnn").save(tmp_path / "m.pt")
    whole = (tmp_path / "m.pt").read_bytes()
    (tmp_path / "m.pt").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"m\.pt"):
        load_model(tmp_path / "m.pt")


def test_a_zip_bomb(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("archive/data/0", bytes(300_000_000))
    began = time.process_time()
    with pytest.raises(CheckpointError, match="is compressed"):
        load_foreign(tmp_path / "m.pt")
    assert time.process_time() - began < 1.0


def test_a_part_that_occurs_twice(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}, protocol=2))
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("archive/data.pkl", pickle.dumps({"a": 1}, protocol=2))
    (tmp_path / "m.pt").write_bytes(buffer.getvalue())
    with pytest.raises(CheckpointError, match="occurs twice"):
        load_foreign(tmp_path / "m.pt")


def test_a_tensor_that_is_larger_than_its_data(tmp_path: Path) -> None:
    small("cgcnn").save(tmp_path / "m.pt")
    content = torch.load(tmp_path / "m.pt", weights_only=True)
    for place in (content["state_dict"], content["metadata"]):
        place["more"] = torch.ones(1).expand(10**12)
        torch.save(content, tmp_path / "m.pt")
        with pytest.raises(CheckpointError, match="larger than its data"):
            load_model(tmp_path / "m.pt")
        del place["more"]


@pytest.mark.parametrize("value", [10**9, -1, None, "x"])
@pytest.mark.parametrize("name", NETWORKS)
def test_arguments_that_do_not_belong_to_the_weights(tmp_path: Path, name: str, value: Any) -> None:
    """Each number in the arguments in turn."""
    model = small(name)
    model.save(tmp_path / "m.pt")
    content = torch.load(tmp_path / "m.pt", weights_only=True)
    for key, old in list(content["hparams"].items()):
        if isinstance(old, bool) or not isinstance(old, int | list | dict):
            continue
        content["hparams"][key] = value
        torch.save(content, tmp_path / "bad.pt")
        began = time.process_time()
        with pytest.raises(CheckpointError, match=r"bad\.pt") as caught:
            load_model(tmp_path / "bad.pt")
        assert "\n" not in str(caught.value)
        assert time.process_time() - began < 20, key
        content["hparams"][key] = old


ODD: dict[str, Callable[[dict[str, Any]], Any]] = {
    f"{entry} {word}": lambda content, entry=entry, value=value: content.__setitem__(entry, value)
    for entry in ("version", "model", "hparams", "state_dict", "metadata")
    for word, value in (("none", None), ("text", "x"), ("list", [1]), ("tensor", torch.ones(2)), ("2.5", 2.5))
    if not (entry == "model" and word == "text")
} | {
    f"no {entry}": lambda content, entry=entry: content.pop(entry)
    for entry in ("format", "version", "model", "hparams", "state_dict", "metadata")
}
ODD |= {
    "another model": lambda c: c.__setitem__("model", "no-such"),
    "a newer version": lambda c: c.__setitem__("version", 99),
    "no weights": lambda c: c["state_dict"].clear(),
    "a weight more": lambda c: c["state_dict"].__setitem__("more", torch.ones(1)),
    "a weight less": lambda c: c["state_dict"].popitem(),
    "a number as weight": lambda c: c["state_dict"].__setitem__("a", 1),
    "a name that is no text": lambda c: c["hparams"].__setitem__(3, 1),
    "an unknown argument": lambda c: c["hparams"].__setitem__("unknown", 1),
    "complex weights": lambda c: c["state_dict"].update({k: v * 1j for k, v in c["state_dict"].items()}),
    "elements that are none": lambda c: c["metadata"].__setitem__("elements", ["Xx"]),
    "elements that are lists": lambda c: c["metadata"].__setitem__("elements", [[None]]),
    "elements as a number": lambda c: c["metadata"].__setitem__("elements", 3),
    "an examination as text": lambda c: c["metadata"].__setitem__("examination", "passed"),
}


@pytest.mark.parametrize("change", ODD)
def test_odd_entries(tmp_path: Path, change: str) -> None:
    small("cgcnn").save(tmp_path / "m.pt")
    content = torch.load(tmp_path / "m.pt", weights_only=True)
    ODD[change](content)
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=r"m\.pt") as caught:
        load_model(tmp_path / "m.pt")
    assert "\n" not in str(caught.value)
