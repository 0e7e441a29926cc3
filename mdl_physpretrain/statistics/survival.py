"""Survival analysis: time to failure of trajectories, some of which end without one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from warnings import catch_warnings, simplefilter

import numpy as np
import pandas as pd
from scipy.stats import CensoredData, chi2, ecdf

from mdl_physpretrain.errors import ConfigError
from mdl_physpretrain.statistics.proportions import wilson_interval

__all__ = ["CLAIM_TIME", "NOT_RUN", "TIMES", "kaplan_meier", "length_caution", "logrank", "share_at", "shares_in_words"]

CLAIM_STEPS, CLAIM_TIME = 5000, 5.0  # ps
TIMES = (1.0, 2.0, 5.0, 10.0)  # ps at which the share still physical is told
NOT_RUN = "not run that long"


def kaplan_meier(
    steps: Sequence[float] | np.ndarray, failed: Sequence[bool] | np.ndarray, *, confidence: float = 0.95
) -> pd.DataFrame:
    """Share of trajectories that still are physical, over time.

    Parameters
    ----------
    steps
        Step (or time) of the failure, or at which watching ended, shape (n,).
    failed
        True for a failure, False for a trajectory that was physical to the end
        (censored), shape (n,).
    confidence
        Coverage of the pointwise interval.

    Returns
    -------
    DataFrame
        One row for each distinct step, ascending: ``step, at_risk`` (just
        before it), ``failed, censored`` (at it; those censored count as at
        risk), ``survival`` (just after it), ``low, high``: log-log interval
        with Greenwood's variance. That variance is zero or undefined where
        nobody or everybody failed; there it is Wilson's interval of the
        trajectories not censored before.

    Raises
    ------
    ConfigError
        If the arrays are empty or do not fit each other.

    References
    ----------
    E. L. Kaplan, P. Meier, J. Am. Stat. Assoc. 53, 457 (1958); M. Greenwood,
    Reports on Public Health and Medical Subjects 33 (1926); log-log interval:
    J. D. Kalbfleisch, R. L. Prentice, *The Statistical Analysis of Failure
    Time Data* (Wiley, 1980), section 1.3.
    """
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence must lie between 0 and 1, not {confidence}")
    times, events = _checked(steps, failed)
    survival = ecdf(CensoredData.right_censored(times, ~events)).sf
    with catch_warnings():
        simplefilter("ignore", RuntimeWarning)  # undefined bounds are replaced below
        interval = survival.confidence_interval(confidence, method="log-log")
    table = pd.DataFrame({"step": times, "failed": events, "censored": ~events}).groupby("step", as_index=False).sum()
    ended = table["failed"] + table["censored"]
    table.insert(1, "at_risk", len(times) - ended.cumsum().shift(fill_value=0))
    table = table.assign(
        survival=survival.probabilities, low=interval.low.probabilities, high=interval.high.probabilities
    )
    counted = len(times) - table["censored"].cumsum().shift(fill_value=0)
    for row in table.index[~table["survival"].between(0, 1, inclusive="neither")]:
        n = int(counted[row])
        table.loc[row, ["low", "high"]] = wilson_interval(n if table.loc[row, "survival"] else 0, n, confidence)
    return table


def share_at(
    steps: Sequence[float] | np.ndarray,
    failed: Sequence[bool] | np.ndarray,
    times: Sequence[float] | np.ndarray,
    *,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """How many trajectories still are physical at given times.

    Parameters
    ----------
    steps, failed
        As of :func:`kaplan_meier`. A trajectory that ended without failing is
        left out at later times: where those asked for differ in length, give
        only those that were to run for so long, else the share is too low.
    times
        In the units of ``steps``, shape (m,).
    confidence
        Coverage of Wilson's interval.

    Returns
    -------
    DataFrame
        One row per time: ``time, total`` (trajectories that failed by then or
        were still watched), ``physical`` (those still watched), ``share``
        (NaN without any), ``low, high``.

    Raises
    ------
    ConfigError
        If the arrays are empty or do not fit each other.
    """
    ends, events = _checked(steps, failed)
    rows = []
    for time in times:
        # a failure at this very time counts; who was watched until then was physical then
        lost = int((events & (ends <= time)).sum())
        physical = int((ends > time).sum() + (~events & (ends == time)).sum())
        total = lost + physical
        low, high = wilson_interval(physical, total, confidence)
        share = physical / total if total else np.nan
        rows.append((float(time), total, physical, share, low, high))
    return pd.DataFrame(rows, columns=["time", "total", "physical", "share", "low", "high"])


def shares_in_words(steps: Any, failed: Any, planned: Any) -> dict[float, str]:
    """``"3 of 12"`` still physical after 1, 2, 5 and 10 ps, of trajectories that were to run for so long.

    ``steps``, ``planned`` (ps) and ``failed`` of shape (n,), as of :func:`share_at`.
    """
    ends, events, lengths = np.asarray(steps, float).round(9), np.asarray(failed, bool), np.asarray(planned, float)
    words = {}
    for time in TIMES:
        long = lengths.round(9) >= time
        row = share_at(ends[long], events[long], [time]).iloc[0] if long.any() else None
        words[time] = NOT_RUN if row is None else f"{row['physical']:.0f} of {row['total']:.0f}"
    return words


def logrank(
    steps: Sequence[float] | np.ndarray, failed: Sequence[bool] | np.ndarray, group: Sequence[Any] | np.ndarray
) -> tuple[float, float]:
    """Do groups of trajectories fail at different rates? Log-rank test.

    Trajectories count as independent of each other; for two potentials on the
    same trajectories a paired test (McNemar's) uses more of what is known.
    SciPy's ``logrank`` compares two groups and has no value where nothing
    failed; of two groups this statistic is the square of SciPy's.

    Parameters
    ----------
    steps, failed
        As of :func:`kaplan_meier`, all groups together.
    group
        Label of the group each belongs to, shape (n,); two or more.

    Returns
    -------
    statistic
        Chi-squared, with one degree of freedom less than groups that were at
        risk when something failed.
    p
        Probability of as much or more if all groups failed at one rate; 1
        where nothing failed.

    Raises
    ------
    ConfigError
        If the arrays do not fit each other, or there is one group only.

    References
    ----------
    N. Mantel, Cancer Chemother. Rep. 50, 163 (1966); R. Peto, J. Peto,
    J. R. Stat. Soc. A 135, 185 (1972).
    """
    times, events = _checked(steps, failed)
    labels = np.asarray(group)
    if labels.shape != times.shape:
        raise ConfigError(f"{len(labels)} group labels for {len(times)} trajectories")
    names, index = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise ConfigError("a log-rank test compares two or more groups")
    member = np.eye(len(names))[index]
    excess, expected, covariance = np.zeros(len(names)), np.zeros(len(names)), np.zeros((len(names), len(names)))
    for step in np.unique(times[events]):
        at_risk = member[times >= step].sum(0)
        n = at_risk.sum()
        d = member[(times == step) & events].sum(0)
        share = at_risk / n
        excess += d - d.sum() * share
        expected += d.sum() * share
        if n > 1:
            covariance += d.sum() * (n - d.sum()) / (n - 1) * (np.diag(share) - np.outer(share, share))
    freedom = int((expected > 0).sum()) - 1
    if freedom < 1 or not covariance.any():
        return 0.0, 1.0
    statistic = max(0.0, float(excess @ np.linalg.pinv(covariance, hermitian=True) @ excess))
    return statistic, float(chi2.sf(statistic, freedom))


def length_caution(simulations: Iterable[tuple[float, float]]) -> str:
    """Which simulations are too short to say that a potential stays physical; empty: none.

    Parameters
    ----------
    simulations
        Steps and time step (fs, NaN where it is not known) of each.
    """
    short = []
    for steps, timestep in simulations:
        time = steps * timestep / 1000
        if steps < CLAIM_STEPS or time < CLAIM_TIME:
            short.append(f"{steps:,.0f} steps" + (f" ({time:g} ps)" if np.isfinite(time) else ""))
    if not short:
        return ""
    return (
        f"{' and '.join(dict.fromkeys(short))} are too short for a claim that a potential stays physical: that takes "
        f"at least {CLAIM_STEPS:,} steps and {CLAIM_TIME:g} ps."
    )


def _checked(steps: Any, failed: Any) -> tuple[np.ndarray, np.ndarray]:
    times, events = np.asarray(steps), np.asarray(failed)
    if times.ndim != 1 or not len(times) or times.shape != events.shape:
        raise ConfigError(f"steps {times.shape} and failed {events.shape} must have one shape (n,), n > 0")
    if not np.isfinite(times.astype(np.float64)).all() or times.min() < 0:
        raise ConfigError("steps must be finite and not negative")
    if not np.isin(events, (0, 1)).all():
        raise ConfigError("failed must be true or false")
    return times, events.astype(bool)
