"""The pool: one process per core, one thread each; tensors in shared memory, messages of names and offsets.

The shared memory is one anonymous map made before the processes are forked. The parent writes inputs into its own region; each worker writes results
into a region of its own. A result that the parent no longer holds is given back to its worker with the next message. Nothing is pickled.
"""

# Trees (states, arguments, results) are of any shape, so what is taken out of them has no static type.
# pyright: strict, reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import mmap
import multiprocessing
import os
import signal
import traceback
import weakref
from collections import deque
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np
import torch

from airloom import errors
from airloom.engines.executors import Executor, Job, Loop, Result, Spent, run_job
from airloom.errors import RunFailed
from airloom.models.estimator import Estimator, Fitted
from airloom.models.fast import OFF, Fast
from airloom.models.module import ModelSpec
from airloom.models.params import Params
from airloom.network.device import Work
from airloom.network.network import Network
from airloom.program.method import Service
from airloom.tasks.task import Task

REGION_BYTES = 2 << 30  # address space per process; memory is used only where something was written
_ALIGN = 64
_IN_FLIGHT = 2  # jobs a worker has at a time: one to run, one waiting


class _CannotTravel(Exception):
    """A value or function that has no form in a message; its job runs in the parent."""


class Full(Exception):
    """A region has no room left."""


