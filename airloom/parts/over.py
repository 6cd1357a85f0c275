"""How the updates of a round become one, by name: a socket for methods whose updates may be added up by the channel itself.

mean = node.reduce(refs, over=self.over)          # "mean" (messages), or air(snr_db=0): see `airloom.program.reducer.AirSum`
"""

from __future__ import annotations

from collections.abc import Sequence

from airloom.errors import DeviceLost
from airloom.models.params import Params, zeros_like
from airloom.parts import named
from airloom.program.node import Node
from airloom.program.reducer import MEAN, AirSum, Reducer
from airloom.program.ref import Ref


def over(text: str) -> Reducer:
    """Make a reducer by name: `mean`, `air(snr_db=0.0)`, `air(snr_db=10.0, threshold=0.8)`; a noise-free channel is `air(snr_db=1e999)`.

    >>> over("air(snr_db=0.0)").threshold
    0.8
    """
    return MEAN if text.strip() == "mean" else named.make("over", {"air": AirSum}, text)


def air_mean(station: Node, refs: Sequence[Ref], over: Reducer, like: Params) -> tuple[Params, int]:
    """What a cell's channel makes of {"dx": update, "norm": its length} of each client, and how many are still there; zeros and 0 for nobody.

    The lengths come as messages first: the common power is set by the largest.
    """
    came, _, _ = station.first([r["norm"] for r in refs], len(refs))
    try:
        return station.reduce([r["dx"] for r in refs if r["norm"] in came], over=over), len(came)
    except DeviceLost:
        return zeros_like(like), 0
