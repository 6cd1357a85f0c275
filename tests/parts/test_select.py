from __future__ import annotations

import copy
from collections import Counter
from itertools import permutations
from math import inf, log, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airloom.clock.rng import generator
from airloom.errors import RunFailed, ScenarioError
from airloom.parts.select import SELECTORS, Oort, PowerOfChoice, Selector, Uniform, Weighted, _draw, statistical_utility

NAMES = [f"phone{i}" for i in range(10)]
ALL = [Uniform(), Weighted(), PowerOfChoice(candidates=6), Oort(), Oort(is_normalized=True, most_picks=2), Oort(pacer_step_s=0.5, window=1)]


def rounds(select: Selector, results: list[dict[str, tuple[float, float]]], samples: dict[str, int]) -> dict[str, Any]:
    """History after rounds with {name: (loss, seconds)}."""
    history = select.start(samples)
    for result in results:
        history = select.update(history, losses={n: loss for n, (loss, _) in result.items()}, durations_s={n: s for n, (_, s) in result.items()})
    return history


# --- all selectors --------------------------------------------------------------------------------------------------------------------------


@given(st.integers(0, len(ALL) - 1), st.integers(1, 12), st.integers(1, 10), st.integers(0, 12), st.integers(0, 1000))
def test_exactly_k_different_names_in_the_order_given(which: int, k: int, present: int, past: int, seed: int) -> None:
    select = ALL[which]
    history = select.start(dict.fromkeys(NAMES, 5), {NAMES[0]: 0.0, NAMES[1]: 2.0})
    for t in range(past):
        chosen = select.choose(NAMES, k, history, generator(seed, t))
        rng = generator(seed, "results", t)
        history = select.update(history, losses={n: rng.random() for n in chosen}, durations_s={n: 3 * rng.random() for n in chosen})
    names = NAMES[:present]
    before = copy.deepcopy(history)
    chosen = select.choose(names, k, history, generator(seed, "last"))
    assert len(chosen) == min(k, present)
    assert chosen == [name for name in names if name in chosen]
    assert chosen == select.choose(names, k, history, generator(seed, "last"))
    assert history == before


def test_update_leaves_the_old_history_alone_and_records() -> None:
    select = Uniform()
    first = select.start({"a": 4, "b": 9})
    second = select.update(first, losses={"a": [3.0, 4.0]}, durations_s={"a": 1.5})
    third = select.update(second, losses={"a": 2.0, "b": 1.0}, durations_s={"a": 2.5, "b": 7.0})
    assert first == select.start({"a": 4, "b": 9})
    assert second["loss"] == {"a": 3.5}
    assert second["utility"] == {"a": pytest.approx(4 * sqrt(12.5))}
    assert (third["round"], third["last_round"], third["picks"]) == (2, {"a": 2, "b": 2}, {"a": 2, "b": 1})
    assert third["duration_s"] == {"a": 2.5, "b": 7.0}
    assert third["round_utility"] == [pytest.approx(4 * sqrt(12.5)), pytest.approx(4 * 2 + 9 * 1)]


def test_statistical_utility_by_hand() -> None:
    assert statistical_utility(6, [1.0, 7.0]) == pytest.approx(6 * 5)  # sqrt((1 + 49)/2) = 5
    assert statistical_utility(6, -2.0) == pytest.approx(12)


def test_bad_input_is_named() -> None:
    select = Uniform()
    history = select.start({"a": 1})
    with pytest.raises(ScenarioError, match=r"choose\(k=0\)"):
        select.choose(["a"], 0, history, generator(0))
    with pytest.raises(ScenarioError, match=r"no sample count for \['b'\]"):
        select.choose(["a", "b"], 1, history, generator(0))
    with pytest.raises(ScenarioError, match=r"same participants; only one of them has \['a'\]"):
        select.update(history, losses={"a": 1.0}, durations_s={})
    with pytest.raises(ScenarioError, match=r"losses=\{'a': \[\]\}"):
        select.update(history, losses={"a": []}, durations_s={"a": 1.0})
    with pytest.raises(RunFailed, match=r"client 'a' reports loss nan"):
        select.update(history, losses={"a": float("nan")}, durations_s={"a": 1.0})
    with pytest.raises(ScenarioError, match=r"durations_s=\{'a': -1.0\}"):
        select.update(history, losses={"a": 1.0}, durations_s={"a": -1.0})
    with pytest.raises(ScenarioError, match=r"Oort.alpha: got -1"):
        Oort(alpha=-1)
    with pytest.raises(ScenarioError, match=r"Oort.pacer_step_s: got 0"):
        Oort(pacer_step_s=0)


