"""A foreign checkpoint is read, or refused by name, and never executed."""

from __future__ import annotations

import collections
import pathlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from mdl_physpretrain.errors import CheckpointError
from mdl_physpretrain.potentials.safe_load import globals_of, load_foreign


class _Malicious:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self):
        return (exec, (f"open({str(self.victim)!r}, 'w').close()",))


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_file_is_refused_by_name_and_not_run(
    tmp_path: Path, zipped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # as MatDeepLearn needs it
    victim, path = tmp_path / "victim", tmp_path / "bad.pt"
    torch.save(
        {"state_dict": {"w": torch.ones(2)}, "x": _Malicious(victim)}, path, _use_new_zipfile_serialization=zipped
    )
    with pytest.raises(CheckpointError, match=r"bad\.pt asks to import .*\.exec: refused"):
        load_foreign(path)
    assert not victim.exists()
    function, arguments = _Malicious(victim).__reduce__()
    function(*arguments)
    assert victim.exists()  # what is in the file would have done it


@pytest.mark.parametrize("protocol", [0, 1, 2, 4, 5])
def test_a_bare_pickle_is_refused(tmp_path: Path, protocol: int) -> None:
    victim, path = tmp_path / "victim", tmp_path / "bad.pkl"
    path.write_bytes(pickle.dumps(_Malicious(victim), protocol=protocol))
    assert globals_of(path) == {"builtins.exec"}
    with pytest.raises(CheckpointError, match="exec"):
        load_foreign(path)
    assert not victim.exists()


def test_hidden_among_harmless_imports_is_refused_too(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "bad.pt"
    torch.save({"a": np.float64(1.0), "p": pathlib.PurePosixPath("x"), "x": _Malicious(victim)}, path)
    with pytest.raises(CheckpointError, match="exec"):
        load_foreign(path)
    assert not victim.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_plain_values_of_other_programs_come_back_plain(tmp_path: Path, zipped: bool) -> None:
    pytest.importorskip("torch", minversion="2.6", reason="older torch has no allow-list by name")
    path = tmp_path / "good.pt"
    table = collections.defaultdict(dict)
    table["state"][0] = {"step": 3}
    content = {
        "state_dict": collections.OrderedDict(w=torch.arange(3.0)),
        "best": np.float32(1.5),
        "count": np.int64(7),
        "array": np.arange(4.0).reshape(2, 2),
        "where": pathlib.PurePosixPath("/home/someone/run"),
        "table": table,
        "optimizer": torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))]).state_dict(),
    }
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    found = load_foreign(path)
    assert torch.equal(found["state_dict"]["w"], torch.arange(3.0))
    assert found["best"] == 1.5
    assert found["count"] == 7
    assert type(found["count"]) is int
    np.testing.assert_array_equal(found["array"], np.arange(4.0).reshape(2, 2))
    assert found["where"] == "/home/someone/run"
    assert found["table"] == {"state": {0: {"step": 3}}}
    assert found["optimizer"]["param_groups"][0]["lr"] == 1e-3


def test_what_others_allow_in_this_process_is_not_allowed_here(tmp_path: Path) -> None:
    pytest.importorskip("torch", minversion="2.6", reason="older torch has no allow-list by name")
    torch.save({"x": collections.deque([1])}, tmp_path / "deque.pt")
    with torch.serialization.safe_globals([collections.deque, collections.defaultdict]):
        before = set(torch.serialization.get_safe_globals())
        with pytest.raises(CheckpointError, match=r"collections\.deque"):
            load_foreign(tmp_path / "deque.pt")
        test_plain_values_of_other_programs_come_back_plain(tmp_path, True)
        assert set(torch.serialization.get_safe_globals()) == before


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(CheckpointError, match=r"torch\.nn\.modules\.linear\.Linear"):
        load_foreign(tmp_path / "module.pt")


def test_missing_truncated_and_other_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no\.pt does not exist"):
        load_foreign(tmp_path / "no.pt")
    whole, cut = tmp_path / "whole.pt", tmp_path / "cut.pt"
    torch.save({"w": torch.ones(1000)}, whole)
    for size in (0, 10, 500, whole.stat().st_size - 300):
        cut.write_bytes(whole.read_bytes()[:size])
        with pytest.raises(CheckpointError, match=r"cut\.pt is damaged or not a torch checkpoint"):
            load_foreign(cut)
    for text in ("hello world", "", "<html>404</html>"):
        cut.write_text(text)
        with pytest.raises(CheckpointError, match=r"cut\.pt is damaged or not a torch checkpoint"):
            load_foreign(cut)
