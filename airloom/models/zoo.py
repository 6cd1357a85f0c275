"""Models that ship with the package. Each function returns a `ModelSpec` with width axes, and with the components `extractor` and `classifier`.

Every model is a Sequential of layers, so that any run of `layers` is a model too. The last layer is `out`. Normalization is by group or layer:
no running statistics, so that slices, averages and `vmap` mean what they say. Parameter counts hold for the defaults.

Shapes: B samples, T positions, C channels, H x W pixels, D model width, V vocabulary.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from airloom.errors import ScenarioError
from airloom.models.module import AxisLike, ModelSpec, model

Axes = dict[str, tuple[AxisLike, ...]]


def _spec(build: Callable[[], nn.Module], layers: Sequence[str], axes: Axes, dtype: torch.dtype, name: str, channels_last: bool = False) -> ModelSpec:
    """Make a spec whose last layer is the classifier and whose others are the extractor."""
    components = {"classifier": (layers[-1],)} | ({"extractor": tuple(layers[:-1])} if len(layers) > 1 else {})
    return model(build, components=components, axes=axes, dtype=dtype, channels_last=channels_last, name=name)


def softmax_regression(*, inputs: int = 784, classes: int = 10, dtype: torch.dtype = torch.float32) -> ModelSpec:
    """Multinomial logistic regression: inputs [B, ...] flattened to [B, inputs], logits [B, classes].

    `classes (inputs + 1)` parameters: 7,850.
    """

    def build() -> nn.Module:
        return nn.Sequential(OrderedDict(flatten=nn.Flatten(), out=nn.Linear(inputs, classes)))

    return _spec(build, ["out"], {}, dtype, "softmax_regression")


def mlp(
    *, inputs: int = 784, hidden: Sequence[int] = (128,), classes: int = 10, dropout: float = 0.0, dtype: torch.dtype = torch.float32
) -> ModelSpec:
    """Multi-layer perceptron with ReLU: inputs [B, ...] flattened to [B, inputs], logits [B, classes].

    `sum (n_{l-1} + 1) n_l` parameters: 101,770. Layers and width axes: `hidden1, hidden2, ...`, then `out`.
    """
    sizes = [inputs, *hidden, classes]
    names = [*(f"hidden{i + 1}" for i in range(len(hidden))), "out"]

    def build() -> nn.Module:
        parts: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        for i, name in enumerate(names):
            parts[name] = nn.Linear(sizes[i], sizes[i + 1])
            if name != "out":
                parts[f"relu{i + 1}"] = nn.ReLU()
                if dropout:
                    parts[f"dropout{i + 1}"] = nn.Dropout(dropout)
        return nn.Sequential(parts)

    axes: Axes = {}
    for before, name in zip([None, *names[:-1]], names, strict=True):
        after = None if name == "out" else name
        axes[f"{name}.weight"], axes[f"{name}.bias"] = (after, before), (after,)
    return _spec(build, names, axes, dtype, "mlp")


def _conv_block(inputs: int, outputs: int, groups: int) -> nn.Sequential:
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        conv=nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        norm=nn.GroupNorm(math.gcd(groups, outputs), outputs),
        relu=nn.ReLU(),
        pool=nn.MaxPool2d(2),
    )
    return nn.Sequential(parts)


def cnn(
    *,
    channels: int = 1,
    size: int = 28,
    classes: int = 10,
    widths: Sequence[int] = (32, 64),
    hidden: int = 128,
    groups: int = 4,
    dtype: torch.dtype = torch.float32,
) -> ModelSpec:
    """Convolutional network: per width a 3 x 3 convolution, group norm, ReLU and 2 x 2 max pooling; then one hidden layer. Inputs [B, C, H, W].

    Parameters: `9 c_in c_out + 2 c_out` per block, `(c (size / 2^blocks)^2 + 1) hidden`, `(hidden + 1) classes`: 421,738.
    Layers and width axes: `block1, block2, ..., hidden`, then `out`.

    Arguments
    ---------
    size: height and width of the images in pixels, at least `2^blocks`.
    groups: groups of each normalization; where they do not divide the channels, the greatest common divisor.
    """
    pixels = (size >> len(widths)) ** 2
    if not pixels:
        raise ScenarioError(f"cnn(size={size}): allowed: at least {1 << len(widths)} pixels for {len(widths)} poolings")
    names = [f"block{i + 1}" for i in range(len(widths))]

    def build() -> nn.Module:
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        for name, before, after in zip(names, [channels, *widths], widths, strict=False):
            parts[name] = _conv_block(before, after, groups)
        parts["hidden"] = nn.Sequential(OrderedDict(flatten=nn.Flatten(), linear=nn.Linear(widths[-1] * pixels, hidden), relu=nn.ReLU()))
        parts["out"] = nn.Linear(hidden, classes)
        return nn.Sequential(parts)

    axes: Axes = {}
    for before, name in zip([None, *names], names, strict=False):
        axes |= {f"{name}.conv.weight": (name, before, None, None), f"{name}.norm.weight": (name,), f"{name}.norm.bias": (name,)}
    axes |= {"hidden.linear.weight": ("hidden", (names[-1], 1, pixels)), "hidden.linear.bias": ("hidden",), "out.weight": (None, "hidden")}
    return _spec(build, [*names, "hidden", "out"], axes, dtype, "cnn", True)


class _Residual(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut, which is a 1 x 1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(groups, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(groups, outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(OrderedDict(conv=nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm=nn.GroupNorm(groups, outputs)))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = F.relu(self.norm1(self.conv1(x_BCHW)))
        return F.relu(self.norm2(self.conv2(y_BCHW)) + self.shortcut(x_BCHW))


def resnet18(*, channels: int = 3, classes: int = 10, width: int = 64, groups: int = 8, dtype: torch.dtype = torch.float32) -> ModelSpec:
    """ResNet-18 for small images (3 x 3 stem, no pooling at the start), with group norm. Inputs [B, C, H, W], H and W at least 8.

    Paper: K. He, X. Zhang, S. Ren, J. Sun, "Deep Residual Learning for Image Recognition", 2015, arXiv 1512.03385.
    11,173,962 parameters at the defaults (the same as with batch norm). Layers: `stem, block1 ... block8, out`. Width axes: one per stage for the
    residual stream, one per block for the channels inside it.
    """
    widths = [width << (i // 2) for i in range(8)]
    strides = [2 if i in (2, 4, 6) else 1 for i in range(8)]
    names = [f"block{i + 1}" for i in range(8)]

    def build() -> nn.Module:
        stem: OrderedDict[str, nn.Module] = OrderedDict(
            conv=nn.Conv2d(channels, width, 3, padding=1, bias=False), norm=nn.GroupNorm(groups, width), relu=nn.ReLU()
        )
        parts: OrderedDict[str, nn.Module] = OrderedDict(stem=nn.Sequential(stem))
        for name, before, after, stride in zip(names, [width, *widths], widths, strides, strict=False):
            parts[name] = _Residual(before, after, stride, groups)
        parts["pool"] = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        parts["out"] = nn.Linear(widths[-1], classes)
        return nn.Sequential(parts)

    axes: Axes = {"stem.conv.weight": ("stage1", None, None, None), "stem.norm.weight": ("stage1",), "stem.norm.bias": ("stage1",)}
    before = "stage1"
    for i, name in enumerate(names):
        stage, inner = f"stage{i // 2 + 1}", f"{name}.inner"
        axes |= {f"{name}.conv1.weight": (inner, before, None, None), f"{name}.conv2.weight": (stage, inner, None, None)}
        axes |= {f"{name}.norm1.{leaf}": (inner,) for leaf in ("weight", "bias")} | {f"{name}.norm2.{leaf}": (stage,) for leaf in ("weight", "bias")}
        if strides[i] != 1:
            axes |= {f"{name}.shortcut.conv.weight": (stage, before, None, None)}
            axes |= {f"{name}.shortcut.norm.{leaf}": (stage,) for leaf in ("weight", "bias")}
        before = stage
    axes["out.weight"] = (None, "stage4")
    return _spec(build, ["stem", *names, "out"], axes, dtype, "resnet18", True)


class _Embedding(nn.Module):
    """Token vectors, plus learned position vectors if there is a context length."""

    def __init__(self, vocabulary: int, width: int, context: int | None) -> None:
        super().__init__()
        self.token = nn.Embedding(vocabulary, width)
        self.position = None if context is None else nn.Embedding(context, width)
        nn.init.normal_(self.token.weight, std=0.02 if context is not None else 1.0)
        if self.position is not None:
            nn.init.normal_(self.position.weight, std=0.02)

    def forward(self, ids_BT: Tensor) -> Tensor:
        h_BTD = self.token(ids_BT)
        return h_BTD if self.position is None else h_BTD + self.position(torch.arange(ids_BT.shape[1], device=ids_BT.device))


class _LSTM(nn.Module):
    """One LSTM layer over a sequence, states zero at its start; gates stacked as input, forget, output, candidate."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(hidden)
        self.from_input = nn.Parameter(torch.empty(4 * hidden, inputs).uniform_(-bound, bound))
        self.from_hidden = nn.Parameter(torch.empty(4 * hidden, hidden).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(4 * hidden).uniform_(-bound, bound))

    def forward(self, x_BTD: Tensor) -> Tensor:
        gates_BTG = F.linear(x_BTD, self.from_input, self.bias)
        h_BH = c_BH = x_BTD.new_zeros(x_BTD.shape[0], self.from_hidden.shape[1])
        weight_HG = self.from_hidden.t()
        out: list[Tensor] = []
        for gate_BG in gates_BTG.unbind(1):
            i, f, o, candidate = torch.addmm(gate_BG, h_BH, weight_HG).chunk(4, dim=1)
            c_BH = torch.sigmoid(f) * c_BH + torch.sigmoid(i) * torch.tanh(candidate)
            h_BH = torch.sigmoid(o) * torch.tanh(c_BH)
            out.append(h_BH)
        return torch.stack(out, dim=1)