# --- weighted draws -------------------------------------------------------------------------------------------------------------------------


def test_draws_follow_the_law_of_one_draw_after_another() -> None:
    # P(first a, then b) = w_a/W * w_b/(W - w_a)
    weights = {"a": 1.0, "b": 2.0, "c": 5.0}
    n = 20_000
    rng = generator("law")
    seen = Counter(tuple(_draw(list(weights), list(weights.values()), 2, rng)) for _ in range(n))
    for first, second in permutations(weights, 2):
        p = weights[first] / 8 * weights[second] / (8 - weights[first])
        assert abs(seen[first, second] - n * p) < 4 * sqrt(n * p * (1 - p))


def test_weight_zero_comes_last_and_in_random_order() -> None:
    rng = generator("zero")
    draws = [_draw(["a", "b", "c"], [0.0, 0.0, 1.0], 3, rng) for _ in range(400)]
    assert all(draw[0] == "c" for draw in draws)
    assert 140 < sum(draw[1] == "a" for draw in draws) < 260  # 200 expected, standard deviation 10


@pytest.mark.parametrize(("select", "chance"), [(Uniform(), [1 / 3, 1 / 3, 1 / 3]), (Weighted(), [1 / 8, 2 / 8, 5 / 8])])
def test_uniform_and_weighted_chances(select: Selector, chance: list[float]) -> None:
    history = select.start({"a": 1, "b": 2, "c": 5})
    n = 4000
    seen = Counter(select.choose(["a", "b", "c"], 1, history, generator("chance", i))[0] for i in range(n))
    for name, p in zip("abc", chance):
        assert abs(seen[name] - n * p) < 4 * sqrt(n * p * (1 - p))


# --- power of choice ------------------------------------------------------------------------------------------------------------------------


def test_power_of_choice_takes_the_largest_losses_of_its_candidates() -> None:
    samples = dict.fromkeys("abcd", 1)
    select = PowerOfChoice(candidates=4)  # all are candidates
    history = rounds(select, [{"a": (0.1, 1), "b": (0.9, 1), "c": (0.5, 1), "d": (0.7, 1)}], samples)
    assert select.choose("abcd", 2, history, generator(0)) == ["b", "d"]
    assert select.choose(list("abcd"), 3, history, generator(0)) == ["b", "c", "d"]


def test_power_of_choice_tries_those_never_seen_first() -> None:
    select = PowerOfChoice(candidates=4)
    history = rounds(select, [{"a": (9.0, 1), "b": (9.0, 1)}], dict.fromkeys("abcd", 1))
    assert select.choose(list("abcd"), 2, history, generator(0)) == ["c", "d"]


def test_power_of_choice_with_as_many_candidates_as_places_is_weighted() -> None:
    history = PowerOfChoice(candidates=1).start({"a": 1, "b": 2, "c": 5})
    for i in range(50):
        draws = [select.choose(["a", "b", "c"], 2, history, generator(i)) for select in (PowerOfChoice(candidates=1), Weighted())]
        assert draws[0] == draws[1]


def test_power_of_choice_draws_candidates_by_samples() -> None:
    # c has the largest loss: it is chosen whenever it is among 2 of 3 candidates.
    # P(c drawn) = 5/8 + 1/8 * 5/7 + 2/8 * 5/6
    select = PowerOfChoice(candidates=2)
    history = rounds(select, [{"a": (0.1, 1), "b": (0.2, 1), "c": (0.3, 1)}], {"a": 1, "b": 2, "c": 5})
    n, p = 4000, 5 / 8 + 5 / 56 + 10 / 48
    seen = Counter(select.choose(["a", "b", "c"], 1, history, generator("pow", i))[0] for i in range(n))
    assert abs(seen["c"] - n * p) < 4 * sqrt(n * p * (1 - p))


# --- Oort, term by term ---------------------------------------------------------------------------------------------------------------------

STEADY = Oort(clip=1.0)  # no clipping


def test_oort_statistical_utility_and_staleness() -> None:
    # after two rounds, a was seen in round 1 and b in round 2; now R = 3
    history = rounds(STEADY, [{"a": (2.0, 1)}, {"b": (3.0, 1)}], {"a": 10, "b": 4})
    utility = STEADY.utilities(["a", "b"], history)
    assert utility["a"] == pytest.approx(10 * 2.0 + sqrt(0.1 * log(3) / 1))
    assert utility["b"] == pytest.approx(4 * 3.0 + sqrt(0.1 * log(3) / 2))


