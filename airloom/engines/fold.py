"""`reduce` as every engine does it: fold in float64 in issue order, dropping values as it goes."""

# Trees (states, arguments, results) are of any shape, so what is taken out of them has no static type.
# pyright: strict, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from airloom.errors import DeviceLost, ScenarioError
from airloom.program.node import Node, OnLoss
from airloom.program.reducer import MEAN, Accumulator, Fold, Reducer
from airloom.program.tree import map_leaves

BLOCK = 64  # values brought together at once


def fold(
    node: Node,
    refs: Sequence[Any],
    weights: Sequence[float] | None,
    over: Any,
    on_loss: OnLoss,
    like: Any,
    wait: Callable[[Sequence[Any]], dict[int, str]],
    values: Callable[[Sequence[Any]], Sequence[Any]],
    folded: Callable[[Sequence[Any]], None] = lambda refs: None,
) -> Any:
    """Fold the values of refs; see `Node.reduce`.

    Arguments:
        wait: waits for all values; returns the devices that left, by index of the lost value.
        values: the values of some refs that have arrived.
        folded: told of refs whose values have been added up.
    """
    over = MEAN if over is None else over
    if weights is not None and len(weights) != len(refs):
        raise ScenarioError(f"node.reduce(weights=...): got {len(weights)} weights for {len(refs)} values; allowed is one weight per value")
    if not isinstance(over, Fold):
        reducer, *prepared = over if isinstance(over, tuple) else (over,)
        if not isinstance(reducer, Reducer):
            raise ScenarioError(f"node.reduce(over={reducer!r}): allowed are reducers (MEAN, SUM, counted_mean(...), ...)")
        return reducer(node, refs, weights, *prepared)
    lost = wait(refs)
    if lost and on_loss == "raise":
        raise DeviceLost(next(iter(lost.values())))
    kept = [i for i in range(len(refs)) if i not in lost]
    if not kept:
        if like is None:
            if lost:
                raise DeviceLost(next(iter(lost.values())))
            raise ScenarioError("node.reduce: got no values and no `like`; give like=x to get its zeros")
        return map_leaves(_zeros, like)
    given = [1.0] * len(refs) if weights is None else [float(w) for w in weights]
    scale = 1.0
    if over.is_mean:
        total = sum([given[i] for i in (kept if on_loss == "renormalize" else range(len(refs)))])
        if not total > 0:
            raise ScenarioError(f"node.reduce: got weights that sum to {total}; a mean needs a positive sum")
        scale = 1.0 / total
    sums = Accumulator()
    for start in range(0, len(kept), BLOCK):
        block = kept[start : start + BLOCK]
        some = [refs[i] for i in block]
        for i, value in zip(block, values(some), strict=True):
            sums.add(value, given[i] * scale)
        folded(some)
    return sums.value()


def _zeros(leaf: Any) -> Any:
    """Zeros of a leaf's kind."""
    return leaf * 0 if not isinstance(leaf, str | None) else leaf
