"""Tables of the paper from run folders, and the claim judged from them."""

import math
import shutil

import pandas as pd
import pytest
from report_run_folder import make_run
from typer.testing import CliRunner

from mdl_physpretrain.cli import app
from mdl_physpretrain.errors import PhysPretrainError
from mdl_physpretrain.reproduction.claim import accuracy_words, claim_outcome, stability_words
from mdl_physpretrain.reproduction.run import write_tables
from mdl_physpretrain.reproduction.tables import printed
from mdl_physpretrain.statistics.paired import Comparison
from mdl_physpretrain.statistics.seeds import PairedDifference


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reproduced") / "small"
    make_run(folder / "silica-cgcnn", seeds=3)
    file = folder / "silica-cgcnn" / "physicality.csv"
    pd.read_csv(file).assign(ensemble="nvt", temperature=2000.0).to_csv(file, index=False)  # the paper's condition
    make_run(folder / "inp-m3gnet", seeds=3)
    return folder


def test_rows_hold_the_runs_own_counts_beside_the_printed_ones(root):
    written = write_tables(root)
    table = pd.read_csv(written["stability"])
    source = pd.read_csv(root / "silica-cgcnn" / "physicality.csv")
    row = table[(table["system"] == "silica") & (table["setup"] == "baseline")].iloc[0]
    own = source[source["arm"] == "baseline"]
    assert row["unphysical"] == (~own["physical"]).sum()
    assert row["overlap"] == own["overlap"].sum()
    assert row["trajectories"] == len(own)
    assert row["overlap_low"] <= row["overlap"] / len(own) <= row["overlap_high"]
    assert (row["printed_overlap"], row["printed_lindemann"], row["printed_usage"]) == (5, 2, 1.0)
    assert table[table["system"] == "inp"]["printed_overlap"].isna().all()
    errors = pd.read_csv(written["accuracy"]).set_index(["system", "setup"])
    efs = pd.read_csv(root / "silica-cgcnn" / "efs.csv")
    mine = efs[(efs["arm"] == "pretrained") & (efs["split"] == "test")]["total"]
    assert errors.loc[("silica", "pretrained"), "total"] == pytest.approx(mine.mean())
    assert errors.loc[("silica", "pretrained"), "printed_total"] == 10.450


def test_every_table_is_on_the_page(root):
    page = write_tables(root)["tables"].read_text()
    assert page.count("| Silica |") == 2 + 2 + 1
    assert "5 / 2 (100% of the data)" in page
    assert "| paper | 713.2 | 73.2 |" in page
    assert "nan" not in page


def test_tables_of_nothing_are_an_error(tmp_path):
    with pytest.raises(PhysPretrainError, match="no finished runs"):
        write_tables(tmp_path)


def test_collect_writes_the_tables_of_what_is_there(root, tmp_path):
    shutil.copytree(root, tmp_path / "out" / "small")
    result = CliRunner().invoke(app, ["reproduce", "--collect", "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "InP" in result.output
    assert (tmp_path / "out" / "small" / "claims.csv").is_file()


def _comparison(only_reference, only_arm, p, better, worse):
    return Comparison(
        "baseline", "pretrained", "unphysical", "NVT", 24, 0, only_reference, only_arm, p, better, worse, 0
    )


def _difference(mean, low, high, seeds=3):
    return PairedDifference("baseline", "pretrained", "total", seeds, mean, 0.1, low, high, scale=4.0)


def test_words_for_stability_need_seeds_that_agree():
    assert stability_words(_comparison(10, 0, 0.002, 3, 0)) == "improved"
    assert stability_words(_comparison(10, 1, 0.01, 2, 1)) == "improved?"
    assert stability_words(_comparison(0, 10, 0.002, 0, 3)) == "worse"
    assert stability_words(_comparison(3, 0, 0.25, 2, 0)) == "no difference shown"


def test_words_for_accuracy_need_an_interval_that_excludes_a_cost():
    assert accuracy_words(_difference(-0.5, -0.8, -0.2)) == "lower"
    assert accuracy_words(_difference(0.05, -0.05, 0.15)) == "no cost"
    assert accuracy_words(_difference(0.1, -0.3, 0.5)) == "undecided"
    assert accuracy_words(_difference(0.5, 0.2, 0.8)) == "higher"
    assert accuracy_words(_difference(-0.5, -0.8, -0.2, seeds=2)) == "undecided"
    assert accuracy_words(None) == "undecided"


def test_the_claim_holds_only_with_both_halves():
    assert claim_outcome("improved", "lower") == claim_outcome("improved", "no cost") == "holds"
    assert claim_outcome("improved", "undecided") == "more stable; cost undecided"
    assert claim_outcome("improved", "higher").startswith("no: costs accuracy")
    assert claim_outcome("improved?", "lower") == "not shown"
    assert claim_outcome("worse", "lower") == "no: less stable"


def test_printed_totals_follow_from_the_printed_errors():
    """Guards the typed-in numbers: total = 0.01 E + 50 F + 50 S, as printed (rounding of F costs up to 0.03)."""
    table = printed("accuracy")
    total = 0.01 * table["energy_mae"] + 50 * table["forces_mae"] + 50 * table["stress_mae_gpa"].fillna(0)
    wrong = table[(total - table["total"]).abs() > 0.06]
    # the paper's own rows that do not add up
    assert set(map(tuple, wrong[["system", "backbone", "setup"]].to_numpy())) == {
        ("silica", "torchmd_et", "baseline"),
        ("silica", "cgcnn", "sam"),
    }
    assert not math.isnan(table["total"].sum())
