"""What users ask: streams of requests at places, fixed by the seed before anything runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from airloom.clock.rng import generator
from airloom.errors import ScenarioError

Draw = Callable[[np.random.Generator], tuple[str, str]]


class Request(NamedTuple):
    """One request: its number, when the user asks (seconds), the question, the right answer (for grading only), and a byte array beside it."""

    number: int
    at_s: float
    question: str
    truth: str
    context: np.ndarray[Any, Any]


def poisson(places: Sequence[str], *, count: int, per_s: float, context_bytes: int, draw: Draw, seed: int) -> dict[str, tuple[Request, ...]]:
    """Return `count` requests at each place, with exponential times between them.

    Arguments:
        places: who asks.
        count: requests per place, at least 1.
        per_s: mean requests per second and place.
        context_bytes: size of what comes with a question (a conversation, a document).
        draw: generator -> (question, right answer).
        seed: of the streams, one per place; the first requests stay the same when `count` grows.

    >>> asked = poisson(["phone0"], count=2, per_s=0.1, context_bytes=8, draw=lambda rng: ("1+1=", "2"), seed=0)["phone0"]
    >>> [r.number for r in asked], asked[0].at_s < asked[1].at_s, asked[0].context.nbytes
    ([0, 1], True, 8)
    """
    if count < 1 or not per_s > 0 or context_bytes < 0:
        raise ScenarioError(f"poisson(count={count}, per_s={per_s}, context_bytes={context_bytes}): allowed are count >= 1, per_s > 0, bytes >= 0")
    streams: dict[str, tuple[Request, ...]] = {}
    for i, place in enumerate(places):
        rng, at_s, asked = generator(seed, "requests", place), 0.0, []
        for k in range(count):
            at_s += rng.exponential(1.0 / per_s)
            question, truth = draw(rng)
            asked.append(Request(i * count + k, at_s, question, truth, np.zeros(context_bytes, np.uint8)))
        streams[place] = tuple(asked)
    return streams
