"""Ternary weights: linear layers that train with weights in {-1, 0, +1} times a scale, and that run from two bits per weight.

    alpha = mean |w| over a group,  Delta = alpha / 2,  A = alpha where w >= Delta, -alpha where w <= -Delta, else 0
    y = x A^T + C + bias,           C_j = lambda sum of w_ji over the dead weights (A_ji = 0)
    dL/dw = dL/dA everywhere (straight through), plus lambda sum_t dL/dy_tj where w_ji is dead

Paper: H. Huang, D. Wu, R. Cen et al., "Tequila: Trapping-free Ternary Quantization for Large Language Models", 2025, OpenReview 9CZzD5LWdy; quantizer
and backward pass after the authors' code (AngelSlim, branch tequila).
Symbols: lambda `bias_strength`, G `group`, T the codes A / alpha.
Left out: the variants whose bias depends on the input; activations stay in float32.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Literal, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from airloom.errors import ScenarioError
from airloom.models.dense import NoKernel, built
from airloom.models.module import ModelSpec, model
from airloom.models.params import Params

Rule = Literal["tequila", "absmean", "twn"]
RULES: tuple[Rule, ...] = ("tequila", "absmean", "twn")
_BLOCK = 16  # columns per word of `ternary.c`


def ternary(w_OI: Tensor, group: int, rule: Rule = "tequila") -> tuple[Tensor, Tensor]:
    """Return the codes in {-1, 0, 1} [out, in] and the scale of each group [out * in / group].

    "tequila" and "absmean" round at half the mean magnitude; "twn" (F. Li et al., 2016, arXiv 1605.04711) drops below 0.75 of it and takes the mean
    magnitude of what is left.

    >>> codes, alpha = ternary(torch.tensor([[4.0, -1.0, 0.5, -2.5]]), group=4)           # alpha = 2, Delta = 1
    >>> codes.tolist(), alpha.tolist()
    ([[1.0, -1.0, 0.0, -1.0]], [2.0])
    """
    if w_OI.numel() % group:
        raise ScenarioError(f"ternary(group={group}): must divide the layer's {w_OI.numel()} weights; choose a divisor of its inputs")
    g = w_OI.reshape(-1, group)
    mean = g.abs().mean(1, keepdim=True)
    delta = 0.75 * mean if rule == "twn" else mean / 2
    codes = (g >= delta).to(g.dtype) - (g <= -delta).to(g.dtype)
    if rule == "twn":
        kept = codes.abs().sum(1, keepdim=True).clamp(min=1)
        mean = (g * codes).sum(1, keepdim=True) / kept
    return codes.view_as(w_OI), mean.flatten()


class TernaryLinear(nn.Linear):
    """A linear layer whose forward pass sees ternary weights; `weight` is the latent one and trains in full precision."""

    rule: Rule

    def __init__(self, inputs: int, outputs: int, bias: bool, *, group: int, rule: Rule, bias_strength: float) -> None:
        super().__init__(inputs, outputs, bias)
        self.group, self.rule, self.bias_strength = group, rule, bias_strength

    def forward(self, input: Tensor) -> Tensor:
        w = self.weight
        codes, alpha = ternary(w.detach(), self.group, self.rule)
        A = (codes.view(-1, self.group) * alpha[:, None]).view_as(w) + (w - w.detach())  # exactly A, with the gradient of w
        bias = self.bias
        if self.rule == "tequila" and self.bias_strength:
            C = self.bias_strength * (w * (codes == 0)).sum(1)
            bias = C if bias is None else bias + C
        return F.linear(input, A, bias)


@functools.lru_cache(maxsize=32)
def quantized(spec: ModelSpec, *, group: int = 128, rule: Rule = "tequila", bias_strength: float = 1e-3, keep: str = "out") -> ModelSpec:
    """The same model with ternary linear layers, but for the one called `keep`; values of one are values of the other.

    Layers whose inputs the group does not divide get the largest power of two that divides them.

    >>> from airloom.models import zoo
    >>> spec = zoo.transformer(vocabulary=8, width=16, heads=2, blocks=1, context=4)
    >>> ternary_spec = quantized(spec, group=16)
    >>> ternary_spec.size == spec.size, [leaf.name for leaf in ternary_spec.leaves] == [leaf.name for leaf in spec.leaves]
    (True, True)
    """
    if rule not in RULES or group < 1 or not 0 <= bias_strength < float("inf"):
        raise ScenarioError(f"quantized(group={group}, rule={rule!r}, bias_strength={bias_strength}): allowed are {', '.join(RULES)}, group >= 1")

    def build() -> nn.Module:
        module = spec.fresh()
        for name, layer in list(module.named_modules()):
            if type(layer) is nn.Linear and name not in ("", keep):  # a model that is one linear layer is its own head
                own = group if layer.in_features % group == 0 else layer.in_features & -layer.in_features
                swapped = TernaryLinear(
                    layer.in_features, layer.out_features, layer.bias is not None, group=own, rule=rule, bias_strength=bias_strength
                )
                swapped.load_state_dict(layer.state_dict())
                parent, _, last = name.rpartition(".")
                setattr(module.get_submodule(parent), last, swapped)
        return module

    declared = {name: paths for name, paths in spec.components.items() if paths != (name,)}
    return model(build, components=declared, dtype=spec.dtype, name=f"{rule} {spec.name}")


@final
class PackedLinear(nn.Module):
    """A trained ternary layer for deployment: two bits per weight, one scale per group, one bias per output. One token at a time it runs in C."""

    codes: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, layer: TernaryLinear) -> None:
        super().__init__()
        if layer.in_features % layer.group or layer.group % _BLOCK:
            raise ScenarioError(
                f"PackedLinear: groups of {layer.group} over {layer.in_features} inputs; allowed are multiples of {_BLOCK} that divide"
            )
        w = layer.weight.detach().float()
        codes, alpha = ternary(w, layer.group, layer.rule)
        self.inputs, self.group = layer.in_features, layer.group
        bias = torch.zeros(layer.out_features) if layer.bias is None else layer.bias.detach().float().clone()
        if layer.rule == "tequila":
            bias += layer.bias_strength * (w * (codes == 0)).sum(1)
        bit = 2 ** torch.arange(_BLOCK)
        blocks = codes.view(layer.out_features, -1, _BLOCK)
        words = ((blocks > 0) * bit).sum(2) + (((blocks < 0) * bit).sum(2) << _BLOCK)
        self.register_buffer("codes", torch.where(words >= 2**31, words - 2**32, words).to(torch.int32))
        self.register_buffer("scale", alpha.view(layer.out_features, -1).contiguous())
        self.register_buffer("bias", bias)

    @property
    def nbytes(self) -> int:
        """Bytes of the packed layer."""
        return sum(buffer.nbytes for buffer in self.buffers())

    def weight(self) -> Tensor:
        """The dense ternary weights [out, in]."""
        words = self.codes.long()[..., None] >> torch.arange(_BLOCK)
        codes = (words & 1) - ((words >> _BLOCK) & 1)
        scale = self.scale.repeat_interleave(self.group // _BLOCK, 1)[..., None]
        return (codes * scale).view(len(self.bias), self.inputs)

    def forward(self, x: Tensor) -> Tensor:
        library = kernel() if x.numel() == self.inputs and x.dtype == torch.float32 and x.device.type == "cpu" else None
        if library is None:
            return F.linear(x, self.weight(), self.bias)
        x, y = x.contiguous(), torch.empty(*x.shape[:-1], len(self.bias))
        given = [t.data_ptr() for t in (y, self.codes, self.scale, self.bias, x)]
        library.airloom_ternary(*given, len(self.bias), self.inputs // _BLOCK, self.group // _BLOCK)
        return y


def packed(module: nn.Module) -> nn.Module:
    """Replace the ternary layers of a module by packed ones, in place; return it."""
    for name, layer in list(module.named_modules()):
        if isinstance(layer, TernaryLinear):
            parent, _, last = name.rpartition(".")
            setattr(module.get_submodule(parent), last, PackedLinear(layer))
    return module


@functools.cache
def kernel() -> ctypes.CDLL | None:
    """The library of `ternary.c`; None where it cannot be built (the dense weights are then unpacked for each call)."""
    try:
        return compiled()
    except NoKernel:
        return None


@functools.cache
def compiled() -> ctypes.CDLL:
    """The library of `ternary.c`, checked once per process against float64.

    Raises
    ------
    NoKernel: no compiler, or what it made is not right.
    """
    library = built(Path(__file__).with_name("ternary.c"))
    if isinstance(library, str):
        raise NoKernel(library)
    p, n = ctypes.c_void_p, ctypes.c_int64
    library.airloom_ternary.argtypes, library.airloom_ternary.restype = [p, p, p, p, p, n, n, n], None
    g = torch.Generator().manual_seed(0)
    words, x = torch.randint(0, 2**16, (5, 6), generator=g), torch.randn(96, generator=g)
    words = words & ~(words >> 3)
    plus, minus = words, (words << 5) & 0xFFFF & ~words
    scale, bias, y = torch.rand(5, 3, generator=g), torch.randn(5, generator=g), torch.empty(5)
    both = plus + (minus << _BLOCK)
    both = torch.where(both >= 2**31, both - 2**32, both).to(torch.int32)
    library.airloom_ternary(*[t.data_ptr() for t in (y, both, scale, bias, x)], 5, 6, 2)
    lanes = torch.arange(_BLOCK)
    codes = ((plus[..., None] >> lanes) & 1) - ((minus[..., None] >> lanes) & 1)
    wanted = (codes.double() * scale.double().repeat_interleave(2, 1)[..., None]).view(5, -1) @ x.double() + bias.double()
    gap = float((y - wanted).abs().max())
    if not gap <= 1e-4:  # sums of 96 numbers near 1 in float32 round by less than 96 x 6e-8 x 96
        raise NoKernel(f"what the compiler built differs from float64 by {gap:.1e}")
    return library


def merged(x: Params, spec: ModelSpec) -> Params:
    """The ternary values as a plain model of `spec` (the one it was made from): weights A, biases with C. It computes the same.

    Raises
    ------
    ScenarioError: a layer without bias under "tequila": there is no leaf for C.
    """
    module, named = x.spec.fresh(), x.named()
    for path, layer in module.named_modules():
        if isinstance(layer, TernaryLinear):
            w = named[f"{path}.weight"]
            codes, alpha = ternary(w, layer.group, layer.rule)
            named[f"{path}.weight"] = (codes.view(-1, layer.group) * alpha[:, None]).view_as(w)
            if layer.rule == "tequila" and layer.bias_strength:
                if layer.bias is None:
                    raise ScenarioError(f"merged({x.spec}): layer '{path}' has no bias to fold into; give it one, or use PackedLinear")
                named[f"{path}.bias"] = named[f"{path}.bias"] + layer.bias_strength * (w * (codes == 0)).sum(1)
    return Params.from_named(spec, named)


def download(x: Params) -> dict[str, Tensor]:
    """What a device needs to run trained values: packed layers, and the rest as it is. Sent as a value, it weighs what it weighs.

    >>> from airloom.models import zoo
    >>> spec = zoo.mlp(inputs=128, hidden=(128,), classes=2)
    >>> sent = download(quantized(spec, group=128).initial(seed=0))
    >>> sum(value.nbytes for value in sent.values()), spec.nbytes                # 128 x (32 of codes, 4, 4) bytes, and the head
    (6152, 67080)
    """
    module = x.spec.fresh()
    module.load_state_dict(x.named(), strict=False)
    return dict(packed(module).state_dict())
