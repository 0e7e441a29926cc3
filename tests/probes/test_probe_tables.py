"""Tables that a row of every potential fills."""

from __future__ import annotations

import pandas as pd

from mdl_physpretrain.probes.page import number_table


def test_words_and_numbers_of_several_rows() -> None:
    rows = [
        {"arm": "a", "of": "MLIP Arena", "pairs": 3, "gap": float("nan"), "why": "0.5"},
        {"arm": "a", "of": "ML-PEG", "pairs": 12345, "gap": 0.012345, "why": "overlap"},
    ]
    columns = {"of": ("Of", ""), "pairs": ("Pairs", ""), "gap": ("Gap", "eV"), "why": ("Why", "")}
    table = number_table(pd.DataFrame(rows), "Arm", columns, "file", text=("of", "why"))
    assert [[cell.text for cell in row] for row in table.rows] == [
        ["a", "MLIP Arena", "3", "–", "0.5"], ["a", "ML-PEG", "12345", "0.0123", "overlap"],
    ]  # fmt: skip
    assert [column.numeric for column in table.columns] == [False, False, True, True, False]
