"""Importing a host does not take digits from the products of the whole process."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch

from mdl_physpretrain.hosts.product_precision import precision_kept


@pytest.fixture(autouse=True)
def _precision() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def a_host(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that asks for fewer digits when it is imported."""
    (folder / f"{name}.py").write_text("import torch\ntorch.set_float32_matmul_precision('medium')\n")
    monkeypatch.syspath_prepend(folder)


def test_precision_is_that_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_host("careless_host", tmp_path, monkeypatch)
    torch.set_float32_matmul_precision("high")  # somebody's choice
    with precision_kept("careless_host"):
        import_module("careless_host")
        assert torch.get_float32_matmul_precision() == "medium"
    assert torch.get_float32_matmul_precision() == "high"
    torch.set_float32_matmul_precision("medium")  # a choice after the import
    with precision_kept("careless_host"):
        pass
    assert torch.get_float32_matmul_precision() == "medium"


def test_of_a_host_that_was_imported_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a_host("early_host", tmp_path, monkeypatch)
    import_module("early_host")
    with precision_kept("early_host"):
        pass
    assert torch.get_float32_matmul_precision() == "highest"


def test_modules_that_are_imported_later_change_nothing_either(tmp_path: Path, monkeypatch) -> None:
    for name in ("lazy_host", "lazy_part"):
        a_host(name, tmp_path, monkeypatch)
    for name in ("lazy_host", "lazy_part"):
        with precision_kept("lazy_host"):
            import_module(name)
        assert torch.get_float32_matmul_precision() == "highest"


@pytest.mark.hosts
@pytest.mark.parametrize("host", ["matdeeplearn", "mattertune"])
def test_of_the_hosts(host: str) -> None:
    pytest.importorskip(host, reason=f"{host} is not installed")
    import_module(f"mdl_physpretrain.hosts.{host}.host").require_host()
    a, b = torch.randn(2, 64, 64)
    error = (a @ b).double() - a.double() @ b.double()
    assert float(error.abs().max()) < 1e-4
