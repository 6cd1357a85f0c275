"""Group policy gradient: unbiased by enumeration of all groups, per turn by enumeration of all episodes; clips, masks and dual variables by hand."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from airloom.errors import ScenarioError
from airloom.parts.advantage import (
    DR_GRPO,
    GRPO,
    REINFORCE,
    RLOO,
    Advantage,
    Dual,
    Surrogate,
    advantage,
    draw,
    rollout,
    turn_advantages,
)  # fmt: skip

LOGITS = np.array([0.6, 0.1, -0.3, -0.8])
P = np.exp(LOGITS) / np.exp(LOGITS).sum()
ROUNDING = 1e-13  # 4^4 groups of terms below 4, added up in float64: 256 * 4 * 1.1e-16
REWARD, COST, DUAL = np.array([2.0, 0.5, 0.2, 0.0]), np.array([0.0, 1.0, 0.0, 0.0]), 0.7


def exact(value: np.ndarray) -> np.ndarray:
    """Gradient of E[value] by the logits: p_a (value_a - E value)."""
    return P * (value - P @ value)


def expected(estimate: Advantage, size: int, costs: bool = False) -> np.ndarray:
    """Mean of (1/G) sum_i A_i grad log pi(a_i) over all 4^G groups, each with its probability."""
    groups = np.array(list(product(range(4), repeat=size)))
    A = estimate(REWARD[groups], COST[groups][..., None], np.array([DUAL])) if costs else estimate(REWARD[groups])
    score = np.eye(4)[groups] - P  # grad log pi(a) = e_a - p
    return np.einsum("n,ng,nga->a", P[groups].prod(1), A, score) / size


def test_the_exact_gradient_is_that_of_the_formula() -> None:
    assert exact(REWARD) == pytest.approx([0.418080, -0.149040, -0.153881, -0.115159], abs=1e-6)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_leave_one_out_is_unbiased(size: int) -> None:
    assert expected(RLOO, size) == pytest.approx(exact(REWARD), abs=ROUNDING)
    assert expected(RLOO, size, costs=True) == pytest.approx(exact(REWARD - DUAL * COST), abs=ROUNDING)
    assert expected(REINFORCE, size) == pytest.approx(exact(REWARD), abs=ROUNDING)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_without_kappa_it_is_shorter_by_exactly_one_share(size: int) -> None:
    assert expected(DR_GRPO, size) == pytest.approx((size - 1) / size * exact(REWARD), abs=ROUNDING)


@pytest.mark.parametrize(("size", "cosine"), [(2, 0.97986), (3, 0.99515), (4, 0.99893)])
def test_division_by_the_deviation_bends_it(size: int, cosine: float) -> None:
    a, b = expected(GRPO, size), exact(REWARD)
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) == pytest.approx(cosine, abs=5e-6)


def test_scaling_rewards_scales_all_but_grpo_and_a_group_of_cheap_answers_looks_alike_to_grpo() -> None:
    r = np.array([[2.0, 0.0, 0.5, 0.2]])
    assert RLOO(3 * r) == pytest.approx(3 * RLOO(r), abs=1e-12)
    assert not np.allclose(GRPO(3 * r), 3 * GRPO(r))
    solved, called = GRPO(np.array([[2.0, 0.0]])), GRPO(np.array([[0.5, 0.0]]))
    assert solved == pytest.approx(called, abs=1e-3)  # the reason not to divide: asking is learned as fast as solving


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=8), st.floats(0, 3))
def test_sums_vanish_and_both_forms_of_the_dual_advantage_agree(rewards: list[float], dual: float) -> None:
    r = np.array([rewards])
    c = (r > 0).astype(float)
    both = RLOO(r, c[..., None], np.array([dual]))
    assert both.sum() == pytest.approx(0.0, abs=1e-9)
    assert both == pytest.approx(RLOO(r) - dual * RLOO(c), abs=1e-9)
    n = r.shape[1]
    assert RLOO(r)[0] == pytest.approx([r[0, i] - (r.sum() - r[0, i]) / (n - 1) for i in range(n)], abs=1e-9)


def test_names_and_bad_input() -> None:
    assert advantage("dr_grpo") == DR_GRPO and advantage("advantage(kappa='one')") == DR_GRPO
    with pytest.raises(ScenarioError, match="at least two responses"):
        RLOO(np.zeros((3, 1)))
    with pytest.raises(ScenarioError, match="allowed"):
        advantage("gae")


# --- several turns --------------------------------------------------------------------------------------------------------------------

STOP = 2  # of three actions
TURN = np.array([[0.3, -0.2, 0.5], [0.1, 0.4, -0.6]])  # logits of the two turns; the second's do not depend on the first action
GAIN = np.array([[1.0, 0.2, 0.7], [0.4, -0.5, 2.0]])


def episodes() -> list[tuple[tuple[int, ...], float, np.ndarray, np.ndarray]]:
    """(actions, probability, rewards (2,), reached (2,)) of every episode: the first turn may stop it."""
    chance = np.exp(TURN) / np.exp(TURN).sum(1, keepdims=True)
    found = []
    for a in range(3):
        if a == STOP:
            found.append(((a,), chance[0, a], np.array([GAIN[0, a], 0.0]), np.array([True, False])))
            continue
        found += [((a, b), chance[0, a] * chance[1, b], np.array([GAIN[0, a], GAIN[1, b]]), np.array([True, True])) for b in range(3)]
    return found


def turn_gradient(size: int, estimate: Any) -> np.ndarray:
    """Mean over all groups of (1/G) sum_i sum_k A_ik grad log pi_k(a_ik)."""
    chance = np.exp(TURN) / np.exp(TURN).sum(1, keepdims=True)
    total = np.zeros((2, 3))
    for group in product(episodes(), repeat=size):
        p = np.prod([episode[1] for episode in group])
        A = estimate(np.array([[episode[2] for episode in group]]), np.array([[episode[3] for episode in group]]))[0]
        for i, (actions, *_) in enumerate(group):
            for k, action in enumerate(actions):
                total[k] += p * A[i, k] * (np.eye(3)[action] - chance[k]) / size
    return total


def true_gradient() -> np.ndarray:
    """By the policy gradient theorem: sum over episodes of p sum_k R_k grad log pi_k."""
    chance = np.exp(TURN) / np.exp(TURN).sum(1, keepdims=True)
    total = np.zeros((2, 3))
    for actions, p, rewards, _ in episodes():
        for k, action in enumerate(actions):
            total[k] += p * rewards[k:].sum() * (np.eye(3)[action] - chance[k])
    return total


@pytest.mark.parametrize("size", [2, 3])
def test_leave_one_out_per_turn_is_unbiased_although_episodes_stop_early(size: int) -> None:
    assert turn_gradient(size, turn_advantages) == pytest.approx(true_gradient(), abs=ROUNDING)


def test_a_mean_that_includes_oneself_is_biased_and_so_is_dropping_whoever_is_alone() -> None:
    def including(rewards: np.ndarray, reached: np.ndarray) -> np.ndarray:
        R = np.where(reached, rewards, 0.0)[..., ::-1].cumsum(-1)[..., ::-1] * reached
        return (R - R.sum(1, keepdims=True) / np.maximum(1, reached.sum(1, keepdims=True))) * reached

    def dropping(rewards: np.ndarray, reached: np.ndarray) -> np.ndarray:
        return turn_advantages(rewards, reached) * (reached.sum(1, keepdims=True) > 1)

    assert np.abs(turn_gradient(2, including) - true_gradient()).max() > 0.02
    assert np.abs(turn_gradient(2, dropping) - true_gradient()).max() > 0.01


# --- the loss -------------------------------------------------------------------------------------------------------------------------


def gradient(loss: Surrogate, drift: float, A: list[float], mask: list[list[float]] | None = None) -> torch.Tensor:
    """Gradient by the logits of two rows of two tokens; the present log-chances are `drift` above the old ones."""
    logits = torch.tensor(LOGITS).repeat(2, 2, 1).requires_grad_()
    tokens = torch.tensor([[0, 1], [2, 0]])
    old = torch.tensor(np.log(P))[tokens] - drift
    own = torch.tensor(mask or [[1.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    batch = rollout(torch.zeros(2, 2, dtype=torch.int64), tokens, own, A, old)
    return torch.autograd.grad(loss(logits, batch), logits)[0]


def test_on_policy_it_is_reinforce() -> None:
    score = torch.eye(4, dtype=torch.float64)[torch.tensor([[0, 1], [2, 0]])] - torch.tensor(P)
    expect = -score * torch.tensor([1.0, -2.0], dtype=torch.float64)[:, None, None] / 2  # the mean over two rows
    for loss in (Surrogate(), Surrogate(eps_low=0.2, eps_high=0.28)):
        assert torch.allclose(gradient(loss, 0.0, [1.0, -2.0]), expect, atol=1e-14)
    assert torch.allclose(gradient(Surrogate(reduction="mean"), 0.0, [1.0, -2.0]), expect / 2, atol=1e-14)
    assert torch.allclose(gradient(Surrogate(reduction="constant"), 0.0, [1.0, -2.0]), expect / 2, atol=1e-14)


def test_the_clip_stops_what_went_far_enough() -> None:
    loss = Surrogate(eps_low=0.2, eps_high=0.28)
    up, down = gradient(loss, 0.5, [1.0, -1.0]), gradient(loss, -0.5, [1.0, -1.0])
    assert not up[0].any() and up[1].any()  # 0.5 above the old ones: only what is to fall still moves
    assert down[0].any() and not down[1].any()


def test_external_tokens_have_no_gradient_and_do_not_count_in_the_mean() -> None:
    g = gradient(Surrogate(reduction="mean"), 0.0, [1.0, 1.0], mask=[[1.0, 0.0], [0.0, 0.0]])
    assert g[0, 0].any() and not g[0, 1].any() and not g[1].any()
    assert torch.allclose(g[0, 0], -(torch.eye(4, dtype=torch.float64)[0] - torch.tensor(P)) / 2, atol=1e-14)


def test_entropy_draws_own_chances_together_and_nothing_else() -> None:
    # without advantages the loss is -0.5 H / rows, and dH / dlogit_j = -p_j (log p_j + H), for the first token of the first row only
    g = gradient(Surrogate(entropy=0.5), 0.0, [0.0, 0.0], mask=[[1.0, 0.0], [0.0, 0.0]])
    H = -(P * np.log(P)).sum()
    assert np.allclose(g[0, 0].numpy(), 0.5 * P * (np.log(P) + H) / 2, atol=1e-14)
    assert not g[0, 1].any() and not g[1].any()


def test_a_multiplier_by_hand_never_falls_below_zero_and_answers_to_the_recent_excess() -> None:
    dual = Dual(first=0.1, lr=1.0, gain=5.0)
    assert dual.mu({}) == 0.1
    one = dual.step({}, 0.4)  # 0.1 + 0.4; the recent excess moves a tenth of the way to 0.4
    assert one == pytest.approx({"lambda": 0.5, "excess": 0.04}) and dual.mu(one) == pytest.approx(0.7)
    two = dual.step(one, -0.9)  # 0.5 - 0.9 is below zero; 0.04 + (-0.9 - 0.04) / 10 = -0.054
    assert two == pytest.approx({"lambda": 0.0, "excess": -0.054}) and dual.mu(two) == 0.0
    with pytest.raises(ScenarioError, match="gain"):
        Dual(gain=-1.0)


def test_the_gain_damps_the_swing_of_a_late_policy() -> None:
    def last(gain: float) -> float:
        """Widest excess of the last half, where use falls by 0.02 per unit of mu above 0.5 and follows it only through its sum."""
        dual, kept, use, wide = Dual(lr=0.02, gain=gain), {"lambda": 1.0}, 0.0, 0.0
        for t in range(2000):
            use -= 0.02 * (dual.mu(kept) - 0.5)
            kept = dual.step(kept, use)
            wide = max(wide, abs(use)) if t >= 1000 else wide
        return wide

    assert last(1.0) < 0.01 < 0.2 < last(0.0)  # without it the pair turns around its middle for ever: radius 0.5


def test_sampling_follows_the_distribution() -> None:
    uniform = np.array([[0.0, P[0] - 1e-9, P[0] + 1e-9, P[:3].sum() + 1e-9, 1.0]])
    assert draw(torch.from_numpy(LOGITS[None]), 5, uniform).tolist() == [[0, 0, 1, 3, 3]]
