"""Methods and services: what a user writes, and what the engines run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import lru_cache
from typing import Any, ClassVar

from airloom.errors import ScenarioError
from airloom.models.module import ModelSpec
from airloom.program.codec import Codec
from airloom.program.node import Node
from airloom.program.protection import Protection, Unprotected

State = dict[str, Any]


@dataclass(frozen=True)
class Range:
    """What a field of a method may hold, and where `--tune` looks for good values.

    Arguments:
        low, high: bounds, both allowed unless `open_low`.
        tune: values to try, or None for a field that tuning leaves alone.
    """

    low: float
    high: float
    open_low: bool = False
    tune: tuple[float, ...] | None = None

    def __str__(self) -> str:
        return f"{'(' if self.open_low else '['}{self.low:g}, {self.high:g}]"


def ranged(
    low: float, high: float, *, default: Any = MISSING, open_low: bool = False, tune: tuple[float, ...] | None = None, is_neutral: bool = False
) -> Any:
    """A numeric field with its allowed range, checked when the method is made; `is_neutral` as in `part`.

    >>> @dataclass(frozen=True, kw_only=True)
    ... class Step:
    ...     lr: float = ranged(0, 10, open_low=True, tune=(0.03, 0.1, 0.3))
    >>> Step(lr=0.1).lr
    0.1
    """
    return field(default=default, metadata={"range": Range(low, high, open_low, tune), "is_neutral": is_neutral})


def part(make: Callable[[str], Any], default: Any, *, is_neutral: bool = False) -> Any:
    """A field that takes a part (a selector, an optimizer); `make(text)` reads it from the command line.

    `is_neutral`: with its default the method computes what it computed before it had the field, so older records still belong to it.
    """
    return field(default=default, metadata={"make": make, "is_neutral": is_neutral})


def check_fields(thing: Any) -> None:
    """Raise ScenarioError for a field outside its range or of the wrong type."""
    for f in fields(thing):
        allowed = f.metadata.get("range")
        if allowed is None:
            continue
        value = getattr(thing, f.name)
        is_int = "int" in str(f.type)
        good = isinstance(value, int | float) and not isinstance(value, bool) and (not is_int or isinstance(value, int))
        if not good or not (allowed.low < value if allowed.open_low else allowed.low <= value) or not value <= allowed.high:
            kind = "an integer" if is_int else "a number"
            raise ScenarioError(f"{type(thing).__name__}.{f.name}: got {value!r}; allowed is {kind} in {allowed}")


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """A training method: a frozen dataclass whose fields are the paper's hyper-parameters and whose text is the algorithm box.

    Class facts: `paper` (who, year, identifier), `shape` (star, tree, chain, local: what the network must offer), `engines` (where the text runs).
    `adapts`: it trains LoRA pairs, so the model must have some. `kinds`: of data that it can learn from.
    `init`, `round` and `finish` are on the clock; state, arguments and results are trees (see `airloom.program.tree`).

    Arguments:
        codec: what clients send in place of their models (see `airloom.program.codec`); None sends them as they are. Every method has this field.
        protect: what is done to values before they leave the clients (see `airloom.program.protection`): nothing. Every method has this field.
    """

    paper: ClassVar[str] = ""
    shape: ClassVar[str] = "star"
    engines: ClassVar[tuple[str, ...]] = ("simulated", "ray")  # every verb works on both
    adapts: ClassVar[bool] = False
    kinds: ClassVar[tuple[str, ...]] = ("classification", "next_token", "regression")

    codec: Codec | None = field(default=None, metadata={"socket": "codec"})  # its parts are in a room below; names are resolved above
    protect: Protection = field(default=Unprotected(), metadata={"socket": "protect", "is_neutral": True})

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.protect.is_local and any([f.name == "protect" and "socket" in f.metadata for f in fields(self)]):
            raise ScenarioError(
                f"{type(self).__name__}.protect: got {self.protect}, which protects sums; this method folds no sum that is known before its clients' "
                f"values are sent; allowed is what protects each value by itself: gaussian(clip_norm=..., noise=...), or none (docs/protect.md)"
            )

    @abstractmethod
    def init(self, node: Node, x: Any) -> State:
        """Return the first state; `x` is the scenario's initial model."""

    @abstractmethod
    def round(self, node: Node, s: State) -> State:
        """One global round at the root; return the next state."""

    def done(self, node: Node, s: State) -> bool:
        """The method's own end; targets and budgets are the runner's."""
        return False

    def finish(self, node: Node, s: State) -> State:
        """Run once at any end but failure (personalization, distillation); on the clock."""
        return s

    def predict(self, model: Any, x: Any) -> Any:
        """How the evaluation applies what `report(model=...)` was given; by default the model itself."""
        return model(x)


@dataclass(frozen=True, kw_only=True)
class Service(ABC):
    """A serving system: a program that runs at the root until it returns; re-run from the seed instead of resumed."""

    paper: ClassVar[str] = ""
    shape: ClassVar[str] = "star"
    engines: ClassVar[tuple[str, ...]] = ("simulated",)
    learns: ClassVar[ModelSpec | None] = None  # the model that it trains before it opens, if any, kept at a device as `theta`

    def __post_init__(self) -> None:
        check_fields(self)

    @abstractmethod
    def run(self, node: Node) -> None:
        """The service's text at the root."""


class Planned(ABC):
    """What decides before it runs: `airloom plan` shows it."""

    @abstractmethod
    def planned(self, facts: Mapping[str, Mapping[str, Any]], root: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Return the plan for places that declare `facts`: a row per place, the last one `why`, and numbers of the whole."""


def function_name(function: Callable[..., Any]) -> str:
    """The registered name of a device function or program text: `module:Class.function`.

    Lambdas and inner functions have no name that another process could find, so they are refused.
    """
    return _name(getattr(function, "__func__", function))


@lru_cache(maxsize=4096)
def _name(plain: Callable[..., Any]) -> str:
    """The name of an unbound function, looked up once."""
    name = f"{plain.__module__}:{plain.__qualname__}"
    if "<" in name:
        raise ScenarioError(f"function '{name}': got a lambda or an inner function; allowed is a method or a function of a module; name it there")
    return name
