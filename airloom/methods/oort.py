"""Oort: FedAvg whose participants are chosen by how much their data still teach and by how long they take.

    for each round t:
        P = m clients by `airloom.parts.select.Oort`: a share of newcomers, the others by |D_n| F_n + bonus for long absence, less for slow ones
        x_n, x as in FedAvg

Paper: Lai, Zhu, Madhyastha, Chowdhury, "Oort: Efficient Federated Learning via Guided Participant Selection", OSDI 2021, arXiv 2010.06081,
Algorithm 1 over `airloom.methods.fedavg`.
Symbols: as there.
Left out: what the two files leave out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from airloom.methods.fedavg import FedAvg
from airloom.parts.select import Oort as ByUtility
from airloom.parts.select import Selector, selector
from airloom.program.method import part, ranged


@dataclass(frozen=True, kw_only=True)
class Oort(FedAvg):
    """Federated averaging with Oort's selection: FedAvg's text, with other defaults.

    Arguments:
        fraction: share of the present clients that take part in a round (a half, ours); with all of them there is nothing to choose.
        select: the selector; its own fields are in parentheses, as in `oort(alpha=1.0)`.

    >>> Oort(local_steps=5).select.alpha
    2.0
    """

    paper: ClassVar[str] = "Lai et al. 2021, arXiv 2010.06081"

    fraction: float = ranged(0, 1, default=0.5, open_low=True, tune=(0.25, 0.5))
    select: Selector = part(selector, ByUtility())
