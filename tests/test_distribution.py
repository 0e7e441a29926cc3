"""The source distribution holds every tracked file, and its description stands alone."""

from __future__ import annotations

import email
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> tarfile.TarFile:
    pytest.importorskip("setuptools", minversion="77")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a clone")
    copy, out = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("dist")
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(out)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=copy, check=True, capture_output=True)
    (file,) = out.iterdir()
    return tarfile.open(file)


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
