"""Files that are complete or not there."""

from __future__ import annotations

import hashlib

import pytest

from mdl_physpretrain.files import file_hash, make_writable, replacing, write_atomic


def test_a_file_is_complete_or_as_before(tmp_path):
    path = tmp_path / "sub" / "a.txt"
    write_atomic(path, "Å")
    assert path.read_bytes() == "Å".encode()
    assert file_hash(path) == hashlib.sha256("Å".encode()).hexdigest()

    def interrupted() -> None:
        with replacing(path) as part:
            part.write_text("half")
            assert path.read_text(encoding="utf-8") == "Å"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_text(encoding="utf-8") == "Å"
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_a_folder_that_cannot_be_written_to(tmp_path):
    make_writable(tmp_path / "a" / "b")
    assert not list((tmp_path / "a" / "b").iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        make_writable(tmp_path / "file" / "c")
