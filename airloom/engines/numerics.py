"""Numbers, late and in sets: what started calls compute waits until a program needs a value.

Everything that waits has its inputs on the clock already, so a set may run in any order that its own dependencies allow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from airloom.engines.executors import Executor, Job, Result
from airloom.engines.pending import Call, Later, SimRef, Value
from airloom.engines.price import leaf_sizes
from airloom.engines.sites import Site
from airloom.errors import AirloomError, RunFailed
from airloom.program.tree import Path, at, body_bytes, leaves, map_leaves, replaced, tensor_of, to_meta, version_of

FLUSH_CAP = 64  # calls run at once: larger sets gain nothing and hold more memory
FOLDED_BYTES = 256e6  # of a round's folded values that are kept for whoever asks again; more of them are computed again (ours)


class Numerics:
    """Pending calls of a run and the executor that runs them.

    Arguments:
        executor: runs sets of calls.
        sites: places by name.
    """

    def __init__(self, executor: Executor, sites: Mapping[str, Site]) -> None:
        self.executor = executor
        self.sites = sites
        self.pending: dict[Call, None] = {}
        self.order: list[Call] = []  # of some of them, the first to end last
        self.flushes = 0
        self.flushed_calls = 0
        self.round = 0  # for messages
        self.is_folding = False  # what runs now is wanted for a sum
        self.folded_bytes = 0  # that values of this round hold after they were added up

    def value_of(self, leaf: Any, place: str | None = None) -> Any:
        """The value that a Ref names; runs pending numerics if it must."""
        return self.value(leaf, place) if isinstance(leaf, SimRef) else leaf

    def value(self, ref: SimRef, place: str | None = None) -> Any:
        """The value that a Ref names, as it is at a place (None: where it was made); runs pending numerics if it must."""
        root = ref.root
        if not root.has_value:
            assert root.call is not None
            self.flush([root.call])
        if root.job is not None and any([is_let_go(leaf) for _, leaf in leaves(at(root.value, ref.path))]):
            self.restore(root)
        value = root.value if not root.sent or place is None or place == root.place else replaced(root.value, root.sent)
        return at(value, ref.path) if ref.path else value

    # --- folded values ----------------------------------------------------------------------------------------------------------------

    def release(self, roots: Sequence[Value]) -> None:
        """Values have been added to a sum: beyond the first `FOLDED_BYTES` of a round, let go of their large leaves.

        Refs to them may live on, and the text may ask for such a value again: it is then computed again, bit for bit, from the same arguments and
        draws. So a round of thousands of clients does not hold thousands of models.
        """
        for root in roots:
            if root.job is not None and root.value is not None:
                self.folded_bytes += sum([body for _, body, _ in root.leaves if body > 0])
                if self.folded_bytes > FOLDED_BYTES:
                    root.value = map_leaves(_shape_only, root.value)
                else:
                    root.job = None

    def restore(self, root: Value) -> None:
        """Compute a value again if leaves of it were let go."""
        if not any([is_let_go(leaf) for _, leaf in leaves(root.value)]):
            root.job = None
            return
        result = self.executor.run([root.job])[0]
        if result.error is not None:
            raise result.error
        root.value, root.job = result.value, None

    def flush(self, needed: list[Call]) -> None:
        """Run the numerics of `needed`, of what they depend on, and of other pending calls in order of end, up to the cap."""
        chosen: dict[Call, int] = {}
        for call in needed:
            if call.has_refs or call.state:
                self._level(call, chosen)
            else:
                chosen[call] = 0
        self._fill(chosen)
        self.flushes += 1
        self.flushed_calls += len(chosen)
        levels: dict[int, list[Call]] = {}
        for call, level in chosen.items():
            levels.setdefault(level, []).append(call)
        for level in sorted(levels):
            calls = levels[level]
            if level:
                calls.sort(key=lambda c: (c.end_s, c.number))
            self._execute(calls)
        if not self.pending:
            self.order.clear()

    def _fill(self, chosen: dict[Call, int]) -> None:
        """Add other pending calls up to the cap, in order of end; what was put in order is kept for the next time."""
        is_fresh = False
        while len(chosen) < FLUSH_CAP:
            if self.order:
                call = self.order.pop()
                if call in self.pending and call not in chosen:
                    self._level(call, chosen)
            elif is_fresh:
                return
            else:
                self.order = sorted(self.pending, key=lambda c: (c.end_s, c.number), reverse=True)
                is_fresh = True

    def _level(self, call: Call, chosen: dict[Call, int]) -> int:
        """Depth of a call in the graph of calls whose numerics have not run; adds it and what it depends on to `chosen`."""
        level = chosen.get(call)
        if level is not None:
            return level
        level = 0
        if not call.has_refs and not call.state:
            chosen[call] = 0
            return 0
        stack: list[Call] = [call]
        while stack:  # iterative: chains can be long
            top = stack[-1]
            before = [dep for dep in self._depends(top) if not dep.has_run]
            missing = [dep for dep in before if dep not in chosen]
            if missing:
                stack.extend(missing)
                continue
            stack.pop()
            chosen[top] = level = 1 + max([chosen[dep] for dep in before], default=-1)
        return chosen[call]

    def _depends(self, call: Call) -> list[Call]:
        deps = [
            leaf.root.call for _, leaf in leaves(call.args) if isinstance(leaf, SimRef) and not leaf.root.has_value and leaf.root.call is not None
        ]
        if call.state:
            deps += [value.call for value in call.state.values() if type(value) is Later]
        return deps

    def _execute(self, calls: list[Call]) -> None:
        jobs: list[Job] = []
        checked: tuple[Any, ...] = ()  # a map's arguments are looked at once
        for call in calls:
            if call.versions is not checked:
                checked = call.versions
                for versions in checked:
                    self._check_versions(call, versions)
            args = map_leaves(partial(self.value_of, place=call.place), call.args) if call.has_refs else call.args
            state = {key: value.of() if type(value) is Later else value for key, value in call.state.items()} if call.state else {}
            issue = call.issue
            jobs.append(Job(call.number, issue.fn, issue.label, call.root.place, args, state, call.drawn, call.started_s or 0.0))
            if self.is_folding and not call.has_refs and not call.state and call.price is not None and not call.price.changes:
                call.root.job = jobs[-1]
        for call, result in zip(calls, self.executor.run(jobs), strict=True):
            self._take(call, result)

    def _take(self, call: Call, result: Result) -> None:
        """Keep a call's result and check that it cost what was predicted."""
        value, changes, found, error, sent, _ = result
        if error is not None:
            if isinstance(error, AirloomError) and not isinstance(error, RunFailed):
                raise error
            raise RunFailed(
                f"{call.issue.label} at device '{call.place}', round {self.round}, issued at {call.issue.made_at}: {type(error).__name__}: {error}"
            ) from error
        self.pending.pop(call, None)
        root, price = call.root, call.price
        call.has_run = True
        call.args = call.versions = ()  # a value must not keep alive what it was made from
        call.state = None
        call.changes = changes
        root.value, root.has_value, root.call = value, True, None
        if sent:
            root.sent, root.job = dict(sent), None
        if price is None:
            call.changes = {**changes, "": result}
            return
        assert found is not None
        sizes = leaf_sizes(value, found.coded)
        is_other = sizes != price.leaves or ((changes or price.changes) and changes.keys() != price.changes.keys())
        if is_other or found.work.flops != price.flops or found.drawn != price.drawn:
            raise RunFailed(
                f"{call.issue.label} at device '{call.place}': predicted {price.flops:.0f} FLOPs, {price.drawn} samples, sizes "
                f"{_sizes(price.leaves)} and state {sorted(price.changes)}; found {found.work.flops:.0f}, {found.drawn}, {_sizes(sizes)} and "
                f"{sorted(changes)}; its work depends on values: let it read them before it branches (float(...)), or declare its work "
                f"with here.cost"
            )
        if changes:
            state = call.site.state
            for key in changes:
                stored = state.get(key)
                if type(stored) is Later and stored.call is call:
                    state[key] = changes[key]

    def _check_versions(self, call: Call, versions: list[tuple[Any, int]]) -> None:
        for leaf, version in versions:
            if version_of(leaf) != version:
                raise RunFailed(
                    f"{call.issue.label} at device '{call.place}': an argument was changed in place after the call was issued at "
                    f"{call.issue.made_at}; make a new value instead (x = x + 1, not x += 1 on tensors)"
                )


def is_let_go(leaf: Any) -> bool:
    """Whether only the shape of a leaf is left."""
    tensor = tensor_of(leaf)
    return tensor is not None and tensor.is_meta


def _shape_only(leaf: Any) -> Any:
    """The leaf without its contents where it is large: Params, tensors with dimensions."""
    return to_meta(leaf) if tensor_of(leaf) is not None and body_bytes(leaf) >= 0 else leaf


def _sizes(sizes: tuple[tuple[Path, int, int], ...]) -> str:
    return str([max(body, small) for _, body, small in sizes])