def lstm(*, vocabulary: int = 80, embed: int = 8, hidden: Sequence[int] = (256, 256), dtype: torch.dtype = torch.float32) -> ModelSpec:
    """Next-character LSTM: ids [B, T] to logits [B, T, V], for the objective `NextToken`.

    Parameters: `V embed`, `4 h (h_before + h + 1)` per layer, `(h + 1) V`: 817,872 (one bias per gate).
    Layers and width axes: `embed, lstm1, lstm2, ...`, then `out`.
    """
    names = [f"lstm{i + 1}" for i in range(len(hidden))]

    def build() -> nn.Module:
        parts: OrderedDict[str, nn.Module] = OrderedDict(embed=_Embedding(vocabulary, embed, None))
        for name, before, after in zip(names, [embed, *hidden], hidden, strict=False):
            parts[name] = _LSTM(before, after)
        parts["out"] = nn.Linear(hidden[-1], vocabulary)
        return nn.Sequential(parts)

    axes: Axes = {"embed.token.weight": (None, "embed"), "out.weight": (None, names[-1])}
    for before, name in zip(["embed", *names], names, strict=False):
        axes |= {f"{name}.from_input": ((name, 4, 1), before), f"{name}.from_hidden": ((name, 4, 1), name), f"{name}.bias": ((name, 4, 1),)}
    return _spec(build, ["embed", *names, "out"], axes, dtype, "lstm")


