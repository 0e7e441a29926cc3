"""Types that options are made of: counts, shares, positive numbers, lists of files."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

__all__ = ["Count", "NotNegative", "Positive", "Section", "Share", "Sources", "Weights", "none_as_text"]


def _share(value: Any) -> Any:
    """Accept ``10%`` besides ``0.1``."""
    if isinstance(value, str) and value.strip().endswith("%"):
        try:
            return float(value.strip()[:-1]) / 100
        except ValueError:
            return value
    return value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def none_as_text(value: Any) -> Any:
    """YAML reads ``none`` as a text but ``null`` and ``~`` as nothing; both mean no core."""
    return "none" if value is None or value is False else value


Share = Annotated[float, BeforeValidator(_share)]
Sources = Annotated[list[str], BeforeValidator(_as_list)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Weights = Annotated[tuple[NotNegative, NotNegative, NotNegative], Field()]


class Section(BaseModel):
    """Options that belong together; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", validate_default=True, protected_namespaces=())
