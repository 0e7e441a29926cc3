"""Probes of this folder and of other packages."""

from typing import ClassVar

import pandas as pd
import pytest
from pydantic import Field

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.option_types import Section
from mdl_physpretrain.probes import registry
from mdl_physpretrain.probes.base import Probe, Subject
from mdl_physpretrain.probes.energy_drift import EnergyDrift
from mdl_physpretrain.workflow.config import RunConfig


class Hardness(Probe):
    """A probe of another package."""

    name = "hardness"
    question = "hard enough"
    asked_of = "potential"
    files: ClassVar = {"hardness": ("value",)}

    class Options(Section):
        hardness_load: float = Field(default=1.0, gt=0, description="N.")

    def tables(self, asked: Subject) -> dict[str, pd.DataFrame]:
        return {"hardness": pd.DataFrame({"value": [self.options.hardness_load]})}

    def answer(self, tables):
        table = tables.get("hardness")
        return None if table is None else ("yes" if table["value"].min() > 0 else "no", f"{table['value'].min():g}")


class Entry:
    def __init__(self, name, load):
        self.name, self.value, self.load = name, f"my_package:{name}", load


@pytest.fixture
def entry(monkeypatch):
    def declare(*entries):
        monkeypatch.setattr(registry, "entry_points", lambda group: [Entry(name, load) for name, load in entries])
        registry.probe_classes.cache_clear()

    yield declare
    monkeypatch.undo()
    registry.probe_classes.cache_clear()


def test_the_folder_is_listed_and_fits_its_contract():
    classes = registry.probe_classes()
    assert list(classes) == ["md", "nve", "diatomics", "compression", "errors", "rdf", "alignment", "diffusion"]
    for cls in classes.values():
        assert cls.asked_of in ("potential", "simulation", "frames")
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
    answers = registry.verdict_table({"hardness": table}, ["A", "B"], {("B", "hardness"): "crashed"})
    assert answers["verdict"].tolist() == ["yes", "unanswered"]
    assert answers["finding"].tolist() == ["3", "crashed"]
    with pytest.raises(ConfigError, match=r"hardness_load: .*greater than 0"):
        registry.make_probe("hardness", {"hardness_load": -1.0})
    assert "hardness_load" in registry.option_fields().model_fields


def test_two_probes_of_one_name_or_a_broken_package_are_told(entry):
    entry(("drift", lambda: EnergyDrift))
    with pytest.raises(ConfigError, match="two probes have the name 'nve'"):
        registry.probe_classes()

    def broken():
        raise ImportError("no module named gone")

    entry(("gone", broken))
    with pytest.raises(ConfigError, match=r"probe 'gone' .*no module named gone"):
        registry.probe_classes()
