"""Extended XYZ: what could pass for a label, or be one, is not taken or left without a word."""

from __future__ import annotations

import warnings

import pytest

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.structures import get_labels, read_structures

ROWS = "H 0 0 0 {0}\nH 0 0 1 {0}\n"


@pytest.mark.parametrize("key", ["forces", "Forces", "dft_forces", "force"])
def test_truths_are_no_forces(key, tmp_path):
    (tmp_path / "a.xyz").write_text(f"2\nProperties=species:S:1:pos:R:3:{key}:L:3 energy=-1\n{ROWS.format('T F T')}")
    with pytest.warns(UserWarning, match="which is no forces"):
        (atoms,) = read_structures(tmp_path / "a.xyz")
    assert get_labels(atoms).forces is None


@pytest.mark.parametrize("text", ["1_000", "-7_6.4", "1_0e1", '"1_000"'])
@pytest.mark.parametrize("key", ["energy", "dft_energy", "Energy"])
def test_an_underscore_is_no_part_of_a_number(text, key, tmp_path):
    (tmp_path / "a.xyz").write_text(f"2\n{key}={text}\n{ROWS.format('')}")
    with pytest.raises(StructureError, match="is not numeric"):
        read_structures(tmp_path / "a.xyz")


@pytest.mark.parametrize("comment", ["a molecule", "Properties=species:S:1:pos:R:3"])
def test_columns_without_a_name_are_told(comment, tmp_path):
    (tmp_path / "a.xyz").write_text(f"2\n{comment}\n{ROWS.format('0.1 0.2 0.3')}")
    with pytest.warns(UserWarning, match="behind the first 4 have no name"):
        read_structures(tmp_path / "a.xyz")
    (tmp_path / "a.xyz").write_text(f"2\nProperties=species:S:1:pos:R:3:forces:R:3\n{ROWS.format('0.1 0.2 0.3')}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert get_labels(read_structures(tmp_path / "a.xyz")[0]).forces is not None
