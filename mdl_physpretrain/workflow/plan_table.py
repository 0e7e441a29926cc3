"""Plan of a run on the console: stages, sizes and estimated times."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from mdl_physpretrain.option_types import seconds_of
from mdl_physpretrain.workflow.time_words import about

if TYPE_CHECKING:
    from mdl_physpretrain.workflow.config import RunConfig
    from mdl_physpretrain.workflow.forecast import Forecast

__all__ = ["plan_parts"]

LONG = 3600.0  # seconds after which the way to a shorter run is named


def plan_parts(forecast: Forecast, config: RunConfig) -> list[Table | str]:
    """A table of the stages, and sentences below it; ``config`` is the one before it was fitted to its budget."""
    table = Table(title="Plan", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("stage", "tasks", "each", "estimate"):
        table.add_column(name, justify="right" if name in ("tasks", "estimate") else "left")
    for stage, number, size, seconds in forecast.rows():
        table.add_row(stage, str(number), size, about(seconds) + (" each" if number > 1 else ""))
    jobs, seeds = forecast.jobs, len(forecast.config.seeds)
    words = f"About {about(forecast.total)} in all" + (f", {jobs} tasks at a time" if jobs > 1 else "")
    if seeds > 1 and forecast.first_verdict:
        words += (
            f"; first verdict (seed {forecast.config.seeds[0]} of {seeds}) after about {about(forecast.first_verdict)}"
        )
    words += (
        f". Measured here: {forecast.rates.train * 1e3:.3g} ms per atom of a training step, "
        f"{forecast.rates.md * 1e6:,.0f} µs per atom and MD step. Lost trajectories end sooner; "
        "other work on this machine makes all of it longer."
    )
    parts: list[Table | str] = [table, words]
    if config.budget is not None and forecast.total > seconds_of(config.budget):  # fitted by an earlier call
        parts.append(
            f"This is longer than a budget of {config.budget}: an earlier call made the fit, when steps took less "
            "time. Without plan.json in the run folder it is made again."
        )
    if forecast.fit.changes:
        parts.append(f"Fitted to {forecast.fit.limits}: {forecast.fit.words()}.")
        if seeds < 3:
            parts.append(
                "With fewer than three seeds nothing is known of the spread between trainings: a longer --budget has "
                "room for more. Each call makes the fit anew until the first training begins."
            )
    elif forecast.total > LONG and config.budget is None:
        parts.append("Too long? --budget 1h fits trajectories, seeds and epochs to an hour.")
    return parts
