"""What the server does with the mean update of a round: a socket with the optimizers of adaptive federated optimization.

    x, opt = self.server_optimizer.step(x, x - mean_of_client_models, opt)          # opt: None at first, kept in State

The update, turned around, plays the part of a gradient g. Values that are not trained (running statistics) take the clients' mean, x - g, whatever
the optimizer.

Paper: S. Reddi, Z. Charles, M. Zaheer et al., "Adaptive Federated Optimization", ICLR 2021, arXiv 2003.00295, Algorithm 2: v starts at tau^2 and
neither moment is corrected for its start (unlike Adam elsewhere). Momentum: T.-M. H. Hsu, H. Qi, M. Brown, "Measuring the Effects of Non-Identical
Data Distribution for Federated Visual Classification", 2019, arXiv 1909.06335 (FedAvgM).

Symbols: Delta_t = -g, eta `lr`, beta1, beta2, tau.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from types import MappingProxyType

import torch

from airloom.models.params import Params
from airloom.models.step import SGD, AdamW, Optimizer
from airloom.parts import named
from airloom.program.method import check_fields, ranged

ServerState = dict[str, Params] | None


def _moved(x: Params, g: Params, move: Params) -> Params:
    """Return x - move on what is trained, x - g on the rest."""
    n = x.spec.trainable_size
    y = x - move
    return y if n == x.spec.size else Params(x.spec, torch.cat([y.flat[:n], (x - g).flat[n:]]))


@dataclass(frozen=True, kw_only=True)
class ServerOptimizer(ABC):
    """Turns a model, a pseudo-gradient and a state into the next model and state."""

    def __post_init__(self) -> None:
        check_fields(self)

    @abstractmethod
    def step(self, x: Params, g: Params, state: ServerState) -> tuple[Params, ServerState]:
        """One server step.

        Arguments:
            x: global model.
            g: pseudo-gradient, `x - mean of the clients' models`, of the same spec.
            state: None before the first step, then what the last step returned.
        """


@dataclass(frozen=True, kw_only=True)
class ServerSGD(ServerOptimizer):
    """v <- momentum v + g, x <- x - lr v. With lr = 1 and no momentum this is FedAvg; with momentum, FedAvgM.

    Arguments:
        lr: server step size (1, FedAvg).
        momentum: share of the last step that is kept (0, FedAvg; 0.9 is usual for FedAvgM).
    """

    lr: float = ranged(0, inf, default=1.0, open_low=True)
    momentum: float = ranged(0, 1, default=0.0)

    def step(self, x: Params, g: Params, state: ServerState) -> tuple[Params, ServerState]:
        """One step along the (decaying) sum of pseudo-gradients."""
        v = g if state is None or not self.momentum else self.momentum * state["v"] + g
        return _moved(x, g, v if self.lr == 1 else self.lr * v), {"v": v} if self.momentum else None


@dataclass(frozen=True, kw_only=True)
class _Adaptive(ServerOptimizer):
    """m <- beta1 m + (1 - beta1) g, v <- second moment, x <- x - lr m / (sqrt(v) + tau).

    Arguments:
        lr: server step size, no default: the paper tunes it.
        beta1: decay of the first moment (0.9, paper).
        beta2: decay of the second moment (0.99, paper).
        tau: adaptivity, added to the root (1e-3, paper).
    """

    lr: float = ranged(0, inf, open_low=True)
    beta1: float = ranged(0, 1, default=0.9)
    beta2: float = ranged(0, 1, default=0.99)
    tau: float = ranged(0, inf, default=1e-3, open_low=True)

    @abstractmethod
    def _second_moment(self, v: Params, square: Params) -> Params:
        """Return the next v from the last one and g squared."""

    def step(self, x: Params, g: Params, state: ServerState) -> tuple[Params, ServerState]:
        """One step with a step size for each value."""
        m, v = (x.zeros(), x.zeros() + self.tau**2) if state is None else (state["m"], state["v"])
        m = self.beta1 * m + (1 - self.beta1) * g
        v = self._second_moment(v, g * g)
        return _moved(x, g, self.lr * m / (Params(v.spec, v.flat.sqrt()) + self.tau)), {"m": m, "v": v}


@dataclass(frozen=True, kw_only=True)
class ServerAdam(_Adaptive):
    """FedAdam: v <- beta2 v + (1 - beta2) g^2.

    Arguments: `lr` (required), `beta1`, `beta2`, `tau`, see the paper named above.

    >>> from airloom.models import zoo
    >>> x = zoo.softmax_regression(inputs=4, classes=2).initial(seed=0)
    >>> y, state = ServerAdam(lr=0.1, beta1=0.0, tau=1e-9).step(x, x.zeros() + 2.0, None)
    >>> round(float((x - y).abs_max()), 5)                   # lr g / sqrt((1 - beta2) g^2) = 0.1 / 0.1
    1.0
    """

    def _second_moment(self, v: Params, square: Params) -> Params:
        return self.beta2 * v + (1 - self.beta2) * square


@dataclass(frozen=True, kw_only=True)
class ServerYogi(_Adaptive):
    """FedYogi: v <- v - (1 - beta2) g^2 sign(v - g^2), so that v changes by at most (1 - beta2) g^2.

    Arguments: `lr` (required), `beta1`, `beta2`, `tau`, see the paper named above.
    """

    def _second_moment(self, v: Params, square: Params) -> Params:
        return v - (1 - self.beta2) * square * Params(v.spec, torch.sign((v - square).flat))


@dataclass(frozen=True, kw_only=True)
class ServerAdagrad(ServerOptimizer):
    """FedAdagrad: v <- v + g^2, x <- x - lr g / (sqrt(v) + tau); steps only become shorter. No first moment, as in the paper's experiments.

    Arguments: `lr` (required) and `tau` as in `ServerAdam`.
    """

    lr: float = ranged(0, inf, open_low=True)
    tau: float = ranged(0, inf, default=1e-3, open_low=True)

    def step(self, x: Params, g: Params, state: ServerState) -> tuple[Params, ServerState]:
        """One step with a step size for each value."""
        v = (x.zeros() + self.tau**2 if state is None else state["v"]) + g * g
        return _moved(x, g, self.lr * g / (Params(v.spec, v.flat.sqrt()) + self.tau)), {"v": v}


SERVER_OPTIMIZERS: Mapping[str, type[ServerOptimizer]] = MappingProxyType(
    {"sgd": ServerSGD, "adam": ServerAdam, "yogi": ServerYogi, "adagrad": ServerAdagrad}
)


def server_optimizer(text: str) -> ServerOptimizer:
    """Make a server optimizer by name: `sgd(momentum=0.9)`, `adam(lr=0.01)`, `yogi(lr=0.01)`, `adagrad(lr=0.1)`.

    >>> server_optimizer("sgd(momentum=0.9)")
    ServerSGD(lr=1.0, momentum=0.9)
    """
    return named.make("server_optimizer", SERVER_OPTIMIZERS, text)


LOCAL_OPTIMIZERS: Mapping[str, type[Optimizer]] = MappingProxyType({"sgd": SGD, "adamw": AdamW})


def local_optimizer(text: str) -> Optimizer:
    """Make an optimizer of local steps by name, for `here.train(optimizer=...)`: `sgd(momentum=0.9)`, `adamw(weight_decay=0.0)`.

    >>> local_optimizer("adamw(weight_decay=0.0)").weight_decay
    0.0
    """
    return named.make("optimizer", LOCAL_OPTIMIZERS, text)