class Region:
    """Blocks in one process's part of the shared memory: freed blocks of a size are used again, else the region grows."""

    def __init__(self, start: int, size: int) -> None:
        self.top = start
        self.end = start + size
        self.free: dict[int, list[int]] = {}

    def take(self, nbytes: int) -> int:
        """Offset of a block of at least `nbytes`."""
        size = -(-max(nbytes, 1) // _ALIGN) * _ALIGN
        blocks = self.free.get(size)
        if blocks:
            return blocks.pop()
        if self.top + size > self.end:
            raise Full
        self.top += size
        return self.top - size

    def give_back(self, offset: int, nbytes: int) -> None:
        """Return a block."""
        size = -(-max(nbytes, 1) // _ALIGN) * _ALIGN
        self.free.setdefault(size, []).append(offset)


class Blocks:
    """The blocks of one answer: each has one owner, which tells `gone` when nothing refers to it any more."""

    def __init__(self, view: memoryview, gone: list[tuple[int, int]]) -> None:
        self.view = view
        self.gone = gone
        self.known: dict[int, memoryview] = {}

    def of(self, offset: int, nbytes: int) -> memoryview:
        """The block at an offset."""
        block = self.known.get(offset)
        if block is None:
            block = self.known[offset] = self.view[offset : offset + nbytes]
            weakref.finalize(block, self.gone.append, (offset, nbytes))
        return block


class Shelf:
    """One process's view of the shared memory: puts tensors there, finds those that are there already."""

    def __init__(self, memory: mmap.mmap, region: Region, specs: dict[str, ModelSpec], is_parent: bool) -> None:
        self.is_parent = is_parent
        self.memory = memory
        self.view = memoryview(memory)
        self.region = region
        self.base = torch.frombuffer(memory, dtype=torch.uint8).data_ptr()
        self.specs = specs

    def place(self, tensor: torch.Tensor, taken: list[tuple[int, int]], seen: dict[int, tuple[int, Any]]) -> int:
        """Offset of a tensor's contents, copied into this process's region.

        The parent sends what lies in shared memory already as it is: it holds the tensor until the job is done. A worker copies even that: its
        results live longer than its inputs.
        """
        nbytes = tensor.numel() * tensor.element_size()
        if nbytes == 0:
            return 0
        offset = tensor.data_ptr() - self.base
        if self.is_parent and 0 <= offset < len(self.memory) and tensor.is_contiguous():
            return offset
        known = seen.get(id(tensor))
        if known is not None:
            return known[0]
        offset = self.region.take(nbytes)
        taken.append((offset, nbytes))
        seen[id(tensor)] = offset, tensor  # kept, so that no other tensor gets its identity meanwhile
        self.wrap(offset, tensor.shape, tensor.dtype).copy_(tensor)
        return offset

    def wrap(self, offset: int, shape: Sequence[int], dtype: torch.dtype, blocks: Blocks | None = None) -> torch.Tensor:
        """A tensor over shared memory; `blocks` gives one owner to all tensors over one block."""
        count = int(np.prod(shape)) if len(shape) else 1
        if count == 0:
            return torch.empty(tuple(shape), dtype=dtype)
        nbytes = count * dtype.itemsize
        block = self.view[offset : offset + nbytes] if blocks is None else blocks.of(offset, nbytes)
        return torch.frombuffer(block, dtype=dtype, count=count).reshape(tuple(shape))

    # --- trees as JSON ----------------------------------------------------------------------------------------------------------------

    def write(self, tree: Any, taken: list[tuple[int, int]], seen: dict[int, tuple[int, Any]], recipes: dict[str, Any], told: set[str]) -> Any:
        """JSON form of a tree; tensors become offsets."""
        if tree is None or isinstance(tree, bool | int | float | str):
            return tree if not isinstance(tree, np.generic) else ["n", str(tree.dtype), tree.item()]
        kind = type(tree)
        if kind is dict:
            return ["d", [[self.write(k, taken, seen, recipes, told), self.write(v, taken, seen, recipes, told)] for k, v in tree.items()]]
        if kind is list or kind is tuple:
            return ["l" if kind is list else "t", [self.write(v, taken, seen, recipes, told) for v in tree]]
        if isinstance(tree, Params):
            spec = tree.spec
            if spec.key not in told:
                told.add(spec.key)
                recipes[spec.key] = spec.recipe()
                self.specs.setdefault(spec.key, spec)
            return ["p", spec.key, self.place(tree.flat, taken, seen), tree.flat.numel(), str(tree.flat.dtype)[6:]]
        if isinstance(tree, Fitted):
            parts = self.write([tree.x, tree.y, tree.weight], taken, seen, recipes, told)
            return ["e", {**vars(tree.recipe), "options": dict(tree.recipe.options)}, parts, tree.classes, tree.seed]
        if isinstance(tree, torch.Tensor):
            return ["T", self.place(tree.contiguous(), taken, seen), list(tree.shape), str(tree.dtype)[6:]]
        if isinstance(tree, np.ndarray) and tree.dtype != object:
            whole = torch.from_numpy(np.ascontiguousarray(tree))
            return ["a", self.place(whole, taken, seen), list(tree.shape), str(whole.dtype)[6:]]
        if isinstance(tree, np.generic):
            return ["n", str(tree.dtype), tree.item()]
        raise _CannotTravel(f"{kind.__module__}.{kind.__qualname__}")

    def read(self, thing: Any, blocks: Blocks | None = None) -> Any:
        """The tree that JSON stands for."""
        if not isinstance(thing, list):
            return thing
        kind = thing[0]
        if kind == "d":
            return {self.read(k): self.read(v, blocks) for k, v in thing[1]}
        if kind == "l":
            return [self.read(v, blocks) for v in thing[1]]
        if kind == "t":
            return tuple([self.read(v, blocks) for v in thing[1]])
        if kind == "p":
            return Params(self.specs[thing[1]], self.wrap(thing[2], (thing[3],), getattr(torch, thing[4]), blocks))
        if kind == "e":
            x, y, weight = self.read(thing[2], blocks)
            return Fitted(recipe=Estimator(**thing[1]), x=x, y=y, weight=weight, classes=thing[3], seed=thing[4])
        if kind == "T":
            return self.wrap(thing[1], thing[2], getattr(torch, thing[3]), blocks)
        if kind == "a":
            return self.wrap(thing[1], thing[2], getattr(torch, thing[3]), blocks).numpy()
        assert kind == "n", kind
        return np.dtype(thing[1]).type(thing[2])

    def learn(self, recipes: dict[str, Any]) -> None:
        """Remember specs that the other side names for the first time."""
        for key, recipe in recipes.items():
            if key not in self.specs:
                self.specs[key] = ModelSpec.from_recipe(recipe, self.specs)


class _Worker:
    """The parent's side of one process."""

    def __init__(self, process: Any, pipe: Connection) -> None:
        self.process = process
        self.pipe = pipe
        self.jobs: deque[int] = deque()
        self.told: set[str] = set()
        self.gone: list[tuple[int, int]] = []


class Pool(Executor):
    """One process per core.

    Arguments:
        method: its bound device functions are found by name in the workers.
        count: processes.
    """

    name = "pool"

    def __init__(self, network: Network, task: Task, seed: int, method: Any, count: int, fast: Fast = OFF) -> None:
        self.loop = Loop(network, task, seed, fast)
        self.fast = fast
        self.method = method
        self.memory = mmap.mmap(-1, REGION_BYTES * (count + 1))
        self.shelf = Shelf(self.memory, Region(0, REGION_BYTES), _whole(task, method), is_parent=True)
        context = multiprocessing.get_context("fork")
        self.workers: list[_Worker] = []
        for i in range(count):
            mine, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(theirs, self.memory, Region(REGION_BYTES * (i + 1), REGION_BYTES), network, task, seed, method, fast),
                daemon=True,
            )  # fmt: skip
            process.start()
            theirs.close()
            self.workers.append(_Worker(process, mine))

    def run(self, jobs: Sequence[Job]) -> list[Result]:
        results: list[Result | None] = [None] * len(jobs)
        waiting = deque(range(len(jobs)))
        seen: dict[int, tuple[int, Any]] = {}
        blocks: list[tuple[int, int]] = []
        busy: dict[Any, _Worker] = {}
        while waiting or busy:
            for worker in self.workers:
                while waiting and len(worker.jobs) < _IN_FLIGHT:
                    index = waiting.popleft()
                    if self._send(worker, jobs[index], index, blocks, seen):
                        busy[worker.pipe] = worker
                    else:
                        results[index] = self.loop.run([jobs[index]])[0]
            for pipe in wait(list(busy)) if busy else ():  # none: all jobs have run here, since they could not travel
                worker = busy[pipe]
                index, result = self._receive(worker, jobs)
                results[index] = result
                if not worker.jobs:
                    del busy[pipe]
        for offset, nbytes in blocks:
            self.shelf.region.give_back(offset, nbytes)
        return [result for result in results if result is not None]

    def _send(self, worker: _Worker, job: Job, index: int, blocks: list[tuple[int, int]], seen: dict[int, tuple[int, Any]]) -> bool:
        """Send a job; False if it has no form in a message."""
        recipes: dict[str, Any] = {}
        try:
            owner = getattr(job.fn, "__self__", None)
            if owner is not None and owner is not self.method:
                raise _CannotTravel
            gone = list(worker.gone)
            message = {
                "gone": gone,
                "fn": job.name,
                "bound": owner is not None,
                "place": job.place,
                "args": self.shelf.write(job.args, blocks, seen, recipes, worker.told),
                "state": self.shelf.write(dict(job.state), blocks, seen, recipes, worker.told),
                "drawn": job.drawn,
                "start_s": job.start_s,
                "recipes": recipes,
            }
        except (_CannotTravel, Full):
            worker.told.difference_update(recipes)
            return False
        worker.gone[: len(gone)] = []  # in place: the owners of blocks append to this list
        worker.pipe.send_bytes(json.dumps(message).encode())
        worker.jobs.append(index)
        return True

    def _receive(self, worker: _Worker, jobs: Sequence[Job]) -> tuple[int, Result]:
        index = worker.jobs.popleft()
        try:
            answer = json.loads(worker.pipe.recv_bytes())
        except (EOFError, OSError) as error:
            raise RunFailed(f"pool: worker process {worker.process.pid} ended while it ran {jobs[index].name} at '{jobs[index].place}'") from error
        self.fast.fallbacks |= dict.fromkeys(answer["fallbacks"])
        if "error" in answer:
            kind = getattr(errors, answer["kind"], None)
            if isinstance(kind, type) and issubclass(kind, errors.AirloomError) and kind not in (errors.DeviceLost, errors.MissingExtra):
                return index, Result(None, {}, None, kind(answer["error"]))
            return index, Result(None, {}, None, _named(answer["kind"], answer["error"], answer["trace"]))
        if "again" in answer:
            return index, self.loop.run([jobs[index]])[0]
        self.shelf.learn(answer["recipes"])

        blocks = Blocks(self.shelf.view, worker.gone)
        flops, steps, samples, width, moved, form = answer["work"]
        coded = {tuple(path): nbytes for path, nbytes in answer["coded"]}
        spent = Spent(
            Work(flops, steps, samples, width, moved, form), answer["declared_s"], answer["peak_bytes"], answer["drawn"], coded, *answer["bill"]
        )
        sent = self.shelf.read(answer["sent"], blocks)
        return index, Result(self.shelf.read(answer["value"], blocks), self.shelf.read(answer["changes"], blocks), spent, sent=sent)

    def close(self) -> None:
        for worker in self.workers:
            with contextlib.suppress(OSError):
                worker.pipe.send_bytes(b"")
            worker.pipe.close()
        for worker in self.workers:
            worker.process.join(timeout=5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
        self.workers.clear()


def _whole(task: Task, method: Any) -> dict[str, ModelSpec]:
    """The models that both sides have from the beginning; others are parts of them."""
    own = method.learns if isinstance(method, Service) else None
    return {spec.key: spec for spec in (task.model, own) if spec is not None}


def _named(kind: str, message: str, trace: str) -> Exception:
    """An exception of a worker's class name, with the worker's traceback as a note."""
    error = type(kind, (Exception,), {})(message)
    error.add_note(trace)
    return error


def _serve(pipe: Connection, memory: mmap.mmap, region: Region, network: Network, task: Task, seed: int, method: Any, fast: Fast) -> None:
    """A worker: run jobs until the parent sends nothing or goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    torch.set_num_threads(1)
    gc.freeze()
    gc.enable()
    shelf = Shelf(memory, region, _whole(task, method), is_parent=False)
    told: set[str] = set()
    functions: dict[tuple[str, bool], Any] = {}
    while True:
        try:
            raw = pipe.recv_bytes()
        except (EOFError, OSError):
            os._exit(0)
        if not raw:
            os._exit(0)
        message = json.loads(raw)
        for offset, nbytes in message["gone"]:
            region.give_back(offset, nbytes)
        shelf.learn(message["recipes"])
        key = (message["fn"], message["bound"])
        fn = functions.get(key)
        if fn is None:
            fn = functions[key] = _find(message["fn"], method if message["bound"] else None)
        job = Job(
            0, fn, message["fn"], message["place"], shelf.read(message["args"]), shelf.read(message["state"]), message["drawn"], message["start_s"]
        )
        before = len(fast.fallbacks)
        result = run_job(job, network, task, seed, fast)
        pipe.send_bytes(json.dumps({**_answer(shelf, result, told), "fallbacks": list(fast.fallbacks)[before:]}).encode())


def _answer(shelf: Shelf, result: Result, told: set[str]) -> dict[str, Any]:
    if result.error is not None:
        trace = "".join(traceback.format_exception(result.error))
        return {"error": str(result.error), "kind": type(result.error).__name__, "trace": trace}
    taken: list[tuple[int, int]] = []
    recipes: dict[str, Any] = {}
    seen: dict[int, tuple[int, Any]] = {}
    try:
        value = shelf.write(result.value, taken, seen, recipes, told)
        changes = shelf.write(result.changes, taken, seen, recipes, told)
        sent = shelf.write(dict(result.sent), taken, seen, recipes, told)
    except (_CannotTravel, Full):  # the parent runs it itself
        for offset, nbytes in taken:
            shelf.region.give_back(offset, nbytes)
        told.difference_update(recipes)
        return {"again": True}
    assert result.spent is not None
    spent = result.spent
    return {
        "value": value,
        "sent": sent,
        "coded": [[list(path), nbytes] for path, nbytes in spent.coded.items()],
        "changes": changes,
        "recipes": recipes,
        "work": list(spent.work),
        "declared_s": spent.declared_s,
        "peak_bytes": spent.peak_bytes,
        "drawn": spent.drawn,
        "bill": [spent.declared_j, spent.price],
    }


def _find(name: str, method: Any) -> Any:
    """A function by its registered name: of the method the pool was made for, or of a module."""
    module, qualname = name.split(":")
    if method is not None:
        return getattr(method, qualname.rsplit(".", 1)[-1])
    thing: Any = importlib.import_module(module)
    for part in qualname.split("."):
        thing = getattr(thing, part)
    return thing
