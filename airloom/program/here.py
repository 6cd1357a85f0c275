"""Here: all that a device function sees. One class serves the real run and the dry run that prices it.

In a dry run values are on the meta device: shapes without contents. Whatever the dry run reads of `here` besides its arguments is noted in
`reads`, because the price then depends on it. Code that needs contents (a branch on a loss, scikit-learn) fails there, and the engine runs the
function at its start instead.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from airloom.clock.rng import generator, seed_of
from airloom.errors import ScenarioError
from airloom.models import train as learn
from airloom.models.batch import Batch, Batches, map_inputs
from airloom.models.endpoint import Endpoint
from airloom.models.module import ModelSpec
from airloom.models.params import Params
from airloom.models.price import Cost, train_flops
from airloom.models.train import SGD, TrainLog
from airloom.network.device import Device, Work
from airloom.tasks.task import DeviceData, Task


class StateView(dict[str, Any]):
    """A device's state during one call: reads see the state at the call's start, writes are merged per key at its end."""

    def __init__(self, values: Mapping[str, Any], note: Callable[[tuple[str, Any]], None]) -> None:
        super().__init__(values)
        self.changes: dict[str, Any] = {}
        self._note = note

    def __getitem__(self, key: str) -> Any:
        if key not in self.changes:
            self._note(("state", key))
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:  # type: ignore[override]
        """The value of `key`, or `default`."""
        return self[key] if key in self else default  # noqa: SIM401  (this is what get means here)

    def __contains__(self, key: object) -> bool:
        if key not in self.changes:
            self._note(("state", str(key)))
        return super().__contains__(key)

    def __setitem__(self, key: str, value: Any) -> None:
        self.changes[key] = value
        super().__setitem__(key, value)

    def setdefault(self, key: str, default: Any = None) -> Any:
        """The value of `key`, set to `default` first where it is missing."""
        if key not in self:
            self[key] = default
        return self[key]

    def update(self, values: Mapping[str, Any]) -> None:  # type: ignore[override]
        """Set several keys."""
        for key, value in values.items():
            self[key] = value

    def _refuse(self, *_: Any) -> Any:
        raise ScenarioError("here.state: got a deletion; allowed are reads and writes per key; write None instead")

    pop = popitem = clear = __delitem__ = _refuse  # type: ignore[assignment]


class DryData:
    """A device's data without its contents: sizes and label counts are real, rows are shapes, or zeros (`fill`)."""

    def __init__(
        self, data: DeviceData, note: Callable[[tuple[str, Any]], None] = lambda read: None, fill: Callable[[Batch], Batch] = lambda batch: batch
    ) -> None:
        self._data = data
        self._note = note
        self._fill = fill

    def __len__(self) -> int:
        self._note(("samples", None))
        return len(self._data)

    def batches(self, size: int) -> int:
        """Steps of one pass."""
        self._note(("samples", None))
        return self._data.batches(size)

    @property
    def counts(self) -> np.ndarray:
        """Label histogram."""
        self._note(("name", None))
        return self._data.counts

    def rows(self, ids: Any) -> Batch:
        """Shapes of these rows."""
        return self._fill(self._data.shaped(len(ids)))

    def all(self) -> Batch:
        """Shapes of all rows."""
        return self._fill(self._data.shaped(len(self)))

    @property
    def validation(self) -> Any:
        """The validation part, without its contents."""
        return DryData(self._data.validation, self._note, self._fill)


def _zeros(batch: Batch) -> Batch:
    """A batch of that shape whose rows are zeros."""

    def zero(t: torch.Tensor) -> torch.Tensor:
        return torch.zeros(t.shape, dtype=t.dtype)

    return Batch(map_inputs(zero, batch.x), zero(batch.y), None, None, batch.classes)


