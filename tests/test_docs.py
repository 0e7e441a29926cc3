"""The documentation site: every page is in its navigation, options and commands are there, links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
GENERATED = {"reference/options.md", "reference/commands.md", "contributing.md", "changelog.md"}


def _anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+\s+(.*)$", text, flags=re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", t)).strip().lower() for t in titles]
    return {re.sub(r"[ ]+", "-", title) for title in plain}


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    pages |= {path.relative_to(DOCS).with_suffix(".md").as_posix() for path in DOCS.rglob("*.ipynb")}
    named = set(re.findall(r"[\w\-/]+\.md", text[text.index("\nnav:") :]))
    assert pages | GENERATED == named


def test_links_of_pages_and_readme_lead_somewhere():
    """As GitHub shows them: to files of the repository, not to pages that only the built site has."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.rglob("*.md")]
    wrong = []
    for page in pages:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for match in LINK.finditer(text):
            url = match[1] or match[2]
            if re.match(r"[a-z]+:", url):
                continue
            name, _, anchor = url.partition("#")
            target = (page.parent / name).resolve() if name else page
            if not target.exists():
                wrong.append(f"{page.relative_to(ROOT)}: {url}")
            elif anchor and target.suffix == ".md" and anchor not in _anchors(target.read_text(encoding="utf-8")):
                wrong.append(f"{page.relative_to(ROOT)}: no heading for {url}")
    assert not wrong


def test_site_is_built_without_warnings(tmp_path):
    pytest.importorskip("mkdocstrings", reason="pip install -e '.[docs]'")
    pytest.importorskip("material", reason="pip install -e '.[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    options = (tmp_path / "site" / "reference" / "options.html").read_text(encoding="utf-8")
    assert "augment.thermal_factor" in options
    assert "first_verdict" in options
    checked = [sys.executable, "scripts/check_site.py", str(tmp_path / "site")]
    result = subprocess.run(checked, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout
