"""``python -m mdl_physpretrain`` is ``physpretrain``."""

from mdl_physpretrain.cli import app

if __name__ == "__main__":
    app(prog_name="physpretrain")
