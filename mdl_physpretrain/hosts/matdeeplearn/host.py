"""Detection of MatDeepLearn, its version and its ``main.py``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from mdl_physpretrain.errors import ConfigError, PhysPretrainError
from mdl_physpretrain.hosts.product_precision import precision_kept

__all__ = ["errors_in_one_line", "main_script", "quiet_loggers", "require_host", "root_logger_kept"]

#: Packages of ours that write DEBUG messages (numba: one line per instruction it compiles).
TALKATIVE = (
    "numba", "matplotlib", "PIL", "fontTools", "h5py", "asyncio", "urllib3", "filelock", "fsspec", "lightning",
    "lightning.pytorch", "lightning_utilities", "pytorch_lightning", "torch._dynamo", "torch._inductor", "joblib",
)  # fmt: skip
TESTED = "commit 23f5141 (March 2024)"

#: What the plugin builds on: module, class or object, attributes.
NEEDED: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("common.registry", "registry", ("register_model", "register_trainer", "register_loss", "register_transform")),
    ("common.data", "get_dataloader", ()),
    ("common.data", "get_otf_transforms", ()),
    ("common.ase_utils", "MDLCalculator", ("calculate",)),
    ("models.base_model", "BaseModel", ("generate_graph",)),
    ("models.cgcnn", "CGCNN", ("_forward", "forward")),
    ("models.torchmd_etEarly", "TorchMD_ET_Early", ("_forward", "forward")),
    ("preprocessor.processor", "from_config", ()),
    ("preprocessor.processor", "DataProcessor", ("process",)),
    (
        "trainers.property_trainer",
        "PropertyTrainer",
        (
            "from_config", "train", "validate", "predict", "load_checkpoint", "load_pre_trained_weights",
            "_forward", "_compute_loss", "_backward", "_scheduler_step", "_load_optimizer", "_load_scheduler",
        ),
    ),
)  # fmt: skip


def require_host() -> None:
    """Check that MatDeepLearn can be imported and has what the plugin uses; products stay as precise as they are.

    Raises
    ------
    ConfigError
        If it is missing, does not import, or lacks an attribute, which is named.
    """
    imported = precision_kept("matdeeplearn")
    try:
        import_module("matdeeplearn")
    except ImportError as error:
        raise ConfigError(
            "MatDeepLearn is not installed in this environment (it is not on PyPI): "
            "git clone https://github.com/Fung-Lab/MatDeepLearn_dev and pip install -e it"
        ) from error
    with root_logger_kept(), imported:
        _check()


def _check() -> None:
    for module, name, attributes in NEEDED:
        try:
            needed = getattr(import_module(f"matdeeplearn.{module}"), name)
        except ImportError as error:
            raise ConfigError(f"MatDeepLearn does not import: matdeeplearn.{module}: {error}") from error
        except AttributeError:
            raise _incompatible(f"matdeeplearn.{module}.{name}") from None
        for attribute in attributes:
            if not hasattr(needed, attribute):
                raise _incompatible(f"matdeeplearn.{module}.{name}.{attribute}")


@contextmanager
def root_logger_kept() -> Iterator[None]:
    """Importing MatDeepLearn's calculator configures the root logger: every message would come twice."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def _incompatible(name: str) -> ConfigError:
    return ConfigError(
        f"this MatDeepLearn is too old or incompatible: it has no {name} (the plugin was written for {TESTED})"
    )


def errors_in_one_line() -> None:
    """Under MatDeepLearn's bare ``main.py`` end with the message of an error of ours instead of a traceback."""
    script = getattr(sys.modules["__main__"], "__file__", None) or ""
    if Path(script).name == "main.py" and sys.excepthook is not _excepthook:
        _excepthook.before = sys.excepthook  # type: ignore[attr-defined]
        sys.excepthook = _excepthook


def _excepthook(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    if isinstance(error, PhysPretrainError):
        print(f"error: {error}", file=sys.stderr)
    else:
        _excepthook.before(kind, error, trace)  # type: ignore[attr-defined]


def quiet_loggers() -> None:
    """Keep our dependencies' DEBUG messages out of MatDeepLearn's log: it sets the root logger to DEBUG."""
    for name in TALKATIVE:
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.WARNING)


def main_script(location: str | Path | None = None) -> Path:
    """MatDeepLearn's ``scripts/main.py`` (or ``main.py``) at or in ``location``, or beside the imported package.

    Raises ConfigError if there is none: a normal (not editable) installation leaves it out.
    """
    if location is None:
        package = import_module("matdeeplearn")
        roots = [Path(p).resolve().parent for p in package.__path__] + [Path.cwd()]
    else:
        roots = [Path(location)]
        if roots[0].is_file():
            return roots[0]
    for root in roots:
        for name in ("scripts/main.py", "main.py"):
            if (root / name).is_file() and "matdeeplearn" in (root / name).read_text():
                return root / name
    places = ", ".join(map(str, roots))
    raise ConfigError(
        f"MatDeepLearn's scripts/main.py was not found in {places}: give its folder with --matdeeplearn, "
        "or install MatDeepLearn from its clone with pip install -e"
    )
