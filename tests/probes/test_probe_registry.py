"""Probes of this folder and of other packages."""

import json
from dataclasses import asdict
from typing import ClassVar

import pandas as pd
import pytest
import yaml
from ase.build import bulk
from ase.calculators.emt import EMT
from pydantic import Field
from typer.testing import CliRunner

from mdl_physpretrain import plugin_classes
from mdl_physpretrain.cli import app
from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.option_types import Section
from mdl_physpretrain.probes import registry
from mdl_physpretrain.probes.base import Probe, Subject
from mdl_physpretrain.probes.energy_drift import EnergyDrift
from mdl_physpretrain.probes.page import PagePart
from mdl_physpretrain.report.probes import probe_parts
from mdl_physpretrain.report.read import read_run
from mdl_physpretrain.workflow.check import check
from mdl_physpretrain.workflow.check_suite import CheckSettings, probe_names
from mdl_physpretrain.workflow.config import RunConfig


class Hardness(Probe):
    """A probe of another package."""

    name = "hardness"
    question = "hard enough"
    applies_to = "potential"
    files: ClassVar = {"hardness": ("value",)}

    class Options(Section):
        hardness_load: float = Field(default=1.0, gt=0, description="N.")

    def tables(self, subject: Subject) -> dict[str, pd.DataFrame]:
        return {"hardness": pd.DataFrame({"value": [self.options.hardness_load]})}

    def answer(self, tables):
        table = tables.get("hardness")
        return None if table is None else ("yes" if table["value"].min() > 0 else "no", f"{table['value'].min():g}")

    def page(self, tables, arms, who):
        return PagePart(summary=pd.DataFrame({"load": [self.options.hardness_load]}))


class Titled(Hardness):
    """With a section, and an answer that depends on an option."""

    title = "Hardness"

    def answer(self, tables):
        table = tables.get("hardness")
        load = self.options.hardness_load
        return None if table is None else ("yes" if table["value"].min() >= load else "no", f"load {load:g}")


class Entry:
    def __init__(self, name, load):
        self.name, self.value, self.load = name, f"my_package:{name}", load


@pytest.fixture
def entry(monkeypatch):
    def declare(*entries):
        monkeypatch.setattr(plugin_classes, "entry_points", lambda group: [Entry(name, load) for name, load in entries])
        registry.probe_classes.cache_clear()

    yield declare
    monkeypatch.undo()
    registry.probe_classes.cache_clear()


def test_the_folder_is_listed_and_fits_its_contract():
    classes = registry.probe_classes()
    assert list(classes) == [
        "md", "heating", "pressure_ramp", "nve", "ensemble", "diatomics", "diatomic_metrics", "bond_smoothness",
        "invariance", "compression", "eos", "errors", "stiffness", "rdf", "alignment", "diffusion",
    ]  # fmt: skip
    for cls in classes.values():
        assert cls.applies_to in ("potential", "simulation", "frames")
        assert cls.__doc__
        assert all(cls.files.values())
        assert cls.expected <= set(cls.files)
        assert cls().answer({}) is None, "nothing to say without tables"
        assert cls().page({}, [], "Arm") is None
    options = [name for cls in classes.values() for name in cls.Options.model_fields]
    assert len(set(options)) == len(options)
    shown = RunConfig(data={"source": "demo"})
    assert {name for name in options if hasattr(shown.probe, name) or hasattr(shown.md, name)} == set(options)


def test_a_probe_of_another_package_is_asked_like_ours(entry):
    entry(("hardness", lambda: Hardness))
    assert registry.probe_classes()["hardness"] is Hardness
    assert registry.table_kinds()["hardness"] is Hardness
    probe = registry.make_probe("hardness", {"hardness_load": 3.0, "r_max": 5.0})
    table = probe.tables(Subject(None))["hardness"].assign(arm="A")
    answers = registry.probe_answers({"hardness": table}, ["A", "B"], {("B", "hardness"): "crashed"})
    assert answers["verdict"].tolist() == ["yes", "unanswered"]
    assert answers["finding"].tolist() == ["3", "crashed"]
    entry(("hardness", lambda: Titled))
    answers = registry.probe_answers({"hardness": table}, ["A"], options={"hardness_load": 4.0})
    assert answers["finding"].tolist() == ["load 4"]
    with pytest.raises(ConfigError, match=r"hardness_load: .*greater than 0"):
        registry.make_probe("hardness", {"hardness_load": -1.0})
    assert "hardness_load" in registry.option_fields().model_fields


