"""Fuzz the codec: python benchmarks/fuzz/wire.py -max_total_time=60 [CORPUS]. Needs atheris; ends with a traceback at the first crash."""

from __future__ import annotations

import contextlib
import sys

import atheris  # type: ignore[import-not-found]

with atheris.instrument_imports(include=["airloom.engines.wire"]):
    from airloom.engines.wire import MAGIC, Wire
from airloom.errors import WireError
from airloom.methods.fedavg import FedAvg
from airloom.models import submodel, zoo

SPEC = zoo.mlp(inputs=4, hidden=(6,), classes=3)
METHOD = FedAvg()
WIRE = Wire(METHOD, [SPEC])
x = SPEC.initial(0)
SEEDS = [WIRE.encode(tree) for tree in ({"x": x, "n": 1.5}, [x[submodel.width(0.5)], x.flat], METHOD.client, (METHOD.select, None))]


def try_one(data: bytes) -> None:
    """Read bytes as they are, and as the JSON of a message."""
    for raw in (data, MAGIC + len(data).to_bytes(4, "little") + data):
        with contextlib.suppress(WireError):
            WIRE.decode(raw)


def mutate(data: bytes, size: int, seed: int) -> bytes:
    """Begin from real messages now and then, so that the fuzzer gets past the first checks."""
    return atheris.Mutate(SEEDS[seed % len(SEEDS)] if seed % 7 == 0 else data, size)


if __name__ == "__main__":
    atheris.Setup(sys.argv, try_one, custom_mutator=lambda data, size, seed: mutate(data, size, seed))
    atheris.Fuzz()
