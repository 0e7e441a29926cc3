"""What ASE passes over in silence."""

from __future__ import annotations

import pytest
from ase.build import bulk
from ase.io import write

from mdl_physpretrain.errors import StructureError
from mdl_physpretrain.structures import get_labels, read_structures

CIF = """data_x
_cell_length_a 4.2
_cell_length_b 4.2
_cell_length_c 4.2
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_space_group_name_H-M_alt 'P 1'
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
{rows}
"""

STEP = """<calculation>{scf}<structure><crystal><varray name="basis"><v>4 0 0</v><v>0 4 0</v><v>0 0 4</v></varray>
</crystal><varray name="positions"><v>0 0 0</v></varray></structure><varray name="forces"><v>0 0 0.1</v></varray>
<varray name="stress"><v>1 0 0</v><v>0 1 0</v><v>0 0 1</v></varray>
<energy><i name="e_fr_energy">-3.5</i><i name="e_wo_entrp">-3.5</i><i name="e_0_energy">-3.5</i></energy></calculation>
"""
_ENERGY = (
    "<energy>" + "".join(f"<i name='{n}'>-3.5</i>" for n in ("e_fr_energy", "e_wo_entrp", "e_0_energy")) + "</energy>"
)
SCF = f"<scstep>{_ENERGY}</scstep>"
VASPRUN = """<?xml version="1.0" encoding="ISO-8859-1"?>
<modeling><kpoints/><parameters><separator name="electronic"><i type="int" name="NELM">{nelm}</i></separator>
</parameters><atominfo><atoms>1</atoms><types>1</types><array name="atoms"><set><rc><c>Cu</c><c>1</c></rc></set></array>
</atominfo><structure name="initialpos"><crystal><varray name="basis"><v>4 0 0</v><v>0 4 0</v><v>0 0 4</v></varray>
</crystal>
<varray name="positions"><v>0 0 0</v></varray></structure>
{steps}</modeling>
"""


@pytest.mark.parametrize(
    "rows",
    ["A Fe 0 0 0 0.5\nB Mn 0 0 0 0.5\nO O 0.5 0.5 0.5 1", "A Li 0 0 0 0.7\nO O 0.5 0.5 0.5 1"],
)
def test_partial_occupancies_are_refused(tmp_path, rows):
    (tmp_path / "a.cif").write_text(CIF.format(rows=rows))
    with pytest.raises(StructureError, match=r"a\.cif.*field occupancy: site .* holds 0\.\d .*partial occupancies"):
        read_structures(tmp_path / "a.cif")


def test_full_occupancies_are_read(tmp_path):
    (tmp_path / "a.cif").write_text(CIF.format(rows="A Fe 0 0 0 1.0\nO O 0.5 0.5 0.5 1"))
    assert read_structures(tmp_path / "a.cif")[0].get_chemical_formula() == "FeO"
    write(tmp_path / "b.cif", bulk("MgO", "rocksalt", a=4.2))
    assert len(read_structures(tmp_path / "b.cif")[0]) == 2


def test_a_cut_vasprun_is_refused(tmp_path):
    text = VASPRUN.format(nelm=60, steps=STEP.format(scf=SCF) * 3)
    (tmp_path / "vasprun.xml").write_text(text)
    assert len(read_structures(tmp_path / "vasprun.xml")) == 3
    for end in (-40, -300, -700):
        (tmp_path / "vasprun.xml").write_text(text[:end])
        with pytest.raises(StructureError, match=r"vasprun\.xml: ends early .* after [123] complete ionic steps"):
            read_structures(tmp_path / "vasprun.xml")


def test_steps_that_did_not_converge_have_no_labels(tmp_path):
    steps = STEP.format(scf=SCF * 3) + STEP.format(scf=SCF * 5) + STEP.format(scf=SCF * 2)
    (tmp_path / "vasprun.xml").write_text(VASPRUN.format(nelm=5, steps=steps))
    with pytest.warns(UserWarning, match=r"electrons of 1 of 3 ionic steps did not converge \(first: 1\)"):
        structures = read_structures(tmp_path / "vasprun.xml")
    assert [get_labels(a).energy is None for a in structures] == [False, True, False]
    assert structures[1].info["scf_converged"] is False
