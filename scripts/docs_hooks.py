"""Hooks of mkdocs: reference pages from the code, notebooks as pages, files of the repository named."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer
from mkdocs.structure.files import File, Files

from mdl_physpretrain.cli import app
from mdl_physpretrain.workflow.config_files import schema_rows

ROOT = Path(__file__).resolve().parents[1]
#: Pages of the site for what the links of the repository lead to.
PAGES = {"configs/kitchen-sink.yaml": "reference/options.md", "mdl_physpretrain/cli": "reference/commands.md"}
ROLE = re.compile(r":(?:func|class|mod|meth|attr|data|obj):<code>~?([^<]+)</code>")


def on_files(files: Files, config: Any) -> Files:
    """Add what is generated, and show notebooks as Markdown."""
    pages = {
        "reference/options.md": options_page(),
        "reference/commands.md": commands_page(),
        "contributing.md": (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").replace("](docs/", "]("),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").replace("](docs/", "]("),
    }
    for file in list(files):
        if file.src_uri.endswith(".ipynb"):
            text = notebook_page(Path(file.abs_src_path))
            files.remove(file)
            files.append(File.generated(config, file.src_uri.removesuffix(".ipynb") + ".md", content=text))
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links that lead somewhere on GitHub lead to pages of the site: notebooks, the options, the commands.

    Other files outside ``docs/`` are named instead of linked: the site also works without the repository.
    """
    inside = Path(page.file.src_uri).parent
    markdown = markdown.replace(".ipynb)", ".md)")
    to_pages = "../" * len(inside.parts)

    def outside(match: re.Match[str]) -> str:
        path = (ROOT / "docs" / inside / match[2]).resolve()
        if path.is_relative_to(ROOT / "docs") or not path.exists():
            return match[0]  # mkdocs judges it
        name = path.relative_to(ROOT).as_posix()
        if name in PAGES:
            return f"[{match[1]}]({to_pages}{PAGES[name]})"
        return f"`{name}`" if match[1].strip("`") in name else f"{match[1]} (`{name}`)"

    return re.sub(r"(?<!!)\[([^\]]+)\]\((\.\./[^)#\s]+)\)", outside, markdown)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Docstring roles such as ``:func:`x``` are shown as code."""
    return ROLE.sub(lambda m: f"<code>{m[1]}</code>", html)


def options_page() -> str:
    """Every option of a run's YAML file, a table per section."""
    lines = [
        "# Options of a run",
        "",
        "Every key of the YAML file that `physpretrain run` reads: type, default, meaning. Units: eV, Å, fs, K; stress",
        "in eV/Å³, ASE's sign. Generated from the code, as `configs/kitchen-sink.yaml` and `physpretrain config` are.",
    ]
    section = None
    for key, kind, default, meaning in schema_rows():
        place = key.rpartition(".")[0]
        if place != section:
            section = place
            lines += ["", f"## {place or 'Top level'}".replace("<", "&lt;"), "", "| key | type | default | meaning |"]
            lines.append("|---|---|---|---|")
        cells = (f"`{key}`", kind, f"`{default}`", meaning.replace("<", "&lt;"))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def commands_page() -> str:
    """Every command with its arguments and options."""
    lines = [
        "# Commands",
        "",
        "`physpretrain COMMAND --help` says the same. `physpretrain --debug COMMAND` shows the whole",
    ]
    lines += ["traceback of an error.", ""]
    group: Any = typer.main.get_command(app)
    for name, command in sorted(group.commands.items()):
        lines += [f"## {name}", "", _plain(command.help), "", "```text", _usage(name, command), "```", ""]
        rows = list(_parameters(command))
        if rows:
            lines += ["| | meaning | default |", "|---|---|---|", *rows, ""]
    return "\n".join(lines)


def notebook_page(path: Path) -> str:
    """A notebook as Markdown: its texts, its code, and the outputs that are stored in it."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    parts = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        for output in cell.get("outputs", []):
            parts += _output(output)
    file = f"docs/{path.relative_to(ROOT / 'docs').as_posix()}"
    own = notebook["metadata"].get("physpretrain", {})
    note = f"This page is the notebook `{file}`; the tests run it."
    if "cpu_seconds" in own:
        note += f" The outputs are those of one run, which took {own['cpu_seconds']} s of CPU time."
    return "\n\n".join([parts[0], f"*{note}*", *parts[1:]]) + "\n"


def _output(output: dict[str, Any]) -> Iterator[str]:
    data = {kind: "".join(content) for kind, content in output.get("data", {}).items()}
    if "image/png" in data:
        source = f"data:image/png;base64,{data['image/png'].strip()}"
        yield f'<img class="figure" alt="What the code above draws" src="{source}">'
    elif "text/html" in data:
        yield f'<div class="output">{data["text/html"]}</div>'
    else:
        text = "".join(output.get("text", data.get("text/plain", "")))
        if text:
            yield f"``` {{ .text .output }}\n{text.rstrip()}\n```"


def _plain(text: str | None) -> str:
    return re.sub(r"\n(?!\n)\s*", " ", (text or "").strip())


def _usage(name: str, command: Any) -> str:
    words = [f"physpretrain {name}"]
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            word = (parameter.name or "").upper() + ("..." if parameter.nargs == -1 else "")
            words.append(word if parameter.required else f"[{word}]")
    return " ".join([*words, "[OPTIONS]"])


def _parameters(command: Any) -> Iterator[str]:
    for parameter in command.params:
        if getattr(parameter, "hidden", False):
            continue
        is_option = parameter.param_type_name == "option"
        name = ", ".join(parameter.opts) if is_option else (parameter.name or "").upper()
        default = parameter.default
        shown = "" if default in (None, False, ()) or callable(default) or parameter.required else f"`{default}`"
        meaning = _plain(getattr(parameter, "help", None)).replace("|", "\\|").replace("<", "&lt;")
        yield f"| `{name}` | {meaning} | {shown} |"
