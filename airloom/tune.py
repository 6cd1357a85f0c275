"""Tuning: every method gets the same number of trials over the values that its fields declare, on a world of its own and on validation data.

    trial 1: the fields that suit the scenario, and what the user has set
    trials 2..N: the grid of all `tune` values of the other fields, in a random order from a named stream
    chosen: the trial whose validation metric reaches the target first (mean of five evaluations); if none does, the best final one

A method whose whole grid is smaller than N is tried on all of it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from airloom.clock.rng import generator
from airloom.errors import ScenarioError
from airloom.program.method import Method, Service
from airloom.records.record import Record, direction_of, reached
from airloom.resolve import fields_of
from airloom.runner import SMOOTH
from airloom.scenarios.scenario import Scenario

SEEDS_BEYOND = 1000  # the tuning world's seed lies so far beyond the first seed of the comparison
PREFIX = "validation_"


class Choice(NamedTuple):
    """The trial that was chosen: its index, why, and the seconds or the value of the metric that decided; None where nothing could be measured."""

    index: int
    by: str
    value: float | None


def trials(method: Method | Service, fixed: set[str], count: int, name: str) -> list[dict[str, Any]]:
    """Return the changes to a method for each trial; the first changes nothing.

    Arguments:
        method: with the fields of the first trial.
        fixed: names of fields that the user has set; they stay.
        count: trials, >= 1.
        name: of the random stream.

    >>> from airloom.methods.local_only import LocalOnly
    >>> sorted(change.get("lr", 0.1) for change in trials(LocalOnly(), set(), 9, "local_only"))
    [0.03, 0.1, 0.3]
    """
    if count < 1:
        raise ScenarioError(f"tune={count}: allowed are integers >= 1 (trials per method)")
    tunable = {n: f.range.tune for n, f in fields_of(type(method)).items() if f.range is not None and f.range.tune and n not in fixed}
    grid = [dict(zip(tunable, values)) for values in itertools.product(*tunable.values())]
    start = {n: getattr(method, n) for n in tunable}
    others = [grid[i] for i in generator("tune", name).permutation(len(grid)) if grid[i] != start]
    found: list[dict[str, Any]] = [{}]
    for change in others:
        if len(found) < count and _is_allowed(method, change):
            found.append(change)
    return found


def _is_allowed(method: Method | Service, change: Mapping[str, Any]) -> bool:
    """Whether the fields go together; a method may refuse some of the grid."""
    try:
        replace(method, **change)
    except ScenarioError:
        return False
    return True


def check_validation(scenario: Scenario) -> None:
    """Refuse to tune where there is nothing to tune on."""
    if not len(scenario.task.dataset.y_validation):
        raise ScenarioError(
            f"tune on scenario '{scenario.name}': its data have no validation rows; split some off (Dataset.x_validation), or do not tune"
        )


def choose(records: Sequence[Record], metric: str, target: float | None) -> Choice:
    """Return the best of a method's trials.

    Arguments:
        records: one per trial.
        metric: without the `validation_` that is put before it.
        target: value that the metric shall reach, or None.
    """
    name, direction = PREFIX + metric, direction_of(metric)
    if target is not None:
        stamps = [reached(record.points, name, target, direction, smooth=SMOOTH) for record in records]
        seconds = [math.inf if stamp is None else float(stamp["seconds"]) for stamp in stamps]
        if min(seconds) < math.inf:
            return Choice(seconds.index(min(seconds)), "seconds to the target", min(seconds))
    finals = [_final(record, name) for record in records]
    known = [value for value in finals if value is not None]
    if not known:
        return Choice(0, f"nothing: no trial reported {name}", None)
    best = max(known) if direction == "higher" else min(known)
    return Choice(finals.index(best), f"final {name}", best)


def _final(record: Record, name: str) -> float | None:
    """Return the mean of the last five evaluations of a run that did not fail."""
    values = [float(point[name]) for point in record.points if point.get(name) is not None][-SMOOTH:]
    return None if record.status == "failed" or not values else math.fsum(values) / len(values)