@pytest.mark.parametrize(
    ("file", "content", "load"),
    [
        ("check.json", {"potentials": {"A": "a"}, "settings": {"probe": {"hardness_load": 4.0}}}, 4.0),
        ("check.json", {"potentials": {"A": "a"}, "settings": {"seeds": [0]}}, 1.0),
        ("config.yaml", {"arms": {"A": {}}, "md": {"hardness_load": 3.0}}, 3.0),
        ("config.yaml", {"arms": {"A": {}}, "md": {"r_max": 5.0}, "probe": {"hardness_load": 4.0}}, 4.0),
        ("config.yaml", {"arms": {"A": {}}, "probe": None}, 1.0),
    ],
)
def test_answers_and_pages_see_the_options_of_the_folder(entry, tmp_path, file, content, load):
    entry(("hardness", lambda: Titled))
    (tmp_path / file).write_text(json.dumps(content) if file == "check.json" else yaml.safe_dump(content))
    pd.DataFrame({"arm": ["A"], "seed": [0], "value": [2.0]}).to_csv(tmp_path / "hardness.csv", index=False)
    folder = read_run(tmp_path)
    assert probe_parts(folder)["hardness"].summary["load"].tolist() == [load]
    if folder.is_check:
        assert folder.answers[["verdict", "finding"]].to_numpy().tolist() == [
            ["yes" if load < 2 else "no", f"load {load:g}"]
        ]


def test_the_options_of_a_check_are_called_as_the_probes_call_them(tmp_path):
    settings = CheckSettings(compressed=3, r_max=5.0, probe={"diffusion_blocks": 2})
    (tmp_path / "check.json").write_text(json.dumps({"settings": asdict(settings)}))
    stored = read_run(tmp_path).probe_options
    for name in registry.probe_classes():
        assert registry.make_probe(name, stored).options == registry.make_probe(name, settings.options).options
    assert registry.make_probe("compression", stored).options.n_compressed == 3


class Batches(Probe):
    """Words that look like numbers, or like nothing."""

    name = "batches"
    question = "from where"
    applies_to = "potential"
    files: ClassVar = {"batches": ("batch", "value")}
    texts = ("batch",)

    def tables(self, subject: Subject) -> dict[str, pd.DataFrame]:
        return {"batches": pd.DataFrame({"batch": ["007", "NA"], "value": [7, 8]})}


def test_text_of_a_probe_stays_text(entry, tmp_path):
    entry(("batches", lambda: Batches))
    skip = [name for name in probe_names() if name != "batches"]
    atoms = bulk("Cu", cubic=True)
    atoms.info["structure_id"] = "copper"
    checked = check({"emt": EMT}, [atoms], output=tmp_path, steps=1, skip=skip, report=False)
    for table in (checked.tables["batches"], read_run(tmp_path).tables["batches"]):
        assert table["batch"].tolist() == ["007", "NA"]
        assert table["value"].tolist() == [7, 8]


def test_two_probes_with_one_option_are_told(entry):
    class Toughness(Hardness):
        """Named otherwise, with the option of the other one."""

        name = "toughness"
        files: ClassVar = {"toughness": ("value",)}

    entry(("hardness", lambda: Hardness), ("toughness", lambda: Toughness))
    with pytest.raises(ConfigError, match="'hardness' and 'toughness' both have an option 'hardness_load'"):
        registry.option_fields()


def test_a_check_runs_what_the_probes_need(entry):
    class Heat(Hardness):
        """Of a simulation without thermostat, against a reference."""

        name = "heat"
        applies_to = "simulation"
        needs = frozenset({"nve"})
        compares = True
        files: ClassVar = {"heat": ("value",)}

    assert CheckSettings().simulated("") == ("md", "ensemble")
    assert CheckSettings().simulated("nve-300K") == ("nve",)
    assert CheckSettings(skip=("nve",)).simulated("nve-300K") == ()
    assert CheckSettings().compares
    assert not CheckSettings(skip=("rdf",)).compares
    assert not CheckSettings(trajectory_interval=None).compares
    entry(("heat", lambda: Heat))
    assert CheckSettings(skip=("nve", "rdf")).simulated("nve-300K") == ("heat",)
    assert CheckSettings().simulated("") == ("md", "ensemble")
    assert CheckSettings(skip=("rdf",)).compares


def test_the_help_of_a_check_names_the_probes(entry):
    entry(("hardness", lambda: Hardness))
    text = CliRunner().invoke(app, ["check", "--help"], env={"COLUMNS": "300"}, catch_exceptions=False).output
    assert f"not asked: {', '.join(probe_names())}." in text
    assert "hardness" in probe_names()


def test_two_probes_of_one_name_or_a_broken_package_are_told(entry):
    entry(("drift", lambda: EnergyDrift))
    with pytest.raises(ConfigError, match="two probes have the name 'nve'"):
        registry.probe_classes()

    def broken():
        raise ImportError("no module named gone")

    entry(("gone", broken))
    with pytest.raises(ConfigError, match=r"probe 'gone' .*no module named gone"):
        registry.probe_classes()
