"""Requirements of MatterTune's import in this process."""

from __future__ import annotations

import ase.constraints
import ase.stress

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.hosts.product_precision import precision_kept

__all__ = ["bridge_ase", "require_host"]


def bridge_ase() -> None:
    """Put two functions back where MatterTune's stress code looks for them.

    ASE 3.28 moved the Voigt conversions from ``ase.constraints`` to
    ``ase.stress``.
    """
    for name in ("voigt_6_to_full_3x3_stress", "full_3x3_to_voigt_6_stress"):
        if not hasattr(ase.constraints, name):
            setattr(ase.constraints, name, getattr(ase.stress, name))


def require_host() -> None:
    """Import MatterTune, bridged, and leave products of single precision as precise as they are.

    Raises
    ------
    ConfigError
        If it, or a part of it that the plugin uses, is missing.
    """
    bridge_ase()
    try:
        with precision_kept("mattertune"):
            import mattertune
            import mattertune.main
            import mattertune.recipes
    except ImportError as error:
        raise ConfigError(
            f"MatterTune cannot be imported ({error}); docs/mattertune.md says how to install it"
        ) from error
    if not hasattr(mattertune, "backbone_registry"):
        raise ConfigError(
            f"{mattertune.__path__} is not a complete MatterTune: install it editable (docs/mattertune.md)"
        )
