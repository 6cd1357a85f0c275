"""Models put together from named parts for several modalities and tasks, of which a client holds some.

A component's name says whom it serves: its kind, then modalities and tasks (`encoder.image`, `expert.image.digit`, `head.digit`, `shared`). What a
task uses in a client's forward pass follows from the names alone (`path`), and a client's model is the union of its tasks' paths: a slice by
components, which is itself a model.

Every row of data belongs to one modality and one task, its *pair*, named in the input `pair`; what a row gets is its own task's output, padded to
the longest one with -1e9, so that `argmax` and softmax see the task's classes only.

Shapes: B rows, W width, K longest output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from airloom.errors import ScenarioError
from airloom.models.batch import Batch
from airloom.models.module import ModelSpec, model
from airloom.models.objective import Additive
from airloom.models.params import Params
from airloom.models.train import forward

_PAD = -1e9  # exp of it is 0 in every format
Pair = tuple[str, str]  # modality, task
Shown = tuple[Tensor, list[tuple[int, Tensor, Tensor]]]  # outputs, and by number of a pair what its shared layer and its expert make of all rows


class _Assembly(nn.Module):
    """Per modality an encoder, per pair an expert beside a shared one, per task a head."""

    def __init__(self, inputs: Mapping[str, int], outputs: Mapping[str, int], pairs: Sequence[Pair], width: int, shows_hidden: bool) -> None:
        super().__init__()
        self.pairs, self.longest, self.shows_hidden = tuple(pairs), max(outputs.values()), shows_hidden
        self.encoder = nn.ModuleDict({m: nn.Linear(n, width) for m, n in inputs.items()})
        self.shared = nn.Linear(width, width)
        self.expert = nn.ModuleDict({f"{m}_{o}": nn.Linear(width, width) for m, o in pairs})
        self.head = nn.ModuleDict({o: nn.Linear(width, n) for o, n in outputs.items()})

    def forward(self, x: dict[str, Tensor]) -> Tensor | Shown:
        pair_B = x["pair"]
        out_BK: Tensor | None = None
        hidden: list[tuple[int, Tensor, Tensor]] = []
        for k, (m, o) in enumerate(self.pairs):
            if f"{m}_{o}" not in self.expert or m not in self.encoder or o not in self.head:
                continue  # a slice without this pair
            h_BW = F.relu(self.encoder[m](x[m]))
            common_BW, own_BW = self.shared(h_BW), self.expert[f"{m}_{o}"](h_BW)
            hidden.append((k, common_BW, own_BW))
            y_BK = self.head[o](F.relu(common_BW + own_BW))
            y_BK = F.pad(y_BK, (0, self.longest - y_BK.shape[1]), value=_PAD)
            out_BK = torch.full_like(y_BK, _PAD) if out_BK is None else out_BK
            out_BK = torch.where((pair_B == k)[:, None], y_BK, out_BK)
        assert out_BK is not None
        return (out_BK, hidden) if self.shows_hidden and self.training else out_BK


def assembly(
    *, inputs: Mapping[str, int], outputs: Mapping[str, int], pairs: Sequence[Pair], width: int = 32, dtype: torch.dtype = torch.float32,
    shows_hidden: bool = False,
) -> ModelSpec:  # fmt: skip
    """Make a model of encoders, experts, a shared layer and heads.

    Arguments
    ---------
    inputs: values per row of each modality. outputs: classes (or values) of each task.
    pairs: (modality, task) in the order that the input `pair` counts.
    shows_hidden: while it trains, the objective also gets what shared layer and experts make of the rows, for `Orthogonal`.

    >>> spec = assembly(inputs={"image": 64, "text": 20}, outputs={"digit": 10}, pairs=[("image", "digit"), ("text", "digit")])
    >>> path(spec, ["text"], "digit")
    ('encoder.text', 'expert.text.digit', 'head.digit', 'shared')
    """
    for m, o in pairs:
        if m not in inputs or o not in outputs:
            raise ScenarioError(f"assembly(pairs): got {(m, o)}; allowed: a modality of {sorted(inputs)} with a task of {sorted(outputs)}")
    if not pairs or any("_" in name or "." in name for name in (*inputs, *outputs)):
        raise ScenarioError(f"assembly: got pairs {list(pairs)}; allowed: at least one, of names without '.' and '_'")
    names = {f"expert.{m}.{o}": (f"expert.{m}_{o}",) for m, o in pairs}
    names |= {f"encoder.{m}": (f"encoder.{m}",) for m in inputs} | {f"head.{o}": (f"head.{o}",) for o in outputs}
    return model(lambda: _Assembly(inputs, outputs, pairs, width, shows_hidden), components=names, dtype=dtype, name="assembly")


def path(spec: ModelSpec, modalities: Sequence[str], task: str) -> tuple[str, ...]:
    """Names of the components that a task uses at a client with these modalities."""
    serves = {*modalities, task}
    finest = [n for n in spec.components if not any(other.startswith(n + ".") for other in spec.components)]
    return tuple(sorted(n for n in finest if serves.issuperset(n.split(".")[1:])))


@final
@dataclass(frozen=True, kw_only=True)
class TaskLosses(Additive):
    """Loss per task, times the task's share of the rows: their sum is the mean over all rows.

    Cross-entropy for tasks with classes, mean squared error against the row's own input for those in `rebuilds`.

    Arguments
    ---------
    pairs: as in `assembly`. rebuilds: for tasks that give back their input, how many values.
    """

    pairs: tuple[Pair, ...]
    rebuilds: tuple[tuple[str, int], ...] = ()

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names, in order of their first pair."""
        return tuple(dict.fromkeys(o for _, o in self.pairs))

    def is_of(self, task: str, batch: Batch) -> Tensor:
        """1 for rows of a task, else 0."""
        pair = _inputs(batch)["pair"]
        return sum(((pair == k).to(torch.float32) for k, (_, o) in enumerate(self.pairs) if o == task), torch.zeros_like(pair, dtype=torch.float32))

    def shares(self, batch: Batch) -> dict[str, float]:
        """Share of the rows that belong to each task."""
        return {o: float(self.is_of(o, batch).mean()) for o in self.tasks}

    def __call__(self, out: Tensor | Shown, batch: Batch) -> dict[str, Tensor]:
        found, out = {}, out if isinstance(out, Tensor) else out[0]
        for o in self.tasks:
            sizes = dict(self.rebuilds)
            if o not in sizes:
                loss = F.cross_entropy(out, batch.y, reduction="none")
                found[o] = torch.where(self.is_of(o, batch) > 0, loss, 0.0).mean()  # where: rows of other tasks may have no such class
                continue
            found[o] = torch.zeros((), dtype=out.dtype, device=out.device)
            for k, (m, other) in enumerate(self.pairs):
                if other == o:
                    error = (out[:, : sizes[o]] - _inputs(batch)[m]).square().mean(1)
                    found[o] = found[o] + torch.where(_inputs(batch)["pair"] == k, error, 0.0).mean()
        return found

    def towards(self, teacher: Params) -> Towards:
        """The objective of coming close to a teacher's outputs."""
        return Towards(teacher=teacher, losses=self)


