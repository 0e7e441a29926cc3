"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("NUMBA_NUM_THREADS", "2")  # on one core, too: kernels are tested on two threads

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from labelled_cells import rocksalt_cells

torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also the tests that take most of a minute each")


#: Files with few tests of tens of seconds: begun first, or one process would be left with them at the end.
FIRST = (
    "workflow/test_kill_and_resume.py", "workflow/test_end_to_end.py", "potentials/test_contract.py",
    "test_on_an_accelerator.py", "stability/test_judge_suite.py", "training/test_train.py", "workflow/test_check.py",
)  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config.option, "loadscopereorder"):  # pytest-xdist would begin with the files of many tests
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(os.path.relpath(item.path, Path(__file__).parent), len(FIRST)))
    if not config.getoption("--long"):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="takes most of a minute: pytest --long"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real DFT data; the test is skipped where it is absent."""
    folder = Path(os.environ.get("PHYSPRETRAIN_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not (folder / "lmo_train.extxyz").is_file():
        pytest.skip(f"real DFT data not found in {folder} (set PHYSPRETRAIN_SHARED_DATA)")
    return folder


@pytest.fixture
def rocksalt() -> list[Atoms]:
    """Eight rattled, labelled MgO cells of 8 atoms."""
    return rocksalt_cells()


@pytest.fixture
def zoo() -> dict[str, Atoms]:
    """Unusual structures: molecule, slab, chain, triclinic, one atom, tiny cell."""
    rng = np.random.default_rng(11)
    triclinic = Atoms(
        "SiOMgAl", rng.uniform(0, 4, (4, 3)), cell=[[5.0, 0, 0], [1.3, 4.8, 0], [-0.9, 0.7, 5.3]], pbc=True
    )
    triclinic.positions[:] = triclinic.cell.cartesian_positions(
        [[0.02, 0.1, 0.05], [0.4, 0.35, 0.3], [0.1, 0.6, 0.62], [0.7, 0.8, 0.15]]
    )
    slab = bulk("MgO", "rocksalt", a=4.2, cubic=True)
    slab.pbc = (True, True, False)
    return {
        "molecule": Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0.1]]),
        "slab": slab,
        "chain": Atoms("Si2", [[0, 0, 0], [2.2, 0.3, 0]], cell=[4.6, 0, 0], pbc=(True, False, False)),
        "triclinic": triclinic,
        "one_atom": bulk("Al", "fcc", a=4.05),
        "tiny": bulk("Si", "diamond", a=5.43),
    }
