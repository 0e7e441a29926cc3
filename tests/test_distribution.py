"""The source distribution holds every tracked file, the wheel all of the package; the description stands alone."""

from __future__ import annotations

import email
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("setuptools", minversion="77")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a clone")
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    for kind in ("sdist", "wheel"):
        code = f"from setuptools import build_meta; build_meta.build_{kind}({str(out)!r})"
        subprocess.run([sys.executable, "-c", code], cwd=copy, check=True, capture_output=True)
    return out


@pytest.fixture(scope="module")
def sdist(archives: Path) -> tarfile.TarFile:
    (file,) = archives.glob("*.tar.gz")
    return tarfile.open(file)


@pytest.fixture(scope="module")
def wheel(archives: Path) -> zipfile.ZipFile:
    (file,) = archives.glob("*.whl")
    return zipfile.ZipFile(file)


def test_every_tracked_file_is_in_it(sdist: tarfile.TarFile) -> None:
    names = {name.partition("/")[2] for name in sdist.getnames()}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    missing = [name for name in tracked.splitlines() if name not in names and (ROOT / name).is_file()]
    assert not missing
    assert not [name for name in names if name.endswith((".pyc", ".nbc", ".nbi"))]


def test_its_description_needs_no_other_file(sdist: tarfile.TarFile) -> None:
    member = next(m for m in sdist.getmembers() if m.name.count("/") == 1 and m.name.endswith("/PKG-INFO"))
    description = email.message_from_bytes(sdist.extractfile(member).read()).get_payload()
    assert "mdl-physpretrain" in description.lower() or "physpretrain" in description
    assert not re.findall(r"\]\((?!https?://|#)[^)]*\)", description)


def test_the_wheel_is_the_package_with_its_data(wheel: zipfile.ZipFile) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "mdl_physpretrain"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    wanted = {name for name in tracked.stdout.splitlines() if (ROOT / name).is_file()}
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == wanted


def test_the_wheel_has_the_entry_points(wheel: zipfile.ZipFile) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (name,) = (n for n in wheel.namelist() if n.endswith(".dist-info/entry_points.txt"))
    packed = ConfigParser()
    packed.read_string(wheel.read(name).decode())
    expected = {"console_scripts": project["scripts"], **project["entry-points"]}
    assert {section: dict(packed[section]) for section in packed.sections()} == expected


def test_all_files_say_the_same_version(wheel: zipfile.ZipFile) -> None:
    (name,) = (n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
    metadata = email.message_from_bytes(wheel.read(name))
    version = metadata["Version"]
    texts = {n: (ROOT / n).read_text(encoding="utf-8") for n in ("conda/meta.yaml", "CITATION.cff", "CHANGELOG.md")}
    assert f'set version = "{version}"' in texts["conda/meta.yaml"]
    assert f"\nversion: {version}\n" in texts["CITATION.cff"]
    assert re.search(r"^## \[(.*?)\]", texts["CHANGELOG.md"], re.MULTILINE)[1] == version


def test_conda_wants_what_pip_wants(wheel: zipfile.ZipFile) -> None:
    """With the names of conda-forge."""
    names = {"torch": "pytorch", "matplotlib": "matplotlib-base"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = {"python" + project["requires-python"]}
    for requirement in project["dependencies"]:
        name, bounds = re.fullmatch(r"([\w-]+)(.*)", requirement).groups()
        wanted.add(names.get(name, name) + bounds)
    recipe = (ROOT / "conda/meta.yaml").read_text(encoding="utf-8")
    run = recipe[recipe.index("  run:") : recipe.index("test:")]
    assert {line.strip(" -").replace(" ", "") for line in run.splitlines()[1:]} == wanted
