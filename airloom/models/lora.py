"""Low-rank adapters: any model's linear layers wrapped with a pair A, B over a frozen base, which can be thawed to fold products into it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from airloom.errors import ScenarioError
from airloom.models.module import ModelSpec, model
from airloom.models.params import Params
from airloom.models.source import RankPair, base_weight, pair_scale
from airloom.models.submodel import Submodel, components, covers


@final
class LoRALinear(RankPair):
    """`y = W x + b + (s x A^T) B^T` with a frozen `W [out, in]`, `A [r, in]` drawn as a linear weight, `B [out, r]` zero at the start."""

    def __init__(self, base: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(base.weight.detach(), requires_grad=False)
        self.bias = None if base.bias is None else nn.Parameter(base.bias.detach(), requires_grad=False)
        self.A = nn.Parameter(torch.empty(rank, base.in_features, dtype=base.weight.dtype))
        self.B = nn.Parameter(torch.zeros(base.out_features, rank, dtype=base.weight.dtype))
        nn.init.kaiming_uniform_(self.A, a=math.sqrt(5))
        self.rank_scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias) + F.linear(self.rank_scale * F.linear(x, self.A), self.B)  # the smaller product is scaled


def lora(
    base: ModelSpec | Callable[[], nn.Module],
    *,
    rank: int,
    alpha: float | None = None,
    scaling: Literal["alpha/r", "alpha/sqrt(r)"] = "alpha/r",
    targets: Sequence[str] | None = None,
    train: Sequence[str] = (),
    values: Params | None = None,
    seed: int = 0,
    name: str | None = None,
) -> ModelSpec:
    """Return the spec of a model's adapters: one pair per targeted linear layer over a frozen base.

    The vector holds the pairs (and what `train` names) alone; the frozen base belongs to the spec and stays at the device (`frozen_bytes`).
    `(in + out) r` values per pair. A pair is named by the path of its layer, for `ranks`.

    Paper: E. J. Hu, Y. Shen, P. Wallis et al., "LoRA", 2021, arXiv 2106.09685, section 4.1. Scaling `alpha/sqrt(r)`: D. Kalajdzievski, 2023,
    arXiv 2312.03732.

    Arguments
    ---------
    base: a whole model's spec, or a factory of modules.
    rank: r, the same for all pairs, at least 1.
    alpha: numerator of the scale; None for `rank` (scale 1 with `alpha/r`).
    targets: dotted paths of linear layers, or of modules around them, or last names such as "query"; None for every linear layer outside `train`.
    train: components of the base that stay fully trainable (a new head); they start at `values` if given, else anew.
    values: values of the base (pretrained); None for its initial values under `seed`.
    seed: of those initial values.

    Raises
    ------
    ScenarioError: no layer matches, or `values` of another spec.

    >>> from airloom.models import zoo
    >>> spec = lora(zoo.mlp(inputs=4, hidden=(6,), classes=3), rank=2, targets=["hidden1"])
    >>> spec.pairs, spec.rank, spec.size, spec.frozen_bytes // 4
    (('hidden1',), 2, 20, 51)
    """
    spec = base if isinstance(base, ModelSpec) else model(base)
    if spec.is_slice or spec.pairs:
        raise ScenarioError(f"lora({spec}): allowed: a whole model without pairs")
    if rank < 1:
        raise ScenarioError(f"lora(rank={rank}): allowed: at least 1")
    start = spec.initial(seed) if values is None else values
    if start.spec.key != spec.key:
        raise ScenarioError(f"lora(values of {start.spec}): allowed: values of {spec}")
    open_paths = tuple(path for component in train for path in spec.component_paths(component))
    scale = (rank if alpha is None else alpha) / (rank if scaling == "alpha/r" else math.sqrt(rank))

    def is_target(path: str, child: nn.Module) -> bool:
        if not isinstance(child, nn.Linear) or any(covers(p, path) for p in open_paths):
            return False
        return targets is None or any(covers(t, path) or path.rpartition(".")[2] == t for t in targets)

    def build() -> nn.Module:
        module = spec.fresh()
        for leaf_name, value in start.named().items():
            owner, _, attribute = leaf_name.rpartition(".")
            is_open = any(covers(p, leaf_name) for p in open_paths)
            held = getattr(module.get_submodule(owner), attribute)
            if values is not None or not is_open:
                with torch.no_grad():
                    held.copy_(value)
            if isinstance(held, nn.Parameter):
                held.requires_grad_(is_open)
        for path, child in list(module.named_modules()):
            if isinstance(child, nn.Linear) and is_target(path, child):
                if child is module:  # the model is one linear layer
                    return LoRALinear(child, rank, scale)
                owner, _, attribute = path.rpartition(".")
                setattr(module.get_submodule(owner), attribute, LoRALinear(child, rank, scale))
        return module

    wrapped = [path for path, child in spec.fresh().named_modules() if is_target(path, child)]
    if not wrapped:
        raise ScenarioError(f"lora(targets={targets}) of {spec}: no linear layer matches")
    declared = {n: paths for n, paths in spec.components.items() if paths != (n,)}
    return model(
        build, components=declared, dtype=spec.dtype, channels_last=spec.channels_last, name=f"lora of {spec.name}" if name is None else name
    )


def thaw(x: Params) -> Params:
    """Return the same model with the frozen weights of its pairs' layers in the vector, so that a method can change them.

    >>> from airloom.models import zoo
    >>> x = lora(zoo.mlp(inputs=4, hidden=(6,), classes=3), rank=2, targets=["out"]).initial(0)
    >>> w = thaw(x)
    >>> len(w) - len(x) == 6 * 3 and (w[adapters(w.spec)].flat == x.flat).all().item()
    True
    """
    spec, module = x.spec.thawed, x.spec.module()
    frozen = {name: module.get_parameter(name).detach().to(x.flat.device) for name in {leaf.name for leaf in spec.leaves} - set(x.named())}
    return Params.from_named(spec, {**x.named(), **frozen})


def adapters(spec: ModelSpec) -> Submodel:
    """Select what the vector held before it was thawed: the pairs, and components that are trained in full."""
    return components(*[leaf.name for leaf in spec.cold.leaves])


def base_weights(spec: ModelSpec) -> Submodel:
    """Select the weights under the pairs of a thawed model."""
    own = {leaf.name for leaf in spec.cold.leaves}
    return components(*[leaf.name for leaf in spec.base.leaves if leaf.name not in own])


def fold(w: Params, pairs: Sequence[Params], weights: Sequence[float]) -> Params:
    """Add the mean product of several clients' pairs, of any ranks, to the weights under them.

    W <- W + s sum_n p_n B_n A_n, as one product of p_1 B_1, p_2 B_2, ... side by side and A_1, A_2, ... below each other

    Arguments
    ---------
    w: a thawed model, whole.
    pairs: slices of it that hold pairs.
    weights: p_n, one for each.
    """
    held, named, module, new = w.named(), [m.named() for m in pairs], w.spec.module(), {}
    for pair in w.spec.pairs:
        (a, b), leaf, holder = w.spec.pair_leaves(pair), base_weight(module, pair), module.get_submodule(pair)
        B = torch.cat([p * m[b] for p, m in zip(weights, named, strict=True)], 1)
        product = pair_scale(holder) * (B @ torch.cat([m[a] for m in named], 0))
        new[leaf] = held[leaf] + (product.T if getattr(holder, "fan_in_fan_out", False) else product)  # GPT-2 keeps its matrices the other way round
    return w | Params.from_named(w.spec.slice(base_weights(w.spec)), new)
