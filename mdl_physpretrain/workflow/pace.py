"""How much longer or shorter than estimated tasks take, judged by those of their kind that are through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mdl_physpretrain.workflow.task import Task

__all__ = ["Pace", "expected_pace"]

#: Stages that end early where trajectories are lost, which says nothing of the potentials of other arms.
ENDS_EARLY = {"loop", "reference", "md"}
#: What tasks of one kind have in common; seeds and rounds differ.
KIND = ("arm", "label", "probe", "core")


@dataclass(frozen=True)
class Pace:
    """Seconds that a task was estimated to take, and took."""

    task: Task
    estimate: float
    seconds: float


def expected_pace(task: Task, paces: Sequence[Pace]) -> float:
    """Ratio of a task's time and its estimate: of tasks of its kind, else of those with the same work; 1 without any.

    MD of an arm that is not known yet is expected to go on to its end, also where another arm's was lost at once.
    """
    if (own := _ratio([p for p in paces if _kind(p.task) == _kind(task)])) is not None:
        return own
    other = _ratio([p for p in paces if _work(p.task) == _work(task)])
    if other is None:
        return 1.0
    return max(other, 1.0) if task.stage in ENDS_EARLY else other


def _ratio(paces: Sequence[Pace]) -> float | None:
    estimate = sum(p.estimate for p in paces)
    return sum(p.seconds for p in paces) / estimate if estimate else None


def _work(task: Task) -> tuple[str, Any]:
    """Stage, and the function that does the work."""
    return task.stage, getattr(task.work, "func", task.work)


def _kind(task: Task) -> tuple[Any, ...]:
    given = getattr(task.work, "keywords", {})
    return (*_work(task), *(given.get(name) for name in KIND))
