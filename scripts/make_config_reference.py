"""Write configs/kitchen-sink.yaml, every option with default, type and meaning, from the schema.

Usage: python scripts/make_config_reference.py
"""

from __future__ import annotations

from pathlib import Path

from mdl_physpretrain.workflow.config_files import schema_rows

HEAD = """\
# Every option with its default, unit and meaning (written by scripts/make_config_reference.py).
# Copy what you need: a small configuration is a good configuration.
"""
COLUMN = 34


def main() -> None:
    lines, open_sections = [HEAD], ()
    for key, kind, default, description in schema_rows():
        *sections, name = key.replace("<name>", "pretrained").split(".")
        for depth, section in enumerate(sections):
            if tuple(sections[: depth + 1]) != open_sections[: depth + 1]:
                lines.append(("\n" if depth == 0 else "") + "  " * depth + f"{section}:")
        open_sections = tuple(sections)
        value = "[demo]" if key == "data.source" else default
        lines.append(("  " * len(sections) + f"{name}: {value}").ljust(COLUMN - 1) + f" # {kind}. {description}")
    path = Path(__file__).parents[1] / "configs" / "kitchen-sink.yaml"
    path.write_text("\n".join(lines) + "\n")
    print(path)


if __name__ == "__main__":
    main()
