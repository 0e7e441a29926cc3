"""Augmented structures go to the file as they are made."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
from typer.testing import CliRunner

from mdl_physpretrain.augmentation import augment, augment_iter
from mdl_physpretrain.cli import app
from mdl_physpretrain.structures import read_structures, write_structures


@pytest.mark.parametrize("name", ["out.extxyz", "out.json", "out.extxyz.gz"])
def test_structures_that_are_written_are_forgotten(rocksalt, tmp_path, name):
    alive: weakref.WeakValueDictionary = weakref.WeakValueDictionary()
    most = 0

    def watched():
        nonlocal most
        for k, atoms in enumerate(augment_iter(rocksalt, n_aug=10)):
            alive[k] = atoms
            most = max(most, len(alive))
            yield atoms

    write_structures(tmp_path / name, watched())
    assert most <= 3
    assert len(read_structures(tmp_path / name)) == 80


def test_nothing_is_left_of_a_file_that_was_not_finished(rocksalt, tmp_path):
    def broken():
        yield rocksalt[0]
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_structures(tmp_path / "out.extxyz", broken())
    assert not list(tmp_path.iterdir())


def test_the_command_writes_what_the_function_makes(rocksalt, tmp_path):
    alone = rocksalt[0][:1]
    alone.info["structure_id"] = "alone"
    write_structures(tmp_path / "in.extxyz", [*rocksalt, alone])
    result = CliRunner().invoke(
        app,
        [
            "augment",
            str(tmp_path / "in.extxyz"),
            "-o",
            str(tmp_path / "out.extxyz"),
            "--n-aug",
            "3",
            "--pull",
            "0.3",
            "--preset",
            "algorithm1",
        ],
    )
    assert result.exit_code == 0, result.output
    assert "Wrote 24 structures" in result.output
    with pytest.warns(UserWarning, match="fewer than two atoms"):
        expected = augment(read_structures(tmp_path / "in.extxyz"), n_aug=3, pull=0.3)
    found = read_structures(tmp_path / "out.extxyz")
    assert [a.info["structure_id"] for a in found] == [a.info["structure_id"] for a in expected]
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a.positions, b.positions)
