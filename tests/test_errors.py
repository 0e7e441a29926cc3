"""Errors that say where."""

from __future__ import annotations

import pickle

from mdl_physpretrain.errors import StructureError


def test_an_error_gets_its_places_once():
    error = StructureError("bad", field="pos").at(structure=3).at(file="a.xyz", structure=4)
    assert str(error) == "file a.xyz, structure 3, field pos: bad"
    assert error.message == "bad"
    again = pickle.loads(pickle.dumps(error))  # as it comes from a worker
    assert str(again) == str(error)
    assert (again.file, again.structure, again.field) == ("a.xyz", 3, "pos")
