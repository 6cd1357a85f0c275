"""Peak bytes of a computation: a dispatch mode that follows which storages are alive.

Works on meta tensors, so that the memory of a step is known without running it; the same operations on real tensors give the same number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_iter

from airloom.models.dispatch import Watching


@final
class PeakMemory(Watching):
    """Follow the storages that the operations inside `with` read and make.

    A storage counts from its first use until it is freed. `peak_bytes` is the most that was alive at once, `live_bytes` what is alive now,
    `argument_bytes` what existed before it was used here, `moved_bytes` the bytes of all tensors read and written (views are free).

    >>> import torch
    >>> a = torch.zeros(1000)
    >>> with PeakMemory() as memory:
    ...     b = (a + 1).sum()
    >>> memory.peak_bytes, memory.argument_bytes  # a, a + 1 and the sum
    (8004, 4000)
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak_bytes = 0
        self.argument_bytes = 0
        self.moved_bytes = 0
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}

    @property
    def live_bytes(self) -> int:
        """Bytes alive now."""
        self._sweep()
        return sum(size for _, size in self._live.values())

    def _sweep(self) -> None:
        gone = [key for key, (ref, _) in self._live.items() if ref.expired()]
        for key in gone:
            del self._live[key]

    def _see(self, tensor: Tensor) -> int:
        """Count the storage of a tensor; return its bytes if it is new here."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._live:
            return 0
        self._live[key] = (StorageWeakRef(storage), storage.nbytes())
        return storage.nbytes()

    def __torch_dispatch__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = [t for t in tree_iter((args, kwargs)) if isinstance(t, Tensor)]
        self._sweep()
        for t in inputs:
            self.argument_bytes += self._see(t)
        out = func(*args, **kwargs)
        made = 0
        for t in tree_iter(out):
            if isinstance(t, Tensor):
                made += self._see(t)
        if made or func._schema.is_mutable:  # type: ignore[attr-defined]
            self.moved_bytes += made + sum(t.numel() * t.element_size() for t in inputs)
        self.peak_bytes = max(self.peak_bytes, sum(size for _, size in self._live.values()))
        return out


def peak_bytes_of(run: Callable[[], Any]) -> int:
    """Return the peak of live bytes while `run()` works, its result included."""
    with PeakMemory() as memory:
        run()
    return memory.peak_bytes
