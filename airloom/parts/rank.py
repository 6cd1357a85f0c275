"""How many rank rows of LoRA pairs each device can train: its rank budget.

k_n = largest k in {1, 2, 4, ..., r} whose call fits into the memory of device n, or what the scenario declares as its fact "rank"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from airloom.errors import DoesNotFit, ScenarioError
from airloom.models.params import Params
from airloom.models.submodel import Submodel, ranks
from airloom.program.node import DeviceFunction, Node


def rank_grid(r: int) -> list[int]:
    """Return the ranks to choose from, ascending.

    >>> rank_grid(12)
    [1, 2, 4, 8, 12]
    """
    return sorted({1 << i for i in range(r.bit_length()) if 1 << i <= r} | {r})


def rank_budgets(node: Node, client: DeviceFunction, names: Sequence[str], x: Params, known: Mapping[str, int]) -> dict[str, int]:
    """Return `known` and the budgets of the devices that are not in it.

    Arguments
    ---------
    client: device function whose first argument is a slice of x; its price says what memory a rank takes.
    names: devices that are present.
    x: the model with all its rank rows.
    known: budgets found before; a device keeps its budget.

    Raises
    ------
    DoesNotFit: a device has no memory for rank 1.
    ScenarioError: a declared rank outside 1 to r.
    """
    r = x.spec.rank
    found = dict(known)
    for name in names:
        if name in found:
            continue
        declared = node.network.facts[name].get("rank")
        if declared is not None:
            if not isinstance(declared, int) or not 1 <= declared <= r:
                raise ScenarioError(f"fact 'rank' of '{name}': got {declared!r}; allowed is an integer in 1 to {r}, the rank of the model's pairs")
            found[name] = declared
            continue
        room = node.network.memory_bytes[name]
        needs = {}
        for k in reversed(rank_grid(r)):
            price = node.estimate(client, name, x[ranks(k)])
            needs[k] = price.memory_bytes + price.bytes_down + 4 * k * len(x.spec.pairs)  # the slice stays beside the call; scattered rows are listed
            if needs[k] <= room:
                found[name] = k
                break
        else:
            raise DoesNotFit(
                f"'{name}' has {room / 1e6:.3f} MB available, and rank 1 of {x.spec} needs {needs[1] / 1e6:.3f} MB there: use a smaller model or "
                "batch, or leave the device out"
            )
    return found


def sketch(x: Params, k: int, rng: np.random.Generator) -> Submodel:
    """Return k of the r rank rows of each pair, drawn uniformly without replacement, one index set for both of its matrices; scale r / k.

    S = (r / k) diag(1_I), so that E[S] = 1 and E[S^2] = (r / k) 1.
    """
    r = x.spec.rank
    return ranks({pair: rng.choice(r, k, replace=False).tolist() for pair in x.spec.pairs}, scale=r / k)