class Here:
    """What a device function gets as its first argument.

    Attributes:
        name: the device's name.
        device: its compute profile.
        facts: what the scenario declares about it.
        start_s: when the call started, in seconds.
        model: the resident model, if the scenario gives this device one.
        state: survives calls; merged per key at the end of a call.
        data: this device's own data; `public`: the pool that all devices may read.
        log: of the last `train` or `grad`: loss, loss_by, grad_square, steps, samples.
        reads: in a dry run, what else than the arguments the price may depend on.
    """

    def __init__(
        self,
        *,
        name: str,
        device: Device,
        facts: Mapping[str, Any],
        start_s: float,
        state: Mapping[str, Any],
        task: Task,
        drawn: int,
        seed: int,
        is_dry: bool = False,
        is_blank: bool = False,
        trainer: learn.Trainer = learn.eager,
    ) -> None:
        self._trainer = trainer
        self._name = name
        self._device = device
        self._facts = facts
        self._start_s = start_s
        self._task = task
        self._seed = seed
        self.is_dry = is_dry
        self._is_blank = is_blank
        self.reads: dict[tuple[str, Any], None] = {}
        self.state = StateView(state, self._note)
        self.drawn = drawn  # samples drawn so far, this call included
        self.spent = Cost()
        self.declared_flops = 0.0
        self.declared_s = 0.0
        self.declared_j = 0.0
        self.price = 0.0
        self._log: TrainLog | None = None
        self._data: DeviceData | None = None

    def _note(self, read: tuple[str, Any]) -> None:
        if self.is_dry:
            self.reads[read] = None

    def blank(self) -> Here:
        """This place where nothing is learned: no state, rows of zeros, training and gradients that move nothing."""
        return Here(
            name=self._name, device=self._device, facts=self._facts, start_s=self._start_s, state={}, task=self._task, drawn=0, seed=self._seed,
            is_blank=True,
        )  # fmt: skip

    def _unlearned(self, steps: int, samples: int) -> TrainLog:
        """The log of work that was not done."""
        return TrainLog(loss=0.0, loss_by=defaultdict(float), grad_square=0.0, steps=steps, samples=samples)

    # --- what there is ----------------------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Name of the device."""
        self._note(("name", None))
        return self._name

    @property
    def holds_data(self) -> bool:
        """Whether the task gives this place rows of its own: whether it is a client."""
        self._note(("holds_data", None))
        return self._task.samples(self._name) > 0

    @property
    def device(self) -> Device:
        """Compute profile of the device."""
        self._note(("device", None))
        return self._device

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the scenario declares about the device."""
        self._note(("name", None))
        return self._facts

    @property
    def start_s(self) -> float:
        """When the call started, in seconds."""
        self._note(("start_s", None))
        return self._start_s

    @property
    def model(self) -> Any:
        """The resident model of this device; ScenarioError if the scenario gives it none."""
        self._note(("name", None))
        return self._task.resident(self._name)

    @property
    def holds_model(self) -> bool:
        """Whether the scenario gives this place a resident model."""
        self._note(("name", None))
        return self._name in self._task.residents

    @property
    def spec(self) -> ModelSpec:
        """The task's model, without values: all places know it."""
        return self._task.model

    def initial(self, *labels: object) -> Params:
        """The task's model with values that this device draws anew, from its stream named by `labels`."""
        return self.spec.meta() if self.is_dry else self.spec.initial(seed_of(self._seed, "device", self._name, *labels))

    @property
    def objective(self) -> Any:
        """The task's objective, for methods that add a term to it."""
        return self._task.objective

    def _own(self) -> DeviceData:
        if self._data is None:
            self._data = self._task.data(self._name, self._start_s)
        return self._data

    @property
    def data(self) -> Any:
        """This device's own data: `.rows(ids) .all() .counts .batches(size) .validation`."""
        if self._is_blank:
            return DryData(self._own(), fill=_zeros)
        return DryData(self._own(), self._note) if self.is_dry else self._own()

    @property
    def public(self) -> Any:
        """The public pool; ScenarioError if the task has none."""
        # one pool for all: what is read of it tells no place from another, and places without data of their own read it too
        return DryData(self._task.public, lambda read: None) if self.is_dry else self._task.public

    @property
    def log(self) -> TrainLog:
        """Log of the last `train` or `grad` of this call."""
        if self._log is None:
            raise ScenarioError("here.log: got no training in this call yet; allowed after here.train or here.grad")
        return self._log

    def rng(self, *labels: object) -> np.random.Generator:
        """This device's stream named by `labels`."""
        return generator(self._seed, "device", self._name, *labels)

    # --- drawing data -----------------------------------------------------------------------------------------------------------------

    def peek(self, size: int) -> Batch:
        """The batch that the next draw of `size` samples will give, not consumed."""
        own = self._own()
        if self.is_dry or self._is_blank:
            return own.shaped(size) if self.is_dry else _zeros(own.shaped(size))
        return own.rows(self._ids(size))

    def _ids(self, count: int) -> np.ndarray:
        """Row ids of the next `count` draws."""
        return self._task.sample_ids(self._name, self.drawn, count, self._seed, self._start_s)

    def batch(self, size: int) -> Batch:
        """Draw `size` samples of this device's own data: shuffled without replacement, wrapped to the exact size."""
        batch = self.peek(size)
        self.drawn += size
        return batch

    def _batches(self, steps: int, batch_size: int, data: Any) -> Batches:
        """`steps` batches of own data, or of `data` (a Batch), as one gather."""
        count = steps * batch_size
        if data is None:
            own = self._own()
            flat = own.shaped(count) if self.is_dry else own.rows(self._ids(count))
        elif self.is_dry:
            flat = data.rows(torch.zeros(count, dtype=torch.int64, device="meta"))
        else:
            flat = data.rows(torch.from_numpy(self._wrapped(len(data), count)))
        self.drawn += count
        return Batches.stacked(flat, steps, batch_size)

    def _wrapped(self, n: int, count: int) -> np.ndarray:
        """`count` row numbers of a value with n rows, shuffled per pass, from this call's place in the device's draws."""
        passes = -(-count // n)
        order = np.concatenate([generator(self._seed, "rows", self._name, self.drawn, k).permutation(n) for k in range(passes)])
        return order[:count]

    # --- learning ---------------------------------------------------------------------------------------------------------------------

    def train(
        self,
        x: Params,
        *,
        steps: int,
        lr: float,
        batch_size: int,
        data: Any = None,
        optimizer: Any = SGD(),
        shift: Params | None = None,
        prox: tuple[float, Params] | None = None,
        clip_norm: float | None = None,
        only: Any = None,
        objective: Any = None,
    ) -> Params:
        """Return x after `steps` optimizer steps on this device's next draws (or on `data`): the fast path.

        x <- x - lr (clip(g(x)) + shift + mu (x - anchor))

        Arguments:
            steps: optimizer steps; 0 returns x.
            lr: step size.
            batch_size: samples per step.
            data: a Batch to draw from instead of the device's own data.
            optimizer: SGD (default) or AdamW; its state is new in each call.
            shift: constant added to the gradient (control variates).
            prox: (mu, anchor) of a proximal term.
            clip_norm: largest norm of the raw gradient.
            only: Submodel that moves; the rest stays.
            objective: objective(out, batch) -> scalar; default: the task's.
        """
        if steps == 0:
            return x
        if self._is_blank:
            self._log = self._unlearned(steps, steps * batch_size)
            return x
        seed = self._dropout_seed()
        batches = self._batches(steps, batch_size, data)
        x, self._log = learn.train(
            x,
            batches,
            lr=lr,
            optimizer=optimizer,
            shift=shift,
            prox=prox,
            clip_norm=clip_norm,
            only=only,
            objective=objective or self._task.objective,
            seed=seed,
            cost=self.spent,
            trainer=self._trainer,
        )
        return x

    def grad(self, x: Params, batch: Batch | None = None, *, objective: Any = None, wrt: Any = "params") -> Any:
        """Gradient of the objective at x on `batch` (default: all own data)."""
        if self._is_blank and wrt == "params":
            self._log = self._unlearned(1, len(batch or self.data))
            return x.zeros()
        result, self._log = learn.grad(
            x, batch or self.data.all(), objective=objective or self._task.objective, wrt=wrt, seed=self._dropout_seed(), cost=self.spent
        )
        return result

    def loss(self, x: Params, batch: Batch | None = None, *, objective: Any = None) -> float:
        """The objective at x on `batch` (default: all own data)."""
        if self._is_blank:
            return 0.0
        return learn.loss(x, batch or self.data.all(), objective=objective or self._task.objective, cost=self.spent)

    def forward(self, x: Params, batch: Any, *, keep: bool = False, until: str | None = None) -> Any:
        """Outputs of x on a batch (a Batch or inputs); `keep`: also a Tape for `vjp`; `until`: stop after that component."""
        return learn.forward(x, batch, keep=keep, until=until, seed=self._dropout_seed(), cost=self.spent)

    def vjp(self, tape: Any, g: torch.Tensor, *, wrt: Any) -> Any:
        """Back-propagate g through a kept forward pass, without paying it twice."""
        return learn.vjp(tape, g, wrt=wrt, cost=self.spent)

    def _dropout_seed(self) -> int:
        """Seed of what layers draw themselves: another one for every place in the device's draws."""
        return seed_of(self._seed, "train", self._name, self.drawn)

    # --- cost -------------------------------------------------------------------------------------------------------------------------

    def cost(self, *, flops: float | None = None, seconds: float | None = None, joules: float | None = None, price: float | None = None) -> None:
        """Declare work that the library cannot see (own loops, scikit-learn), joules beside the device's power, and what a call is billed."""
        given = {"flops": flops, "seconds": seconds, "joules": joules, "price": price}
        if all(amount is None for amount in given.values()):
            raise ScenarioError(f"here.cost: got nothing; allowed is at least one of {', '.join(given)}")
        for what, amount in given.items():
            if amount is not None and not (amount >= 0 and np.isfinite(amount)):
                raise ScenarioError(f"here.cost({what}={amount!r}) at '{self._name}': allowed are finite numbers >= 0")
        self.declared_flops += flops or 0.0
        self.declared_s += seconds or 0.0
        self.declared_j += joules or 0.0
        self.price += price or 0.0

    # --- answering --------------------------------------------------------------------------------------------------------------------

    def answer(self, question: str, context: Any = None, notes: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
        """Ask the resident endpoint; its seconds, joules and price are charged. Returns a reply (see `airloom.models.endpoint`).

        Arguments:
            question: what is asked.
            context: what comes with it (a byte array), or None.
            notes: replies of others that the endpoint reads before it answers.
        """
        endpoint = self.model
        if not isinstance(endpoint, Endpoint):
            raise ScenarioError(f"here.answer at '{self._name}': its resident model is a {type(endpoint).__name__}; allowed is an Endpoint")
        reply = endpoint.reply(question, 0 if context is None else len(context), notes)
        self.cost(seconds=endpoint.seconds(reply), joules=endpoint.joules(reply), price=endpoint.price(reply))
        return reply

    def steps_within(self, seconds: float, batch_size: int) -> int:
        """Training steps of the task's own model that this device finishes in `seconds`."""
        shape = self._own().shaped(batch_size)
        flops = train_flops(self._task.model, shape, self._task.objective, steps=1)
        return int(seconds / self.device.seconds(Work(flops=flops, steps=1, samples=batch_size)))

    def work(self) -> Work:
        """What the call has computed, as the device's profile wants to know it."""
        spent = self.spent
        return Work(
            flops=spent.flops + self.declared_flops,
            steps=spent.steps,
            samples=round(spent.samples),
            width=spent.width or 1.0,
            bytes_moved=spent.moved_bytes,
        )
