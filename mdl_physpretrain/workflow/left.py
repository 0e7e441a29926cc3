"""Which tasks are done as configured, by the fingerprints of their records."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mdl_physpretrain.source_graph import code_hash
from mdl_physpretrain.workflow.plan import STAGES
from mdl_physpretrain.workflow.records import Records, fingerprint

if TYPE_CHECKING:
    from mdl_physpretrain.workflow.task import Task

__all__ = ["fingerprint_parts", "task_fingerprint", "tasks_left", "undone_tasks", "without_ended"]

ABSENT = "absent"


def task_fingerprint(task: Task, records: Records, *, growing: bool = True) -> str:
    """Hash of all that the result of a task depends on; of what may grow, too, or not."""
    items = [*_input_hashes(task, records), *task.fixed, *(task.growing if growing else ())]
    return fingerprint([task.stage, task.section], items, code_hash(task.code))


def fingerprint_parts(task: Task, records: Records) -> dict[str, Any]:
    """The same in parts, by which a later call says why a task is done again."""
    options = fingerprint([task.stage, task.section], task.fixed, "")
    return {"options": options, "inputs": dict(_input_hashes(task, records)), "code": code_hash(task.code)}


def _input_hashes(task: Task, records: Records) -> list[tuple[str, str]]:
    hashes = []
    for name in task.inputs:
        path = records.folder / name
        hashes.append(
            (Path(name).name if Path(name).is_absolute() else name, records.hash(name) if path.is_file() else ABSENT)
        )
    return hashes


def undone_tasks(tasks: Sequence[Task], records: Records, chosen: Iterable[str], *, force: bool) -> list[str]:
    """Tasks of all stages that are not done as configured, with those of the chosen ones that are forced."""
    first = [task.name for task in tasks[:1] if not _is_done(task, records) or (force and task.stage in chosen)]
    forced = set(tasks_left(tasks, records, chosen, force=True)) if force else set()
    left = {*first, *tasks_left(tasks, records, STAGES, force=False, gone={*first, *forced})}
    return [task.name for task in tasks if task.name in left]


def without_ended(left: Iterable[str], ended: Collection[str], tasks: Sequence[Task]) -> list[str]:
    """What is left without the tasks that have ended, but for those that hang on one that is left."""
    before, now = set(left), set[str]()
    for task in tasks:
        if task.name in before and (task.name not in ended or not now.isdisjoint(task.needs)):
            now.add(task.name)
    return [task.name for task in tasks if task.name in now]


def _is_done(task: Task, records: Records) -> bool:
    record = records.done(task.name)
    return record is not None and record["fingerprint"] == task_fingerprint(task, records)


def tasks_left(
    tasks: Sequence[Task], records: Records, chosen: Iterable[str], *, force: bool, gone: Iterable[str] = ()
) -> list[str]:
    """Tasks that are to be done; one whose needs are not done (or ``gone``) is not either."""
    left = set(gone)
    for task in tasks:
        looked_at = task.stage in chosen and task.name != "prepare"
        if looked_at and (force or not left.isdisjoint(task.needs) or not _is_done(task, records)):
            left.add(task.name)
    return [task.name for task in tasks if task.name in left and task.name != "prepare"]