class _Attention(nn.Module):
    """Self-attention with separate projections; the width of a head follows from the weights."""

    def __init__(self, width: int, heads: int, is_causal: bool) -> None:
        super().__init__()
        self.heads, self.is_causal = heads, is_causal
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.project = nn.Linear(width, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        B, T = x_BTD.shape[:2]
        q, k, v = (part(x_BTD).view(B, T, self.heads, -1).transpose(1, 2) for part in (self.query, self.key, self.value))
        return self.project(F.scaled_dot_product_attention(q, k, v, is_causal=self.is_causal).transpose(1, 2).reshape(B, T, -1))


class _Block(nn.Module):
    """Pre-norm transformer block: attention, then a feed-forward layer four times as wide."""

    def __init__(self, width: int, heads: int, dropout: float, is_causal: bool = True) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = _Attention(width, heads, is_causal)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BTD = x_BTD + self.dropout(self.attention(self.norm1(x_BTD)))
        return x_BTD + self.dropout(self.down(F.gelu(self.up(self.norm2(x_BTD)))))


def transformer(
    *,
    vocabulary: int = 80,
    width: int = 64,
    heads: int = 4,
    blocks: int = 2,
    context: int = 64,
    dropout: float = 0.0,
    dtype: torch.dtype = torch.float32,
) -> ModelSpec:
    """Next-character transformer, pre-norm, learned positions: ids [B, T], T at most `context`, to logits [B, T, V], for `NextToken`.

    Parameters: `(V + context) D`, `12 D^2 + 13 D` per block, `2 D`, `(D + 1) V`: 114,512.
    Layers: `embed, block1, ..., norm, out`. Width axes: `embed` (the residual stream), per block `head` (each head keeps its first entries; the
    number of heads stays) and `up`. LoRA targets: `query, key, value, project, up, down`.
    """
    if width % heads:
        raise ScenarioError(f"transformer(width={width}, heads={heads}): allowed: a width that the heads divide")
    names = [f"block{i + 1}" for i in range(blocks)]

    def build() -> nn.Module:
        parts: OrderedDict[str, nn.Module] = OrderedDict(embed=_Embedding(vocabulary, width, context))
        for name in names:
            parts[name] = _Block(width, heads, dropout)
        parts["norm"] = nn.LayerNorm(width)
        parts["out"] = nn.Linear(width, vocabulary)
        return nn.Sequential(parts)

    axes: Axes = {"embed.token.weight": (None, "embed"), "embed.position.weight": (None, "embed"), "out.weight": (None, "embed")}
    return _spec(build, ["embed", *names, "norm", "out"], axes | _block_axes(names, heads), dtype, "transformer")


def _block_axes(names: Sequence[str], heads: int) -> Axes:
    """Width axes of transformer blocks and of the norm behind them: `embed` is the residual stream."""
    stream = "embed"
    axes: Axes = {"norm.weight": (stream,), "norm.bias": (stream,)}
    for name in names:
        head, up = (f"{name}.head", heads, 1), f"{name}.up"
        for part in ("query", "key", "value"):
            axes |= {f"{name}.attention.{part}.weight": (head, stream), f"{name}.attention.{part}.bias": (head,)}
        axes |= {f"{name}.attention.project.weight": (stream, head), f"{name}.attention.project.bias": (stream,)}
        axes |= {f"{name}.up.weight": (up, stream), f"{name}.up.bias": (up,), f"{name}.down.weight": (stream, up), f"{name}.down.bias": (stream,)}
        axes |= {f"{name}.{norm}.{leaf}": (stream,) for norm in ("norm1", "norm2") for leaf in ("weight", "bias")}
    return axes


class _Patches(nn.Module):
    """An image cut into square patches, each projected to a vector, plus learned position vectors: [B, C, H, W] to [B, T, D]."""

    def __init__(self, channels: int, size: int, patch: int, width: int) -> None:
        super().__init__()
        self.patch = patch
        self.project = nn.Linear(channels * patch**2, width)
        self.position = nn.Embedding((size // patch) ** 2, width)
        nn.init.normal_(self.position.weight, std=0.02)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        pieces_BTP = F.unfold(x_BCHW, self.patch, stride=self.patch).transpose(1, 2)
        return self.project(pieces_BTP) + self.position.weight


class _Mean(nn.Module):
    """Mean over positions."""

    def forward(self, x_BTD: Tensor) -> Tensor:
        return x_BTD.mean(1)


def patch_transformer(
    *,
    channels: int = 1,
    size: int = 8,
    patch: int = 2,
    width: int = 32,
    heads: int = 4,
    blocks: int = 2,
    classes: int = 10,
    dropout: float = 0.0,
    dtype: torch.dtype = torch.float32,
) -> ModelSpec:
    """Transformer over the patches of an image, pre-norm, mean over positions: inputs [B, C, H, W], logits [B, classes].

    Parameters: `(C patch^2 + 1) D + (size / patch)^2 D`, `12 D^2 + 13 D` per block, `2 D`, `(D + 1) classes`: 26,474.
    Layers: `embed, block1, ..., norm, out`. Width axes and LoRA targets as in `transformer`.

    Paper: A. Dosovitskiy, L. Beyer, A. Kolesnikov et al., "An Image is Worth 16x16 Words", 2020, arXiv 2010.11929; mean instead of a class token.
    """
    if width % heads or size % patch:
        raise ScenarioError(f"patch_transformer(width={width}, heads={heads}, size={size}, patch={patch}): heads must divide width, and patch size")
    names = [f"block{i + 1}" for i in range(blocks)]

    def build() -> nn.Module:
        parts: OrderedDict[str, nn.Module] = OrderedDict(embed=_Patches(channels, size, patch, width))
        for name in names:
            parts[name] = _Block(width, heads, dropout, is_causal=False)
        parts["norm"] = nn.LayerNorm(width)
        parts["mean"] = _Mean()
        parts["out"] = nn.Linear(width, classes)
        return nn.Sequential(parts)

    axes: Axes = {"embed.project.weight": ("embed", None), "embed.project.bias": ("embed",), "embed.position.weight": (None, "embed")}
    axes |= {"out.weight": (None, "embed")} | _block_axes(names, heads)
    return _spec(build, ["embed", *names, "norm", "out"], axes, dtype, "patch_transformer")


def text_classifier(
    *,
    vocabulary: int = 257,
    context: int = 128,
    width: int = 32,
    heads: int = 4,
    blocks: int = 1,
    classes: int = 2,
    dtype: torch.dtype = torch.float32,
) -> ModelSpec:
    """Transformer over the tokens of a text, pre-norm, mean over all positions (padding too): ids [B, T], T at most `context`, logits [B, classes].

    Parameters: `(V + context) D`, `12 D^2 + 13 D` per block, `2 D`, `(D + 1) classes`: 25,154.
    Layers: `embed, block1, ..., norm, out`. Width axes and LoRA targets as in `transformer`.
    """
    if width % heads:
        raise ScenarioError(f"text_classifier(width={width}, heads={heads}): allowed: a width that the heads divide")
    names = [f"block{i + 1}" for i in range(blocks)]

    def build() -> nn.Module:
        parts: OrderedDict[str, nn.Module] = OrderedDict(embed=_Embedding(vocabulary, width, context))
        for name in names:
            parts[name] = _Block(width, heads, 0.0, is_causal=False)
        parts["norm"] = nn.LayerNorm(width)
        parts["mean"] = _Mean()
        parts["out"] = nn.Linear(width, classes)
        return nn.Sequential(parts)

    axes: Axes = {"embed.token.weight": (None, "embed"), "embed.position.weight": (None, "embed"), "out.weight": (None, "embed")}
    return _spec(build, ["embed", *names, "norm", "out"], axes | _block_axes(names, heads), dtype, "text_classifier")
