"""Run the paper's comparisons and write their tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mdl_physpretrain.errors import PhysPretrainError
from mdl_physpretrain.ownership import claim_folder
from mdl_physpretrain.reproduction.claim import claims
from mdl_physpretrain.reproduction.configuration import BACKBONES, SYSTEMS, configuration
from mdl_physpretrain.reproduction.page import markdown
from mdl_physpretrain.reproduction.tables import accuracy, overhead, stability
from mdl_physpretrain.workflow.config import RunConfig
from mdl_physpretrain.workflow.dependencies import input_files
from mdl_physpretrain.workflow.folder import preflight
from mdl_physpretrain.workflow.run import run_pipeline

__all__ = ["reproduce", "write_tables"]


def reproduce(
    systems: Sequence[str],
    backbones: Sequence[str] = BACKBONES,
    *,
    scale: str = "small",
    data: Sequence[str] | None = None,
    output: str | Path = "reproduced",
    overrides: Sequence[str] = (),
    jobs: int = 1,
    progress: bool = False,
    listener: Callable[..., None] | None = None,
    started: Callable[[RunConfig, Path], None] | None = None,
) -> dict[str, Path]:
    """Measure rows of the paper's tables.

    Every system and backbone is a run of its own
    (``<output>/<scale>/<system>-<backbone>``, with its report); the same call
    goes on after an interruption. The tables are written after each.

    Parameters
    ----------
    systems, backbones, scale, data, overrides
        See :func:`mdl_physpretrain.reproduction.configuration.configuration`.
    output
        Folder.
    jobs, progress, listener
        See :func:`mdl_physpretrain.workflow.run.run_pipeline`.
    started
        Called with the configuration and folder of each run.

    Returns
    -------
    dict
        Paths of ``tables.md`` and of the CSV files, by name.

    Raises
    ------
    PhysPretrainError
        As the runs do; what is wrong with a configuration is told before the first one starts.
    """
    root = Path(output) / scale
    todo = {
        (system, backbone): configuration(system, backbone, scale, data=data, overrides=overrides)
        for system in systems
        for backbone in backbones
    }
    for (system, backbone), config in todo.items():
        preflight(config)
        claim_folder(root / f"{system}-{backbone}", "run", inputs=input_files(config))
    written: dict[str, Path] = {}
    for (system, backbone), config in todo.items():
        folder = root / f"{system}-{backbone}"
        if started is not None:
            started(config, folder)
        run_pipeline(config, output=folder, jobs=jobs, progress=progress, listener=listener)
        written = write_tables(root)
    return written


def write_tables(root: str | Path) -> dict[str, Path]:
    """CSV files and ``tables.md`` of all finished runs of ``<output>/<scale>``.

    Raises PhysPretrainError without results.
    """
    root = Path(root)
    runs = _finished(root)
    if not runs:
        raise PhysPretrainError(f"no finished runs in {root}")
    tables: Mapping[str, Any] = {
        "stability": stability(runs),
        "accuracy": accuracy(runs),
        "claims": claims(runs),
        "overhead": overhead(runs),
    }
    files = {}
    try:
        for name, table in tables.items():
            files[name] = root / f"{name}.csv"
            table.to_csv(files[name], index=False)
        files["tables"] = root / "tables.md"
        files["tables"].write_text(markdown(tables, root.name), encoding="utf-8")
    except OSError as error:
        raise PhysPretrainError(f"cannot write into {root}: {error}") from error
    return files


def _finished(root: Path) -> dict[tuple[str, str], Path]:
    names = [(s, b) for s in SYSTEMS for b in BACKBONES]
    folders = {(s, b): root / f"{s}-{b}" for s, b in names}
    return {key: folder for key, folder in folders.items() if (folder / "physicality.csv").is_file()}
