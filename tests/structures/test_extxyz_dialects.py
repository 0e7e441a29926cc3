"""Extended XYZ as other codes write it: free text, other cases, odd columns."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.structures import get_labels, read_structures
from mdl_physpretrain.structures.extxyz_comment import parse_comment

CELL = 'Lattice="4 0 0 0 5 0 1 0 6" '


def one(tmp_path, comment: str, rows: str = "Mg 0 0 0\nO 2 0 0"):
    (tmp_path / "a.xyz").write_text(f"{len(rows.splitlines())}\n{comment}\n{rows}\n")
    (atoms,) = read_structures(tmp_path / "a.xyz")
    return atoms


@pytest.mark.filterwarnings("ignore:.*is text, no label")
@pytest.mark.parametrize(
    "comment",
    [
        "step 12 energy -76.4",
        "optimised without pbc",
        "energy",
        "virial stress forces",
        "Energy: -3 eV",
        "pbc",
        "12 13",
    ],
)
def test_free_text_is_no_label(tmp_path, comment):
    atoms = one(tmp_path, comment)
    labels = get_labels(atoms)
    assert labels.energy is None
    assert labels.forces is None
    assert labels.stress is None
    assert not atoms.pbc.any()
    assert atoms.info["comment"] == comment


def test_free_text_with_a_number_behind_energy_is_told(tmp_path):
    with pytest.warns(UserWarning, match=r"a\.xyz: the comment 'step 12 energy -76.4' is text"):
        one(tmp_path, "step 12 energy -76.4")


@pytest.mark.parametrize("word", ["energy", "pbc", "Energy", "REF_energy", "virial", "free_energy", "-76.4"])
def test_bare_words_between_entries_are_no_labels(tmp_path, word):
    atoms = one(tmp_path, f"{word} config=bulk relaxed")
    assert atoms.info["comment"] == word
    assert atoms.info["relaxed"] is True
    assert atoms.info["config"] == "bulk"
    assert atoms.calc is None
    assert not atoms.pbc.any()


@pytest.mark.parametrize("text", ["energy=T", "Energy=True", "REF_energy=F", "free_energy=T"])
def test_truth_is_no_energy(tmp_path, text):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert get_labels(one(tmp_path, text)).energy is None
        with pytest.raises(StructureError, match=r"is not numeric|no structure has it"):
            read_structures(tmp_path / "a.xyz", energy_key=text.split("=")[0])


@pytest.mark.parametrize("lattice", ["Lattice", "lattice", "LATTICE"])
@pytest.mark.parametrize("names", ["energy forces virial", "Energy Forces Virial", "ENERGY force VIRIAL"])
def test_case_does_not_matter(tmp_path, lattice, names):
    energy, forces, virial = names.split()
    virials = "1 2 3 2 5 6 3 6 9"
    properties = f"properties=Species:S:1:Pos:R:3:{forces}:R:3"
    comment = f'{lattice}="4 0 0 0 5 0 1 0 6" {energy}=-3.5 {virial}="{virials}" {properties} PBC="T T F"'
    atoms = one(tmp_path, comment, "Mg 0 0 0 1 2 3\nO 2 0 0 4 5 6")
    labels = get_labels(atoms)
    assert labels.energy == -3.5
    assert labels.forces.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert np.allclose(labels.stress, -np.array(virials.split(), float).reshape(3, 3) / 120.0)
    assert atoms.cell.array.tolist() == [[4, 0, 0], [0, 5, 0], [1, 0, 6]]
    assert atoms.pbc.tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("comment", "message"),
    [
        ("energy=-3 energy=-4", "'energy' twice with different values"),
        ('Lattice="4 0 0 0 4 0 0 0 4" lattice="5 0 0 0 5 0 0 0 5"', "'Lattice' and 'lattice' with different values"),
        ("energy=-3 Energy=-4", "'energy' and 'Energy' differ"),
        ("Energy=-3 REF_ENERGY=-4", "'Energy' and 'REF_ENERGY' differ"),
    ],
)
def test_two_values_are_told(tmp_path, comment, message):
    with pytest.warns(UserWarning, match=message):
        atoms = one(tmp_path, comment)
    assert get_labels(atoms).energy in (None, -3)
    assert round(atoms.cell.volume, 6) in (0.0, 64.0)


@pytest.mark.parametrize(
    ("comment", "expected"),
    [
        ("energy = -76.4", {"energy": -76.4}),
        ("energy= -3 config=a b", {"energy": -3, "config": "a", "b": True}),
        ('note="a \\"b\\" = c" x={1 2} "my key"=3', {"note": 'a "b" = c', "x": [1, 2], "my key": 3}),
        ("y= z=3", {"y": "", "z": 3}),
        ("m=[[1,2],[3,4]] f=[T,F] g=T", {"m": [[1, 2], [3, 4]], "f": [True, False], "g": True}),
        ('stress="1 2 3 4 5 6"', {"stress": [1, 2, 3, 4, 5, 6]}),
        ('Stress="1 2 3 4 5 6 7 8 9"', {"Stress": [[1, 4, 7], [2, 5, 8], [3, 6, 9]]}),
        ("= 3 a=1", {"a": 1, "comment": "= 3"}),
        ("", {}),
    ],
)
def test_comment_lines(comment, expected):
    read = {k: v.tolist() if isinstance(v, np.ndarray | np.generic) else v for k, v in parse_comment(comment).items()}
    assert read == expected


@pytest.mark.parametrize("name", ["stress", "Stress", "REF_stress"])
def test_six_components_of_stress(tmp_path, name):
    stress = get_labels(one(tmp_path, CELL + f'{name}="1 2 3 4 5 6"')).stress
    assert stress.tolist() == [[1, 6, 5], [6, 2, 4], [5, 4, 3]]


@pytest.mark.parametrize(
    ("properties", "rows", "numbers"),
    [
        ("species:I:1:pos:R:3", "12 0 0 0\n8 2 0 0", [12, 8]),
        ("species:S:1:pos:R:3", "12 0 0 0\n8 2 0 0", [12, 8]),
        ("Z:I:1:pos:R:3", "12 0 0 0\n8 2 0 0", [12, 8]),
        ("Z:R:1:pos:R:3", "12.0 0 0 0\n8 2 0 0", [12, 8]),
        ("numbers:I:1:positions:R:3", "12 0 0 0\n8 2 0 0", [12, 8]),
        ("element:S:1:pos:R:3", "mg 0 0 0\nO 2 0 0", [12, 8]),
        ("pos:R:3:species:S:1:Z:I:1", "0 0 0 Mg 12\n2 0 0 O 8", [12, 8]),
    ],
)
def test_columns_of_elements(tmp_path, properties, rows, numbers):
    assert one(tmp_path, f"Properties={properties}", rows).numbers.tolist() == numbers


def test_a_counting_column_is_no_element(tmp_path):
    with pytest.warns(UserWarning, match="'numbers' does not hold atomic numbers"):
        atoms = one(tmp_path, "Properties=species:S:1:pos:R:3:numbers:I:1", "Mg 0 0 0 1\nO 2 0 0 2")
    assert atoms.get_chemical_formula() == "MgO"
    assert atoms.arrays["other_numbers"].tolist() == [1, 2]


def test_a_second_column_of_positions_does_not_replace_them(tmp_path):
    columns = "species:S:1:pos:R:3:positions:R:3"
    atoms = one(tmp_path, f"Properties={columns}", "Mg 0 0 0 9 9 9\nO 2 0 0 9 9 9")
    assert atoms.positions.tolist() == [[0, 0, 0], [2, 0, 0]]
    assert atoms.arrays["other_positions"].tolist() == [[9, 9, 9]] * 2


@pytest.mark.parametrize(
    ("properties", "row", "message"),
    [
        ("Z:I:1:pos:R:3", "-5 0 0 0", "unknown element -5"),
        ("Z:I:1:pos:R:3", "0 0 0 0", "unknown element 0"),
        ("Z:R:1:pos:R:3", "3.7 0 0 0", "unknown element 3.7"),
        ("species:S:1:pos:R:3", "3.7 0 0 0", "unknown element '3.7'"),
        ("species:I:1:pos:R:3", "119 0 0 0", "unknown element 119"),
        ("species:L:1:pos:R:3", "T 0 0 0", "unknown element True"),
        ("species:R:1:pos:R:3", "nan 0 0 0", "unknown element nan"),
        ("species:S:1:pos:R:3", "X 0 0 0", "unknown element 'X'"),
        ("species:S:1:pos:R:3:Z:I:1", "Mg 0 0 0 8", "atom 0 is Mg in the column 'species' and O in 'Z'"),
        ("species:S:1:pos:R:3:forces:R:3:forces:R:3", "Mg 0 0 0 1 1 1 2 2 2", "'forces' occurs twice"),
        ("species:S:1:pos:R:3:pos:R:3", "Mg 0 0 0 1 1 1", "'pos' occurs twice"),
        ("species:S:2:pos:R:3", "Mg O 0 0 0", "more than one column of elements"),
        ("species:S:1:pos:S:3", "Mg 0 0 0", "no three columns of positions"),
        ("species:S:1:pos:R:3:masses:R:3", "Mg 0 0 0 1 1 1", "field masses"),
        ("species:S:1:pos:R:3:forces:R:0", "Mg 0 0 0", "not a list of name:type:columns"),
        ("species:S:1:pos:R:three", "Mg 0 0 0", "not a list of name:type:columns"),
    ],
)
def test_impossible_columns(tmp_path, properties, row, message):
    with pytest.raises(StructureError, match=message) as caught:
        one(tmp_path, f"Properties={properties}", row)
    assert "a.xyz" in str(caught.value)


@pytest.mark.parametrize("value", ["maybe", '"T F"', "7", '"T T T T"'])
def test_impossible_pbc(tmp_path, value):
    with pytest.raises(StructureError, match="field pbc"):
        one(tmp_path, CELL + f"pbc={value}")


def test_nan_is_no_label_when_asked(tmp_path):
    rows = "Mg 0 0 0 1 1 nan\nO 2 0 0 1 1 1"
    one(tmp_path, "energy=nan Properties=species:S:1:pos:R:3:forces:R:3", rows)
    with pytest.raises(StructureError, match="NaN or infinite label"):
        get_labels(read_structures(tmp_path / "a.xyz")[0])
    labels = get_labels(read_structures(tmp_path / "a.xyz", nan_labels="missing")[0])
    assert labels.energy is None
    assert labels.forces is None