@final
@dataclass(frozen=True, kw_only=True)
class Towards(Additive):
    """Mean over rows of KL(softmax(teacher) || softmax(out)); of the mean squared difference for tasks that give back their input."""

    teacher: Params
    losses: TaskLosses

    def __call__(self, out: Tensor | Shown, batch: Batch) -> Tensor:
        want, out = forward(self.teacher, batch), out if isinstance(out, Tensor) else out[0]
        a, b = F.log_softmax(want, dim=-1), F.log_softmax(out, dim=-1)
        per_row = (a.exp() * (a - b)).sum(-1)
        for o, size in self.losses.rebuilds:
            per_row = torch.where(self.losses.is_of(o, batch) > 0, (want - out)[:, :size].square().mean(1), per_row)
        return per_row.mean()


@final
@dataclass(frozen=True, kw_only=True)
class Orthogonal(Additive):
    """Mean of the squared cosines between hidden values of different groups of rows: an expert's each, and the shared layer's.

    mean over pairs a < b of groups with rows in the batch of  mean_ij cos(z_i, z_j)^2 = <C_a, C_b>,   C_a = mean_i z_i z_i^T / |z_i|^2
    """

    def __call__(self, out: Tensor | Shown, batch: Batch) -> Tensor:
        if isinstance(out, Tensor):
            raise ScenarioError("Orthogonal: the model shows no hidden values; make it with assembly(..., shows_hidden=True)")
        pair_B, grams, there = _inputs(batch)["pair"], [], []
        together = None  # rows of all pairs through the shared layer
        for k, common_BW, own_BW in out[1]:
            is_own_B = (pair_B == k).to(own_BW.dtype)
            grams.append(_gram(own_BW, is_own_B))
            there.append(is_own_B.amax())
            mine_BW = torch.where(is_own_B[:, None] > 0, common_BW, 0.0)
            together = mine_BW if together is None else together + mine_BW
        assert together is not None
        grams.append(_gram(together, torch.ones_like(together[:, 0])))
        there.append(torch.ones_like(there[0]))
        C, is_there = torch.stack(grams).flatten(1), torch.stack(there)
        cosines = torch.triu((C @ C.T) * torch.outer(is_there, is_there), diagonal=1)
        count = torch.triu(torch.outer(is_there, is_there), diagonal=1).sum()
        return cosines.sum() / count.clamp(min=1.0)


def _gram(z_BW: Tensor, is_in_B: Tensor) -> Tensor:
    """Mean of z z^T over the rows that are in, each of length 1."""
    unit_BW = F.normalize(z_BW, dim=1) * is_in_B[:, None]
    return unit_BW.T @ unit_BW / is_in_B.sum().clamp(min=1.0)


def _inputs(batch: Batch) -> Any:
    if not isinstance(batch.x, dict):
        raise ScenarioError(f"TaskLosses: got inputs of type {type(batch.x).__name__}; allowed: a dict of modalities, with 'pair'")
    return batch.x