def test_oort_penalty_for_those_slower_than_preferred() -> None:
    # T = 2 s: a (1 s) and b (2 s) are in time; c takes 8 s: factor (2/8)^alpha
    select = Oort(clip=1.0, pacer_step_s=2.0, alpha=1.5)
    history = rounds(select, [{"a": (1.0, 1.0), "b": (1.0, 2.0), "c": (1.0, 8.0)}], dict.fromkeys("abc", 10))
    utility = select.utilities(["a", "b", "c"], history)
    alone = 10 + sqrt(0.1 * log(2) / 1)
    assert utility == {"a": pytest.approx(alone), "b": pytest.approx(alone), "c": pytest.approx(alone * 0.25**1.5)}


def test_oort_clips_at_the_quantile() -> None:
    # 20 utilities 1..20: index int(20 * 0.95) = 19 is the largest; at 0.9 index 18 has 19
    result = {f"c{i}": (1.0, 1.0) for i in range(20)}
    samples = {f"c{i}": i + 1 for i in range(20)}
    bonus = sqrt(0.1 * log(2))
    for clip, largest in ((0.95, 20), (0.9, 19), (0.5, 11)):
        select = Oort(clip=clip)
        utility = select.utilities(list(samples), rounds(select, [result], samples))
        assert max(utility.values()) == pytest.approx(largest + bonus)


def test_oort_normalized_utility() -> None:
    # utilities 10 and 20: low 9.99, span 10.01
    select = Oort(clip=1.0, is_normalized=True)
    utility = select.utilities(["a", "b"], rounds(select, [{"a": (1.0, 1), "b": (2.0, 1)}], {"a": 10, "b": 10}))
    bonus = sqrt(0.1 * log(2))
    assert utility == {"a": pytest.approx(0.01 / 10.01 + bonus), "b": pytest.approx(1 + bonus)}


def test_oort_pacer_in_seconds_rises_in_each_round_that_brought_less() -> None:
    # W = 2, Delta = 0.5. Utility by round 5 5 4 4 4 9: windows end at 4: 10 > 8 yes; 5: 9 > 8 yes; 6: 8 > 13 no
    select = Oort(window=2, pacer_step_s=0.5)
    expected = [0.5, 0.5, 0.5, 0.5, 1.0, 1.5, 1.5]  # T of rounds 1 to 7
    losses = [5.0, 5.0, 4.0, 4.0, 4.0, 9.0]
    for n, preferred_s in enumerate(expected):
        history = rounds(select, [{"a": (loss, 1.0)} for loss in losses[:n]], {"a": 1})
        assert select.preferred_s(history) == preferred_s


def test_oort_pacer_by_percentile() -> None:
    # ten durations 1..10 s: the 30th percentile is index 3, 4 s; steps of 5 %, every W = 1 rounds from round 2 on
    result = {f"c{i}": i + 1.0 for i in range(10)}
    samples = dict.fromkeys(result, 1)
    select = Oort(window=1)

    def preferred_s(losses: list[float]) -> float:
        return select.preferred_s(rounds(select, [{n: (loss, s) for n, s in result.items()} for loss in losses], samples))

    assert preferred_s([]) == inf
    assert preferred_s([1.0]) == 4.0
    assert preferred_s([1.0, 1.05]) == 4.0  # flat: 35 %, index 3
    assert preferred_s([1.0, 1.05, 1.0]) == 5.0  # flat twice: 40 %, index 4
    assert preferred_s([1.0, 2.0]) == 4.0  # grew, but not sixfold
    assert preferred_s([1.0, 6.0]) == 3.0  # 25 %, index 2
    assert preferred_s([1.0] * 15) == inf  # 30 + 14 * 5 = 100 %
    assert Oort(window=2).preferred_s(rounds(select, [{n: (1.0, s) for n, s in result.items()}] * 5, samples)) == 4.0  # one look, at round 4


def test_oort_exploration_decays_to_its_floor() -> None:
    select = Oort()
    share = [select.exploration_share({"round": n}) for n in range(200)]
    assert share[:3] == pytest.approx([0.9, 0.9 * 0.98, 0.9 * 0.98**2])
    assert share[74] == pytest.approx(0.9 * 0.98**74)  # 0.2018: log(0.2/0.9)/log(0.98) = 74.4
    assert share[75] == share[199] == 0.2


