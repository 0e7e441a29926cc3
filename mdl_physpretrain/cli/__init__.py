"""The command ``physpretrain``: each module registers its commands; nothing heavy is imported before one runs."""

from mdl_physpretrain.cli import (
    align,
    check,
    convert,
    evaluate,
    export,
    mattertune,
    md,
    mdl,
    reproduce,
    runs,
    steps,
    survey,
    training,
)  # fmt: skip
from mdl_physpretrain.cli.application import app

__all__ = [
    "align", "app", "check", "convert", "evaluate", "export", "mattertune", "md", "mdl", "reproduce", "runs", "steps",
    "survey", "training",
]  # fmt: skip
