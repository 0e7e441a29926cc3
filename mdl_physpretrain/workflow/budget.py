"""Fitting of a run to a budget of time: fewer trajectories, seeds, rounds and epochs, and what that was."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.option_types import seconds_of
from mdl_physpretrain.workflow.config import RunConfig
from mdl_physpretrain.workflow.time_words import about

__all__ = ["Fit", "fitted", "limit_words"]

#: Share of the budget that the estimate may fill: single tasks take longer than measured, never much shorter.
RESERVE = 0.85
#: What a run is cut down to, in this order: trajectories, seeds, rounds, share of the epochs.
FLOORS = (
    {"trajectories": 12, "seeds": 3, "rounds": 1, "epochs": 0.25},
    {"trajectories": 8, "seeds": 2, "rounds": 1, "epochs": 0.15},
    {"trajectories": 4, "seeds": 1, "rounds": 0, "epochs": 0.05},
)
FEWEST_EPOCHS = 3
#: Seconds of the whole run and until the first seed is judged.
Estimate = Callable[[RunConfig], tuple[float, float]]


@dataclass
class Fit:
    """A configuration that fits into a budget.

    Attributes
    ----------
    config
        With what was changed, and without the budget.
    changes
        Option, its value before and now.
    limits
        In words, those that are kept: a first verdict that gave way is none.
    """

    config: RunConfig
    changes: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    limits: str = ""

    def words(self) -> str:
        """``"seeds 5 → 3, finetune.epochs 200 → 84"``."""
        return ", ".join(f"{key} {before} → {now}" for key, (before, now) in self.changes.items())


def fitted(config: RunConfig, estimate: Estimate) -> Fit:
    """The configuration, cut down until it fits into its ``budget`` and ``first_verdict``.

    Parameters
    ----------
    config
        With a budget, or a time of the first verdict, or neither.
    estimate
        Seconds of a configuration, and until its first seed is judged.

    Warns
    -----
    UserWarning
        If the first seed cannot be judged in time: the run is fitted to the budget only.

    Raises
    ------
    ConfigError
        If even the smallest run takes longer than the budget.
    """
    limits = {
        name: RESERVE * (seconds_of(text) if text is not None else math.inf)
        for name, text in (("budget", config.budget), ("first_verdict", config.first_verdict))
    }
    start = chosen = config.model_copy(update={"budget": None, "first_verdict": None})

    def in_time(candidate: RunConfig) -> tuple[bool, bool]:
        total, first = estimate(candidate)
        return total <= limits["budget"], first <= limits["first_verdict"]

    for chosen in _smaller(start, estimate, limits["budget"]):
        if all(in_time(chosen)):
            for longer in (_more_seeds, _more_epochs, _more_trajectories):  # one cut may have made room for others
                chosen = next((candidate for candidate in longer(chosen, start) if all(in_time(candidate))), chosen)
            return Fit(chosen, _changes(start, chosen), limit_words(config))
    total, first = estimate(chosen)
    if config.first_verdict is not None:
        fit = fitted(config.model_copy(update={"first_verdict": None}), estimate)
        after = about(estimate(fit.config)[1])
        warnings.warn(
            f"a first verdict within {config.first_verdict} cannot be kept: after about {after}", stacklevel=2
        )
        return fit
    raise ConfigError(
        f"{limit_words(config)} cannot be kept: even {_words(chosen)} take {about(total)}, the first seed "
        f"{about(first)}; less data (data.usage, data.max_structures, data.max_atoms), a smaller network "
        "(backbone.args) or fewer MD steps help"
    )


def limit_words(config: RunConfig) -> str:
    """``"a budget of 1h and a first verdict within 10min"``; empty: neither."""
    words = [("a budget of", config.budget), ("a first verdict within", config.first_verdict)]
    return " and ".join(f"{word} {text}" for word, text in words if text is not None)


def _smaller(config: RunConfig, estimate: Estimate, budget: float) -> Iterator[RunConfig]:
    """Ever shorter runs: what costs the result least goes first."""
    small, total = config, estimate(config)[0]
    yield small
    for floor in FLOORS:
        cuts: list[tuple[str, Sequence[float]]] = [
            ("trajectories", [floor["trajectories"]]),
            ("seeds", range(len(small.seeds) - 1, int(floor["seeds"]) - 1, -1)),
            ("rounds", [floor["rounds"]]),
            ("epochs", _steps(1.0, floor["epochs"])),
        ]
        for kind, values in cuts:
            for value in values:
                if kind == "seeds" and total <= budget:
                    break  # fewer seeds do not judge the first one sooner
                candidate = _cut(small, config, kind, value)
                if candidate is None or (needed := estimate(candidate)[0]) >= total:
                    continue
                small, total = candidate, needed
                yield small


def _more_seeds(small: RunConfig, whole: RunConfig) -> Iterator[RunConfig]:
    """With seeds that were cut, all of them first."""
    return (_with(small, seeds=whole.seeds[:n]) for n in range(len(whole.seeds), len(small.seeds), -1))


def _more_epochs(small: RunConfig, whole: RunConfig) -> Iterator[RunConfig]:
    """With longer trainings, the longest first."""

    def epochs(config: RunConfig) -> int:
        return config.pretrain.epochs + config.finetune.epochs

    cuts = (_cut(small, whole, "epochs", share) for share in (1.0, *_steps(1.0, FLOORS[-1]["epochs"])))
    return (candidate for candidate in cuts if candidate is not None and epochs(candidate) > epochs(small))


def _more_trajectories(small: RunConfig, whole: RunConfig) -> Iterator[RunConfig]:
    """With trajectories that were cut, most of them first."""
    cuts = (_cut(whole, whole, "trajectories", floor["trajectories"]) for floor in FLOORS[:-1])
    return (_with(small, md=candidate.md) for candidate in (whole, *filter(None, cuts)))


def _steps(high: float, low: float) -> list[float]:
    """Shares of the epochs, each nine tenths of the one before."""
    shares = []
    while high * 0.9 > low:
        high *= 0.9
        shares.append(high)
    return [*shares, low]


def _cut(small: RunConfig, whole: RunConfig, kind: str, value: Any) -> RunConfig | None:
    """A configuration with less of something; ``None`` where it has no more than that."""
    if kind == "seeds":
        return _with(small, seeds=small.seeds[:value]) if len(small.seeds) > value else None
    if kind == "trajectories":
        also = [_with(c, n_structures=c.n_structures and min(c.n_structures, value)) for c in small.md.also]
        md = _with(small.md, n_structures=min(small.md.n_structures or value, value), also=also)
        return _with(small, md=md) if md != small.md else None
    if kind == "rounds":
        arms = {name: _with(arm, loop=arm.loop and min(arm.loop, value)) for name, arm in small.arms.items()}
        cut = _with(small, loop=_with(small.loop, rounds=min(small.loop.rounds, value)), arms=arms)
        return cut if cut != small else None

    def fewer(epochs: int | None) -> int | None:
        return epochs and min(epochs, max(FEWEST_EPOCHS, round(epochs * value)))

    sections = {
        name: _with(getattr(small, name), epochs=fewer(getattr(whole, name).epochs))
        for name in ("pretrain", "finetune", "loop")
    }
    arms = {name: _with(arm, epochs=fewer(whole.arms[name].epochs)) for name, arm in small.arms.items()}
    return _with(small, **sections, arms=arms)


def _with(section: Any, **values: Any) -> Any:
    return section.model_copy(update=values)


def _changes(before: RunConfig, now: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Options that differ, all of them, as numbers."""
    changes: dict[str, tuple[Any, Any]] = {}
    if len(before.seeds) > len(now.seeds):
        changes["seeds"] = (len(before.seeds), len(now.seeds))
    silent = set() if any(map(now.rounds_of, now.arms)) else {"loop.epochs"}  # of a loop that is not done
    old, new = (_options(config.model_dump(exclude={"seeds"})) for config in (before, now))
    return changes | {key: (old[key], new[key]) for key in old if old[key] != new[key] and key not in silent}


def _options(value: Any, name: str = "") -> dict[str, Any]:
    """Every single option below one, by its whole name: ``md.also.0.n_structures``."""
    if not isinstance(value, (dict, list)):
        return {name: value}
    parts = value.items() if isinstance(value, dict) else enumerate(value)
    return {key: v for k, part in parts for key, v in _options(part, f"{name}.{k}" if name else str(k)).items()}


def _words(config: RunConfig) -> str:
    seeds = len(config.seeds)
    return (
        f"{seeds} seed{'' if seeds == 1 else 's'}, {config.pretrain.epochs} and {config.finetune.epochs} epochs and "
        f"{config.md.n_structures} trajectories"
    )
