"""Tables of the page as files and as downloads inside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

__all__ = ["Downloads", "script_json"]

MAX_EMBEDDED = 400_000  # characters of one table; larger ones are only in tables/


class Downloads:
    """Writes ``<folder>/<name>.csv`` and ``.json``, and keeps each table for the page."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.embedded: dict[str, Any] = {}
        self.files: list[str] = []

    def save(self, frame: pd.DataFrame, name: str, *, decimals: int = 10) -> pd.DataFrame:
        """Write a table, embed it with so many decimals, and return it; nothing is written of an empty one."""
        if len(frame):
            self.files += [f"{name}.csv", f"{name}.json"]
            frame.to_csv(self.folder / f"{name}.csv", index=False)
            json_file = self.folder / f"{name}.json"  # a list of records, null for what is missing
            frame.to_json(json_file, orient="records", indent=1, force_ascii=False, double_precision=15)
            plain = frame.reset_index(drop=True)
            text = plain.to_json(orient="split", index=False, double_precision=decimals, force_ascii=False)
            if len(text) <= MAX_EMBEDDED:
                self.embedded[name] = json.loads(text)
        return frame


def script_json(value: Any) -> Markup:
    """JSON that can stand in a ``<script>`` element, whatever the strings in it hold."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":  # only strings hold these
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
