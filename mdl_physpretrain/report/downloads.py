"""Tables on their way to files and into the page, so that both can be downloaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from mdl_physpretrain.report.tables import save_table

__all__ = ["Downloads", "script_json"]

MAX_EMBEDDED = 400_000  # characters of one table; larger ones are only in tables/


class Downloads:
    """Writes ``<folder>/<name>.csv`` and ``.json`` and remembers each table for the page.

    Parameters
    ----------
    folder
        Exists.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.embedded: dict[str, Any] = {}

    def save(self, frame: pd.DataFrame, name: str, *, decimals: int = 10) -> None:
        """Write a table, and embed it with so many decimals; nothing happens with an empty one."""
        if not len(frame):
            return
        save_table(frame, self.folder, name)
        text = frame.reset_index(drop=True).to_json(
            orient="split", index=False, double_precision=decimals, force_ascii=False
        )
        if text is not None and len(text) <= MAX_EMBEDDED:
            self.embedded[name] = json.loads(text)


def script_json(value: Any) -> Markup:
    """JSON that can stand in a ``<script>`` element, whatever the strings in it hold."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":  # only strings hold these
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)
