"""The EAM in the layout of the released checkpoints, there and back."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from ase import Atoms

from mdl_physpretrain.errors import CheckpointError, ConfigError
from mdl_physpretrain.graphs.batch import build_batch
from mdl_physpretrain.hosts.convert import convert, detect, read_checkpoint_of
from mdl_physpretrain.hosts.matdeeplearn.checkpoint import read_matdeeplearn, write_matdeeplearn
from mdl_physpretrain.hosts.matdeeplearn.eam_layout import eam_from_layout, eam_to_layout, symbols_of
from mdl_physpretrain.potentials import EAM, load_model, predict

ELEMENTS = ["Li", "Mn", "P", "O"]


def _eam(elements: list[str], *, dtype: torch.dtype = torch.float64, **options) -> EAM:
    generator = torch.Generator().manual_seed(len(elements))
    eam = EAM(elements, **{"cutoff": 5.0, "n_basis": 10, "core": False, **options}).to(dtype)
    with torch.no_grad():
        for parameter in eam.parameters():
            parameter.mul_(0.6 + torch.rand(parameter.shape, generator=generator, dtype=dtype))
    return eam.eval()


def _crystal(elements: list[str]) -> Atoms:
    rng = np.random.default_rng(5)
    places = [[x, y, z] for x, y, z in itertools.product((0.0, 0.5), repeat=3)]
    atoms = Atoms([elements[k % len(elements)] for k in range(8)], scaled_positions=places, cell=[4.4, 4.6, 4.9], pbc=1)
    atoms.positions += rng.normal(0, 0.15, (8, 3))
    return atoms


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("by_number", [False, True])
def test_round_trip_gives_the_same_numbers(count: int, by_number: bool) -> None:
    elements = ELEMENTS[:count]
    eam = _eam(elements)
    layout = eam_to_layout(eam)
    n_pairs = count * (count + 1) // 2
    assert len(layout) == 5 * n_pairs + 3 * count
    assert {tuple(v.shape) for k, v in layout.items() if re.search(r"\.(A|beta)\.", k)} == {(10,)}
    assert {tuple(v.shape) for k, v in layout.items() if not re.search(r"\.(A|beta)\.", k)} == {(1,)}
    types = [{"Li": 3, "Mn": 25, "P": 15, "O": 8}[e] for e in elements] if by_number else elements
    again = eam_from_layout(layout, types, cutoff=5.0)
    batch = build_batch(_crystal(elements), 5.0, dtype=torch.float64)
    before, after = predict(eam, batch), predict(again, batch)
    for name in ("energy", "forces", "stress"):
        torch.testing.assert_close(getattr(after, name), getattr(before, name), rtol=0, atol=0)
    assert before.forces.abs().max() > 0.01
    assert before.stress.abs().max() > 1e-4


def test_pairs_are_numbered_as_released() -> None:
    eam = _eam(["Li", "Mn", "O"])
    layout = eam_to_layout(eam)
    order = [("Li", "Mn"), ("Li", "O"), ("Mn", "O"), ("Li", "Li"), ("Mn", "Mn"), ("O", "O")]
    r = torch.tensor([2.1], dtype=torch.float64)
    for number, (a, b) in enumerate(order):
        pair = Atoms([a, b], [[0, 0, 0], [float(r), 0, 0]])
        depth, alpha, rm = (layout[f"eam_params.param_dict.{name}.{number}"] for name in ("D", "alpha", "rm"))
        morse = depth * ((1 - torch.exp(-alpha * (r - rm))) ** 2 - 1)  # the switch is 1 here
        with torch.no_grad():
            eam.B.zero_()
            eam.base_atomic_energy.zero_()
        energy = eam(build_batch(pair, 5.0, dtype=torch.float64))
        torch.testing.assert_close(energy, morse)


def test_prefix_and_element_names_are_understood() -> None:
    eam = _eam(["Si", "O"])
    layout = eam_to_layout(eam)
    named = {}
    for key, value in layout.items():
        head, _, index = key.rpartition(".")
        if head.endswith(("B", "rho0", "base_atomic_energy")):
            index = ["Si", "8"][int(index)]
        named[f"module.{head}.{index}"] = value
    again = eam_from_layout(named, ["Si", "O"], cutoff=5.0)
    for name, value in eam.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


def test_dtype_is_kept_and_the_layout_is_a_copy() -> None:
    eam = _eam(["Si"], dtype=torch.float32)
    layout = eam_to_layout(eam)
    assert eam_from_layout(layout, ["Si"]).dtype == torch.float32
    layout["eam_params.param_dict.D.0"].zero_()
    assert float(eam.D.detach()) != 0


def test_a_core_is_refused_unless_dropped(tmp_path: Path) -> None:
    eam = _eam(["Si", "O"], core=True)
    with pytest.raises(CheckpointError, match=r"ZBL core and the layout of EAM_Interaction has none"):
        eam_to_layout(eam)
    with pytest.raises(CheckpointError, match="ZBL core"):
        write_matdeeplearn(eam, tmp_path / "x.pt")
    assert not (tmp_path / "x.pt").exists()
    again = eam_from_layout(eam_to_layout(eam, drop_core=True), ["Si", "O"], cutoff=5.0)
    assert again.core is None
    assert torch.equal(again.D, eam.D)


@pytest.mark.parametrize(
    ("types", "match"),
    [
        (["Si"], r"entries for 3 pairs .* but atom_types \['Si'\] has 1 pairs"),
        (["Si", "O", "H"], "but atom_types .* has 6 pairs"),
        (["Si", "Sx"], "'Sx' is neither a chemical symbol nor an atomic number"),
        (["Si", 0], "0 is neither"),
        (["Si", "Si"], "elements must be distinct"),
    ],
)
def test_wrong_elements(types: list, match: str) -> None:
    with pytest.raises((CheckpointError, ConfigError), match=match):
        eam_from_layout(eam_to_layout(_eam(["Si", "O"])), types)


def test_nobelium_survives_yaml() -> None:
    assert symbols_of(yaml.safe_load("[No, Si, 8]")) == ["No", "Si", "O"]


def test_damaged_layouts() -> None:
    layout = eam_to_layout(_eam(["Si", "O"]))
    short = {**layout, "eam_params.param_dict.A.1": torch.ones(9)}
    with pytest.raises(CheckpointError, match=r"lengths \[9, 10\]"):
        eam_from_layout(short, ["Si", "O"])
    with pytest.raises(CheckpointError, match=r"D\.0 has 2 values, expected 1"):
        eam_from_layout({**layout, "eam_params.param_dict.D.0": torch.ones(2)}, ["Si", "O"])
    with pytest.raises(CheckpointError, match=r"unknown entries lin_out\.weight"):
        eam_from_layout({**layout, "lin_out.weight": torch.ones(1)}, ["Si", "O"])
    without = {k: v for k, v in layout.items() if ".rho0." not in k}
    with pytest.raises(CheckpointError, match=r"rho0 has entries for 0 elements"):
        eam_from_layout(without, ["Si", "O"])
    with pytest.raises(CheckpointError, match=r"no entries eam_params\.param_dict\.A"):
        eam_from_layout({}, ["Si", "O"])


def test_through_files(tmp_path: Path) -> None:
    eam = _eam(["Si", "O"], dtype=torch.float32)
    eam.save(tmp_path / "native.pt")
    result = convert(tmp_path / "native.pt", tmp_path / "host.pt")
    assert (result.source_kind, result.target_kind) == ("native", "matdeeplearn")
    assert detect(tmp_path / "host.pt") == "matdeeplearn"
    back = convert(tmp_path / "host.pt", tmp_path / "back.pt")
    assert back.config == tmp_path / "host.yml"
    again = load_model(tmp_path / "back.pt", expect="eam")
    batch = build_batch(_crystal(["Si", "O"]), 5.0)
    assert torch.equal(predict(eam, batch).forces, predict(again, batch).forces)
    assert again.cutoff == 5.0
    limited = yaml.safe_load((tmp_path / "host.yml").read_text())
    limited["dataset"]["preprocess_params"]["n_neighbors"] = 250
    notes = read_checkpoint_of(tmp_path / "host.pt", config=limited).metadata["converted"]["notes"]
    assert any("keeps the 250 nearest neighbours" in note for note in notes)


def test_elements_may_be_given_when_the_yaml_has_none(tmp_path: Path) -> None:
    eam = _eam(["Si", "O"], dtype=torch.float32)
    write_matdeeplearn(eam, tmp_path / "host.pt")
    content = yaml.safe_load((tmp_path / "host.yml").read_text())
    del content["model"]["atom_types"]
    with pytest.raises(ConfigError, match="no atom_types"):
        read_matdeeplearn(tmp_path / "host.pt", content)
    again = read_matdeeplearn(tmp_path / "host.pt", content, elements=["Si", "O"])
    assert torch.equal(again.state_dict()["rm"], eam.rm)


def test_start_modes_of_the_authors(tmp_path: Path) -> None:
    from mdl_physpretrain.hosts.matdeeplearn.eam_start import PARAMETERS, starting_eam

    radii = starting_eam(["Si", "O"], cutoff=6.0, init_mode="covalent_radius", init_args={"scale": 0.5})
    assert radii.rm.tolist() == pytest.approx([0.5 * (1.16 + 0.63), 1.16, 0.63])  # pairs first, then self pairs
    assert all(bool((getattr(radii, n) == 1).all()) for n in PARAMETERS if n != "rm")
    constant = starting_eam(["Si", "O"], cutoff=6.0, init_mode="constant", init_args={"constant_value": 0.25})
    assert all(bool((getattr(constant, n) == 0.25).all()) for n in PARAMETERS)
    args = {"O-Si": {"rm": 1.6, "A": 0.5}, "O": {"B": 0.1}}
    custom = starting_eam(["Si", "O"], cutoff=6.0, n_basis=2, init_mode="custom", init_args=args)
    assert custom.rm.tolist() == pytest.approx([1.6, 1.0, 1.0])
    assert custom.A[0].tolist() == [0.5, 0.5]
    assert custom.B.tolist() == pytest.approx([1.0, 0.1])
    for mode, wrong, message in (
        ("custom", {"Si-O": {"B": 1.0}}, "takes values of"),
        ("custom", {"Mn": {"B": 1.0}}, "no element or pair"),
        ("custom", {"Si": {"B": "much"}}, "must be a number"),
        ("covalent_radius", {"scal": 1.0}, "has no scal"),
        ("zeros", {}, "init_mode must be"),
    ):
        with pytest.raises(ConfigError, match=message):
            starting_eam(["Si", "O"], cutoff=6.0, init_mode=mode, init_args=wrong)
