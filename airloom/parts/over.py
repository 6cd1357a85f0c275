"""How the updates of a round become one, by name: a socket for methods whose updates may be added up by the channel itself.

mean = node.reduce(refs, over=self.over)          # "mean" (messages), or air(snr_db=0): see `airloom.program.reducer.AirSum`
"""

from __future__ import annotations

from airloom.parts import named
from airloom.program.reducer import MEAN, AirSum, Reducer


def over(text: str) -> Reducer:
    """Make a reducer by name: `mean`, `air(snr_db=0.0)`, `air(snr_db=10.0, threshold=0.8)`; a noise-free channel is `air(snr_db=1e999)`.

    >>> over("air(snr_db=0.0)").threshold
    0.8
    """
    return MEAN if text.strip() == "mean" else named.make("over", {"air": AirSum}, text)
