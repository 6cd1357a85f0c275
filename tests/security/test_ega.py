"""Encoded aggregation: equal to FedAvg where it should be, errors by formula, bytes and the extra exchanges, the trained codec, what a code shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import airloom
from airloom.clock.rng import generator
from airloom.errors import ScenarioError
from airloom.methods.fedavg import FedAvg
from airloom.methods.fedopt import FedOpt
from airloom.models import zoo
from airloom.models.batch import Batch
from airloom.models.objective import CrossEntropy
from airloom.models.params import Params
from airloom.models.train import grad
from airloom.parts.blockcode import coded, orthogonal, rounded, trained
from airloom.parts.optimizer import ServerSGD
from airloom.security.ega import EGA
from airloom.security.gradient_inversion import invert, leakage
from airloom.tasks.datasets import load
from tests.methods.hand import away, star
from tests.methods.quadratic import least_squares, random_rows, run

NAMES = list("abcd")
FIELDS: dict[str, Any] = {"local_steps": 3, "lr": 0.1, "batch_size": 4}
FINE = 1_000_000  # levels at which rounding is next to nothing
ROWS = least_squares(random_rows(NAMES, d=5))  # 5 values: blocks of 4 need padding


def final(protect: Any = None, method: Any = FedAvg, network: Any = None, rounds: int = 3, **fields: Any) -> Any:
    given = {**FIELDS, **fields, **({} if protect is None else {"protect": protect})}
    return run(network or star(dict.fromkeys(NAMES, 1e9)), ROWS, method(**given), rounds, start=[1.0, -1.0, 2.0, 0.5, 3.0])


@pytest.mark.parametrize("method", [FedAvg, FedOpt])
@pytest.mark.parametrize("decoder", ["clients", "server"])
def test_without_noise_it_is_the_wrapped_method(method: Any, decoder: Any) -> None:
    plain, mine = final(method=method), final(EGA(block=4, levels=FINE, decoder=decoder), method)
    # three rounds, each rounded to n / 1e6 of the largest update, of the order of 1
    np.testing.assert_allclose(mine.x.numpy(), plain.x.numpy(), atol=1e-5)


def test_blocks_of_one_without_levels_are_the_wrapped_method_bit_for_bit() -> None:
    # such a code changes signs at most; four clients of equal weight: M p = 1, and a mean of updates is what FedOpt folds by itself
    plain, mine = (final(protect, FedOpt, server=ServerSGD(lr=1.0)) for protect in (None, EGA(block=1, levels=0)))
    assert torch.equal(mine.x, plain.x)


@pytest.mark.parametrize("sigma", [0.0, 2.0])
def test_the_rotation_with_noise_of_zero_sum_is_exact_up_to_rounding(sigma: float) -> None:
    # each of 3 rounds: products of 4 x 4 rotations there and back on codes of the order of 1 + sigma, some 50 roundings of 2.2e-16 each: below 1e-13
    plain, mine = final(), final(EGA(block=4, levels=0, sigma=sigma, noise="zero_sum"))
    assert ((mine.x - plain.x).norm() / plain.x.norm()).item() < 1e-12
    assert not torch.equal(mine.x, plain.x)


def test_zero_sum_noise_cancels() -> None:
    quiet, noisy = final(EGA(block=4, levels=FINE)), final(EGA(block=4, levels=FINE, sigma=2.0, noise="zero_sum"))
    np.testing.assert_allclose(noisy.x.numpy(), quiet.x.numpy(), rtol=1e-9, atol=1e-11)


def test_own_noise_leaves_sigma_over_the_root_of_the_clients() -> None:
    # codes of 8 clients with deviation 0.5: a rotation keeps it, the mean has 0.5 / sqrt 8 = 0.1768
    Q, M, rng = orthogonal(16, 1), 8, generator(0, "test")
    noise = torch.from_numpy(rng.normal(size=(M, 1000, 16))) * 0.5
    v = torch.from_numpy(rng.normal(size=(M, 1000, 16)))
    error = coded(Q, "D", (coded(Q, "E", v) + noise).mean(0)) - v.mean(0)
    assert error.square().mean().sqrt().item() == pytest.approx(0.5 / M**0.5, rel=0.05)
    # without noise the rotation is exact up to rounding
    assert (coded(Q, "D", coded(Q, "E", v).mean(0)) - v.mean(0)).abs().max() < 1e-13


def test_rounding_is_right_in_the_mean() -> None:
    # 10^5 draws of 0.3: deviation sqrt(0.21 / 1e5) = 1.4e-3
    drawn = rounded(torch.full((100_000,), 0.3, dtype=torch.float64), generator(0, "round"))
    assert set(drawn.tolist()) == {0.0, 1.0}
    assert abs(drawn.mean().item() - 0.3) < 4 * (0.21 / 1e5) ** 0.5


def test_bytes_of_a_round_by_hand() -> None:
    # up: the largest entry 8; then a code of ceil(5 / 4) * 4 * 8 bytes in float64, scale and share 8 each, the loss's zero 8, a flag 1. For the
    # decoder at a the mean code and the scale go down, the padded mean comes up
    spent = final(EGA(block=4, levels=FINE), rounds=1).spent(0)
    assert spent["bytes_up"] == 4 * (8 + 64 + 8 + 8 + 8 + 1) + 64
    at_server = final(EGA(block=4, levels=FINE, decoder="server"), rounds=1).spent(0)
    assert spent["bytes_up"] - at_server["bytes_up"] == 64
    assert spent["bytes_down"] - at_server["bytes_down"] == 64 + 8


def test_the_exchange_of_scales_costs_a_round_trip() -> None:
    network = star(dict.fromkeys(NAMES, 1e9), latency_s=1.0)
    plain, mine = (final(p, network=network, rounds=1).spent(0)["seconds"] for p in (None, EGA(block=4)))
    # down, up; or down, the largest entry up, the scale down, the code up, and the mean code to the decoder and back
    assert (round(plain, 3), round(mine, 3)) == (2.0, 6.0)


def test_a_bound_that_all_know_spares_the_exchange_and_clips() -> None:
    # nobody's largest entry goes up; without that round trip four of the six seconds are left. A bound above all values changes rounding alone
    network = star(dict.fromkeys(NAMES, 1e9), latency_s=1.0)
    mine, told = (final(EGA(block=4, levels=FINE, bound=bound), network=network, rounds=1) for bound in (10.0, 0.0))
    assert round(mine.spent(0)["seconds"], 3) == 4.0
    assert told.spent(0)["bytes_up"] - mine.spent(0)["bytes_up"] == 4 * 8
    np.testing.assert_allclose(mine.x.numpy(), final(rounds=1).x.numpy(), atol=1e-4)
    # FedOpt with a step of 1 moves by the mean update, whose entries are clipped to 0.001 at each client: none moves by more
    near = final(EGA(block=1, levels=FINE, bound=1e-3), FedOpt, rounds=1, server=ServerSGD(lr=1.0))
    moved = (near.x - torch.tensor([1.0, -1.0, 2.0, 0.5, 3.0])).abs()
    assert 1e-4 < moved.max() <= 1e-3 + 1e-8


def test_the_order_of_clients_changes_nothing() -> None:
    swapped = run(
        star(dict.fromkeys(reversed(NAMES), 1e9)), ROWS, FedAvg(**FIELDS, protect=EGA(block=4, levels=FINE)), 3, start=[1.0, -1.0, 2.0, 0.5, 3.0]
    )
    np.testing.assert_allclose(swapped.x.numpy(), final(EGA(block=4, levels=FINE)).x.numpy(), atol=1e-6)


def test_a_lost_client_is_left_out_with_its_weight() -> None:
    network = star(dict.fromkeys(NAMES, 1e3), rate=100.0, churn=away(d=(1.0,)))
    mine, plain = (final(p, network=network, rounds=1) for p in (EGA(block=4, levels=FINE), None))
    np.testing.assert_allclose(mine.x.numpy(), plain.x.numpy(), atol=1e-5)
    gone = star(dict.fromkeys(NAMES, 1e3), churn=away(**dict.fromkeys(NAMES, (0.0,))))
    assert final(EGA(), network=gone, rounds=1).x.tolist() == [1.0, -1.0, 2.0, 0.5, 3.0]


def test_a_code_shows_less_of_an_input_than_its_gradient_and_the_decoder_shows_all() -> None:
    data, spec = load("digits"), zoo.softmax_regression(inputs=64)
    Q, shown = orthogonal(13, 7), {"gradient": [], "code": [], "decoded": []}  # 650 values in blocks of 13
    for i in range(20):
        x, y = torch.from_numpy(data.x_train[i : i + 1]).flatten(1), torch.from_numpy(data.y_train[i : i + 1])
        g, _ = grad(spec.initial(0), Batch(x, y), objective=CrossEntropy())
        z = coded(Q, "E", g.flat.view(50, 13))
        for name, flat in (("gradient", g.flat), ("code", z.reshape(-1)), ("decoded", coded(Q, "D", z).reshape(-1))):
            shown[name].append(leakage(invert(Params(spec, flat), "out"), x[0]))
    mean = {name: float(np.mean(values)) for name, values in shown.items()}
    assert min(mean["gradient"], mean["decoded"]) > 0.99
    assert mean["code"] < 0.2 * mean["gradient"]


@pytest.mark.slow
def test_the_trained_codec_recovers_means_the_worse_the_more_noise() -> None:
    error = []
    for sigma in (0.0, 0.1, 0.5):
        code, rng = trained(16, 64, 8, 1500, 8, sigma, 3), generator(1, "test")
        x = torch.from_numpy(rng.integers(-8, 8, (8, 500, 16), endpoint=True).astype(np.float32) / 8)
        noise = sigma * torch.from_numpy(rng.normal(size=(8, 500, 16)).astype(np.float32))
        mean = coded(code, "D", (coded(code, "E", x) + noise).mean(0))
        error.append(((mean - x.mean(0)).square().mean() / x.mean(0).square().mean()).sqrt().item())
    assert error == sorted(error)
    assert error[0] < 0.15
    assert error[-1] < 1  # what a decoder that always says zero reaches


def test_training_a_codec_is_paid_once_by_every_place_that_uses_it() -> None:
    course = final(EGA(codec="trained", block=4, hidden=8, steps=5, groups=4))
    spent = [course.spent(t)["seconds"] for t in range(3)]
    assert spent[0] > 2 * spent[1] == pytest.approx(2 * spent[2])


def test_loop_and_pool_agree() -> None:
    small = {"scenario.devices": 4, "scenario.base_stations": 1}
    method = FedAvg(local_steps=1, lr=0.1, protect=EGA(sigma=0.1))
    given: dict[str, Any] = {"scenario": "phones", "set": small, "budget": {"rounds": 2}, "target": None, "out": None, "workers": 2}
    digests = [airloom.run(method, **given, executor=executor).summary["digest"] for executor in ("loop", "pool")]
    assert digests[0] == digests[1]


def test_bad_input() -> None:
    for field in ({"block": 0}, {"sigma": -1.0}, {"levels": -1}, {"bound": -1.0}, {"secret": -1}):
        with pytest.raises(ScenarioError, match=rf"EGA\.{next(iter(field))}: got .* allowed is"):
            EGA(**field)  # type: ignore[arg-type]
