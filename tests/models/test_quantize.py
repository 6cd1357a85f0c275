"""Ternary layers: codes, gradients, exact folding, packed bytes, and the compiled product."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from airloom.errors import ScenarioError
from airloom.models import zoo
from airloom.models.quantize import PackedLinear, TernaryLinear, download, kernel, packed, quantized, ternary


def layer(inputs: int = 64, outputs: int = 10, *, group: int = 32, rule: str = "tequila", bias: bool = True, strength: float = 0.1) -> TernaryLinear:
    made = TernaryLinear(inputs, outputs, bias, group=group, rule=rule, bias_strength=strength)  # type: ignore[arg-type]
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        made.weight.copy_(torch.randn(made.weight.shape, generator=g))
        if made.bias is not None:
            made.bias.copy_(torch.randn(outputs, generator=g))
    return made


def test_codes_by_hand() -> None:
    # mean |w| = (3 + 1 + 1 + 3 + 0 + 4) / 6 = 2, threshold 1: a tie counts as alive
    w = torch.tensor([[3.0, -1.0, 1.0], [-3.0, 0.0, 4.0]])
    codes, alpha = ternary(w, 6)
    assert codes.tolist() == [[1, -1, 1], [-1, 0, 1]] and alpha.tolist() == [2.0]
    # twn: threshold 1.5 keeps 3, 3, 4, whose mean is 10 / 3
    codes, alpha = ternary(w, 6, "twn")
    assert codes.tolist() == [[1, 0, 0], [-1, 0, 1]] and alpha.tolist() == pytest.approx([10 / 3])


def test_gaussian_weights_have_the_dead_share_of_the_normal_law() -> None:
    codes, _ = ternary(torch.randn(512, 512, generator=torch.Generator().manual_seed(1)), 128)
    assert float((codes == 0).float().mean()) == pytest.approx(0.310, abs=0.01)  # P(|z| < 0.5 sqrt(2 / pi))


def test_gradient_is_the_formula_for_live_and_dead_weights() -> None:
    made, g = layer(), torch.Generator().manual_seed(2)
    x, dy = torch.randn(7, 64, generator=g), torch.randn(7, 10, generator=g)
    (made(x) * dy).sum().backward()
    codes, _ = ternary(made.weight.detach(), 32)
    live, dead = dy.T @ x, dy.T @ (x + 0.1)  # sum_t g_tj x_ti, and with lambda for the dead
    wanted = torch.where(codes == 0, dead, live)
    assert made.weight.grad is not None and made.bias is not None and made.bias.grad is not None
    torch.testing.assert_close(made.weight.grad, wanted, atol=1e-5, rtol=1e-5)  # seven products near 1
    torch.testing.assert_close(made.bias.grad, dy.sum(0))


def test_without_a_bias_strength_it_is_absmean_bit_for_bit() -> None:
    ours, theirs = layer(strength=0.0), layer(rule="absmean")
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(3))
    for _ in range(4):
        for made in (ours, theirs):
            made.zero_grad()
            made(x).square().mean().backward()
            with torch.no_grad():
                made.weight -= 0.1 * made.weight.grad  # type: ignore[operator]
    assert torch.equal(ours.weight, theirs.weight)


def test_scale_and_order() -> None:
    w = torch.randn(4, 32, generator=torch.Generator().manual_seed(4))
    codes, alpha = ternary(w, 32)
    scaled, more = ternary(4.0 * w, 32)  # a power of two scales without rounding
    assert torch.equal(codes, scaled) and torch.equal(4.0 * alpha, more)
    torch.testing.assert_close(ternary(w.flip(1), 32)[1], alpha)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rule", ["tequila", "absmean", "twn"])
def test_folding_is_exact(rule: str, bias: bool) -> None:
    made = layer(256, 24, group=128, rule=rule, bias=bias)
    folded = PackedLinear(made)
    x = torch.randn(3, 256, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        # codes and scales are the same numbers; sums of 256 in another order: 256 x 6e-8 x their size (below 16)
        assert float((made(x) - folded(x)).abs().max()) <= 3e-4
        assert torch.equal(F.linear(x, folded.weight()), F.linear(x, made_codes(made)))
        one = torch.stack([folded(row) for row in x])  # one vector at a time, in C where there is a compiler
        assert float((one - folded(x)).abs().max()) <= 3e-4


def made_codes(made: TernaryLinear) -> torch.Tensor:
    codes, alpha = ternary(made.weight.detach(), made.group, made.rule)
    return (codes.view(-1, made.group) * alpha[:, None]).view_as(codes)


def test_a_unit_scale_model_folds_within_1e_5() -> None:
    made = layer(128, 64, group=128)
    with torch.no_grad():
        made.weight.mul_(1 / 128**0.5)  # as layers begin: outputs near 1
        x = torch.randn(9, 128, generator=torch.Generator().manual_seed(6))
        assert float((made(x) - PackedLinear(made)(x)).abs().max()) <= 1e-5


@pytest.mark.parametrize(("inputs", "outputs", "group"), [(16, 1, 16), (48, 7, 16), (256, 5, 64), (384, 130, 128)])
def test_the_compiled_product_is_that_of_the_dense_weights(inputs: int, outputs: int, group: int) -> None:
    folded = PackedLinear(layer(inputs, outputs, group=group))
    x = torch.randn(inputs, generator=torch.Generator().manual_seed(7))
    wanted = folded.weight().double() @ x.double() + folded.bias.double()
    assert float((folded(x) - wanted).abs().max()) <= 6e-8 * inputs * float(folded.weight().abs().max() * x.abs().sum())
    assert folded(x[None, None]).shape == (1, 1, outputs)


def test_packed_bytes_are_a_seventh_of_half_precision() -> None:
    folded = PackedLinear(layer(128, 64, group=128))
    assert folded.nbytes == 64 * (128 // 4 + 4 + 4)  # two bits per weight, a scale per group, a bias per output
    assert folded.nbytes <= 0.16 * 2 * 128 * 64
    if kernel() is None:
        pytest.fail("there is no C compiler: the product was not compiled")


def test_a_transformer_keeps_its_values_and_its_head() -> None:
    spec = zoo.transformer(vocabulary=11, width=32, heads=2, blocks=2, context=8)
    made = quantized(spec, group=32)
    assert made.size == spec.size and made.key != spec.key and quantized(spec, group=32) is made
    module = made.module()
    kinds = {name: type(m) for name, m in module.named_modules() if isinstance(m, nn.Linear)}
    assert kinds["out"] is nn.Linear and sum(kind is TernaryLinear for kind in kinds.values()) == 12
    sent = download(made.initial(seed=0))
    assert sum(value.nbytes for value in sent.values()) < 0.4 * spec.nbytes  # embeddings, norms and the head stay whole
    ids = torch.randint(0, 11, (1, 8), generator=torch.Generator().manual_seed(8))
    module = made.fresh()
    with torch.no_grad():
        before = module(ids)
        assert float((packed(module)(ids) - before).abs().max()) <= 1e-5


def test_groups_fall_back_to_a_power_of_two() -> None:
    spec = zoo.mlp(inputs=172, hidden=(64,), classes=3)  # 172 = 4 x 43
    first = next(m for m in quantized(spec, group=128).module().modules() if isinstance(m, TernaryLinear))
    assert first.group == 4


def test_bad_input_is_named() -> None:
    with pytest.raises(ScenarioError, match="must divide the layer's 12 weights"):
        ternary(torch.zeros(3, 4), 5)
    with pytest.raises(ScenarioError, match="allowed are tequila, absmean, twn"):
        quantized(zoo.mlp(), rule="lsq")  # type: ignore[arg-type]
    with pytest.raises(ScenarioError, match="groups of 8 over 64 inputs"):
        PackedLinear(layer(group=8))
