"""Every kind of native teacher is fitted, the best is kept."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.structures import get_labels, set_labels
from mdl_physpretrain.structures.labels import Labels
from mdl_physpretrain.teacher.kinds.auto import best_teacher
from mdl_physpretrain.teacher.registry import kind_modules, kind_of, kind_potentials
from mdl_physpretrain.workflow.config_files import build_config


def copper(count: int, *, sizes: bool = False) -> list[Atoms]:
    frames = []
    for k in range(count):
        atoms = bulk("Cu", cubic=True) * (1, 1, 1 + (k if sizes else 0))
        atoms.rattle(0.08, seed=k)
        atoms.calc = EMT()
        atoms.info["structure_id"] = f"cu{k}"
        atoms.get_forces()
        frames.append(atoms)
    return frames


def test_the_smallest_error_of_changes_labels() -> None:
    teacher = best_teacher(copper(8))
    rows = {row["teacher"]: row for row in teacher.metadata["comparison"]}
    assert set(rows) == {"eam", "classical"}
    assert [name for name, row in rows.items() if row["chosen"]] == [kind_of(teacher).name]  # type: ignore[union-attr]
    allowed = {name: row["error"] for name, row in rows.items() if row["passed"]}
    assert min(allowed, key=allowed.__getitem__) == kind_of(teacher).name  # type: ignore[union-attr]
    assert all("pairs of frames" in row["of"] for row in rows.values())
    assert all(row["trivial"] > 0 and np.isfinite(row["error"]) for row in rows.values())


def test_without_two_frames_of_the_same_atoms_forces_decide() -> None:
    rows = best_teacher(copper(3, sizes=True), candidates=["classical"]).metadata["comparison"]
    assert [row["of"] for row in rows] == ["forces of 3 structures"]


def test_where_no_force_changes_between_frames_forces_decide() -> None:
    """Strained crystals are frames of the same atoms, and their forces are zero for every teacher."""
    strained = []
    for k in range(6):
        atoms = bulk("Cu", cubic=True)
        atoms.set_cell(atoms.cell * (0.97 + 0.01 * k), scale_atoms=True)
        atoms.calc = EMT()
        atoms.info["structure_id"] = f"strained{k}"
        atoms.get_forces()
        strained.append(atoms)
    (row,) = best_teacher([*copper(3, sizes=True)[1:], *strained], candidates=["classical"]).metadata["comparison"]
    assert row["of"] == "forces of 8 structures"
    assert row["trivial"] > 0.01


def test_structures_without_forces() -> None:
    """Those that have none are left out of the comparison; where none has any, energies decide and no kind that needs
    forces is a candidate, with its reason."""
    bare = []
    for atoms in copper(8):
        labels = get_labels(atoms)
        bare.append(set_labels(atoms.copy(), Labels(labels.energy, None, None)))
    rows = best_teacher([*copper(8)[:6], *bare[6:]], candidates=["eam"]).metadata["comparison"]
    assert "pairs of frames" in rows[0]["of"]
    assert np.isfinite(rows[0]["error"])
    with pytest.warns(UserWarning, match="'classical' cannot be fitted: .*no structure has forces to fit to"):
        rows = best_teacher(bare).metadata["comparison"]
    assert [(row["teacher"], row["of"]) for row in rows] == [("eam", "energies of 8 structures")]
    with pytest.raises(ConfigError, match=r"no native teacher can be fitted .*\(classical: .*no structure has forces"):
        best_teacher(bare, candidates=["classical"])


def test_unknown_and_no_candidates() -> None:
    with pytest.raises(ConfigError, match=r"candidates.*did you mean 'eam'"):
        best_teacher(copper(2), candidates=["aem"])
    with pytest.raises(ConfigError, match="no kind to choose from"):
        best_teacher(copper(2), candidates=[])


def test_all_kinds_count_in_a_cache() -> None:
    assert set(kind_potentials("auto")) == {"eam", "classical"}
    assert set(kind_modules("eam")) | set(kind_modules("classical")) <= set(kind_modules("auto"))


def test_a_hybrid_needs_the_eam() -> None:
    config = build_config(
        {
            "data": {"source": "demo"},
            "teacher": {"kind": "auto"},
            "arms": {"sum": {"pretrain": False, "hybrid": "joint"}},
        }
    )
    assert config.teacher.kind == "eam"


def test_the_default_gives_its_arms_unless_there_are_others() -> None:
    content = {"data": {"source": "demo"}, "md": {"temperature": 700.0}}
    config = build_config(content)
    assert config.teacher.kind == "auto"
    assert (config.augmentation.thermal, config.augment.coverage, config.augment.n_aug) == (700.0, 5, 0)
    assert [config.replay_of(name) for name in config.arms] == [0.0, 0.3]
    assert list(build_config({**content, "arms": {"mine": {}}}).arms) == ["mine"]
    assert build_config({**content, "teacher": {"cutoff": 5.0}}).teacher.kind == "eam", "options of the EAM's fit"
    disordered = build_config({**content, "augment": {"thermal_amplitude": 0.1}}).augment
    assert (disordered.thermal, disordered.thermal_amplitude) == (None, 0.1)
