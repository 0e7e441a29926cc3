"""Files that are complete or not there."""

from __future__ import annotations

import hashlib
import json

import pytest

from mdl_physpretrain.errors import ConfigError, StructureError
from mdl_physpretrain.files import file_hash, make_writable, nameable, replacing, write_atomic
from mdl_physpretrain.structures import read_structures
from mdl_physpretrain.workflow.config_files import load_config


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


@pytest.mark.parametrize("name", ["a" * 300, "a" * 300 + "*", "a\0b", "~nobody-is-called-so/x", "a/" * 3000])
def test_names_that_no_file_can_have(name, tmp_path):
    with pytest.raises(ConfigError, match="no file can be called"):
        nameable(name)
    with pytest.raises(StructureError, match="no file can be called"):
        read_structures(name)
    for section in ({"data": {"source": name}}, {"data": {"source": "demo"}, "teacher": {"checkpoint": name}}):
        (tmp_path / "run.yaml").write_text(json.dumps(section))
        with pytest.raises(ConfigError, match="no file can be called"):
            load_config(tmp_path / "run.yaml")


def test_other_names_stay_what_they_are(tmp_path):
    assert nameable(tmp_path / "not there") == tmp_path / "not there"