def test_oort_shares_places_between_new_and_seen() -> None:
    # k = 4, eps = 0.5 * 1: two new ones, two seen ones
    select = Oort(exploration=0.5, exploration_decay=1.0)
    seen, new = NAMES[:5], NAMES[5:]
    history = rounds(select, [{n: (1.0, 1.0) for n in seen}], dict.fromkeys(NAMES, 1))
    for i in range(20):
        chosen = select.choose(NAMES, 4, history, generator(i))
        assert len(set(chosen) & set(new)) == 2
    # one new one is left: its place is taken, the other three go to seen ones; none seen: all to new ones
    assert len(set(select.choose(NAMES[:6], 4, history, generator(0))) & set(new)) == 1
    assert set(select.choose(new, 4, history, generator(0))) <= set(new)


def test_oort_first_round_explores_only() -> None:
    select = Oort()
    assert len(select.choose(NAMES, 3, select.start(dict.fromkeys(NAMES, 1)), generator(0))) == 3


def test_oort_explores_by_speed() -> None:
    # chances 1/1 : 1/4, so 0.8 for the fast one; the one without an estimate counts as the mean, 2.5 s
    select = Oort()
    n = 3000
    for expected, p in (({"a": 1.0, "b": 4.0}, 0.8), ({}, 0.5)):
        history = select.start({"a": 1, "b": 1}, expected)
        seen = Counter(select.choose(["a", "b"], 1, history, generator("speed", i))[0] for i in range(n))
        assert abs(seen["a"] - n * p) < 4 * sqrt(n * p * (1 - p))
    history = select.start({"a": 1, "b": 1, "c": 1}, {"a": 1.0, "b": 4.0})
    p = 1 / (1 + 1 / 4 + 1 / 2.5)
    seen = Counter(select.choose(["a", "b", "c"], 1, history, generator("speed", i))[0] for i in range(n))
    assert abs(seen["a"] - n * p) < 4 * sqrt(n * p * (1 - p))


def test_oort_admits_above_the_cutoff_and_draws_by_utility() -> None:
    # utilities 100, 96, 94 and 10; k = 1: the cut is 0.95 * 100: only the first two may be drawn, with chances 100 : 96
    select = Oort(exploration=0.0, exploration_min=0.0, clip=1.0)
    samples = {"a": 100, "b": 96, "c": 94, "d": 10}
    history = rounds(select, [{n: (1.0, 1.0) for n in samples}], samples)
    n, bonus = 4000, sqrt(0.1 * log(2))
    seen = Counter(select.choose(list(samples), 1, history, generator("cut", i))[0] for i in range(n))
    assert set(seen) == {"a", "b"}
    p = (100 + bonus) / (196 + 2 * bonus)
    assert abs(seen["a"] - n * p) < 4 * sqrt(n * p * (1 - p))


def test_oort_lets_the_overused_rest() -> None:
    select = Oort(exploration=0.0, exploration_min=0.0, most_picks=1)
    samples = {"a": 100, "b": 1, "c": 1}
    everybody = {n: (1.0, 1.0) for n in samples}
    history = rounds(select, [everybody, {"a": (1.0, 1.0)}], samples)  # a took part twice
    assert select.choose(["a", "b", "c"], 2, history, generator(0)) == ["b", "c"]
    history = rounds(select, [everybody, everybody], samples)  # all did: the rule gives way
    assert len(select.choose(["a", "b", "c"], 2, history, generator(0))) == 2


def test_oort_copes_with_zero_losses() -> None:
    select = Oort(exploration=0.0, exploration_min=0.0)
    history = rounds(select, [{n: (0.0, 0.0) for n in NAMES}], dict.fromkeys(NAMES, 1))
    assert len(select.choose(NAMES, 4, history, generator(0))) == 4


def test_ten_thousand_clients_are_quick() -> None:
    names = [f"c{i}" for i in range(10_000)]
    for name in SELECTORS:
        select = PowerOfChoice(candidates=200) if name == "power_of_choice" else SELECTORS[name]()
        history = select.start(dict.fromkeys(names, 10))
        chosen = select.choose(names, 100, history, generator(name))
        history = select.update(history, losses=dict.fromkeys(chosen, np.ones(3)), durations_s=dict.fromkeys(chosen, 1.0))
        assert len(select.choose(names, 100, history, generator(name, 1))) == 100
