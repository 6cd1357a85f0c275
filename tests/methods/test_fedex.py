"""FedEx: the clock of three devices, steps that are conserved, equal starts, selection and its forced part, similarity, loss of clients."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from airloom.errors import ScenarioError
from airloom.methods.fedavg import FedAvg
from airloom.methods.fedex import FedEx
from airloom.parts.similarity import linear_cka
from airloom.plans import overlap
from airloom.tasks import TaskSettings, make_task
from tests.methods.hand import away, star, targets
from tests.methods.quadratic import Course, least_squares, random_rows, run
from tests.worlds import task_for, world

NAMES = list("abc")
ON: dict[str, Any] = {"first_overlap": 0, "cka_min": -1.0}  # overlap from round 1 on
TARGETS = targets({"a": (1, 1.0), "b": (1, 2.0), "c": (1, 3.0)})

# A step of one row costs 4 FLOPs: 0.5, 1 and 2 s. A model and a loss are 16 bytes: 3, 2 and 4 s.
SPEEDS, RATES = {"a": 8.0, "b": 4.0, "c": 2.0}, {"a": 16 / 3, "b": 8.0, "c": 4.0}


def three(**changes: Any) -> Any:
    return star(SPEEDS, rate=RATES, downlink="free", **changes)


def fedex(**fields: Any) -> FedEx:
    return FedEx(**{"local_steps": 10, "lr": 0.05, "batch_size": 1, "probe_rows": 2, **fields})


def played(rounds: int, network: Any = None, **fields: Any) -> Course:
    return run(network or three(), TARGETS, fedex(**fields), rounds, start=[0.0])


def taken(course: Course) -> dict[str, int]:
    """Steps that were executed, overlapped ones included: a step draws one row."""
    return {n: course.sim.sites[n].drawn for n in NAMES}


# --- the clock -------------------------------------------------------------------------------------------------------------------------------


def test_the_clock_of_three_devices() -> None:
    # without overlap max(3 + 5, 2 + 10, 4 + 20) = 24 s; c does floor((24 - 20) / 2) = 2 steps ahead, the others 5: 4 + 8 * 2 = 20 s
    course = played(5, ceiling=5, **ON)
    assert [course.spent(t)["seconds"] for t in range(1, 5)] == pytest.approx([24.0, 20.0, 20.0, 20.0])
    assert course.states[-1]["S"] == {"a": 5, "b": 5, "c": 2}
    # every round sends a model and a loss of each; overlap adds no byte upwards
    assert [course.spent(t)["bytes_up"] for t in range(1, 5)] == [48] * 4
    # R K + S_R steps (the first round without overlap among them)
    assert taken(course) == {"a": 55, "b": 55, "c": 52}


def test_overlap_computes_while_the_update_flies() -> None:
    # after round 1 (24 s), a and b have computed 15 steps, c 12; c's two extra steps (4 s) fill exactly the 4 s of its upload
    course = played(2, ceiling=5, **ON)
    busy = {n: course.sim.sites[n].meter.busy_s["cpu"] for n in NAMES}
    probe_s = {n: played(1, **ON).sim.sites[n].meter.busy_s["cpu"] - 10 * 4 / SPEEDS[n] for n in NAMES}  # of round 0, one row each
    assert {n: busy[n] - probe_s[n] for n in NAMES} == pytest.approx({"a": 25 * 0.5, "b": 25 * 1.0, "c": 22 * 2.0})
    assert course.spent(1)["seconds"] == pytest.approx(24.0)


def test_without_a_ceiling_to_fill_it_is_its_own_selection() -> None:
    # S_max = 0: the same models, and after the switch the same clock as with overlap never on
    off, never = played(4, ceiling=0, **ON), played(4, first_overlap=1000)
    assert [s["x"].flat.item() for s in off.states] == [s["x"].flat.item() for s in never.states]
    # a probe is paid in each round until the switch; it stays off the up-link's path for nobody
    assert off.spent(2)["seconds"] == 24.0 <= never.spent(2)["seconds"]


def test_all_clients_without_overlap_are_fedavg() -> None:
    network = star(dict.fromkeys(NAMES, 1e9))
    fields: dict[str, Any] = {"local_steps": 3, "lr": 0.1, "batch_size": 8}
    mine = run(network, task_for(network), FedEx(**fields, ceiling=0), 3)
    other = run(network, task_for(network), FedAvg(**fields), 3)
    assert torch.equal(mine.x, other.x)


@pytest.mark.parametrize("ceiling", [1, 3, 10, 99])
def test_overlapped_rounds_are_never_longer_and_conserve_steps(ceiling: int) -> None:
    course = played(6, ceiling=ceiling, **ON)
    assert all(course.spent(t)["seconds"] <= 24.0 + 1e-9 for t in range(1, 6))
    S = course.states[-1]["S"]
    assert all(0 <= s["S"].get(n, 0) <= min(ceiling, 10) for s in course.states for n in NAMES)
    assert taken(course) == {n: 6 * 10 + S[n] for n in NAMES}


# --- where a client starts ---------------------------------------------------------------------------------------------------------------------


def test_a_round_by_hand() -> None:
    # eta = 1/2, K = 2, S_max = 1; every step halves the distance to c = 8 (a) and c = 0 (b). Devices are equal and uploads long, so S' = 1.
    # round 0: a 0 -> 4 -> 6, b 0: x = 3. Round 1, as before but S' = 1: a 3 -> 5.5 -> 6.75, ahead 7.375, g = -0.625; b 3 -> 0.75, ahead 0.375,
    # g = 0.375; x = 3.75. Round 2, one step left: a starts at 3.75 + 0.625 = 4.375 -> 6.1875; b at 3.375 -> 1.6875; x = 3.9375
    task = targets({"a": (1, 8.0), "b": (1, 0.0)})
    network = star({"a": 4.0, "b": 4.0}, rate=1.0)
    course = run(network, task, fedex(local_steps=2, lr=0.5, ceiling=1, **ON), 3, start=[0.0])
    assert [s["x"].flat.item() for s in course.states] == [0.0, 3.0, 3.75, 3.9375]


def test_the_paper_s_start_equals_ours_while_all_take_part() -> None:
    rows = random_rows(NAMES)
    network = star({"a": 8e3, "b": 4e3, "c": 2e3}, rate=8.0)
    exact, paper = (
        run(network, least_squares(rows), FedEx(local_steps=6, lr=0.05, batch_size=2, ceiling=4, form=form, **ON), 6, start=[1.0, -1.0, 2.0])
        for form in ("exact", "paper")
    )
    assert max(exact.states[-1]["S"].values()) > 0
    np.testing.assert_allclose(paper.x.numpy(), exact.x.numpy(), rtol=1e-12)
    # and its own updates travel beside the model, theirs below it
    assert paper.spent(4)["bytes_up"] == pytest.approx(exact.spent(4)["bytes_up"] + 3 * 24)


def test_equal_clients_need_no_correction() -> None:
    # equal data, devices and draws: h_n = h, so that "paper" goes on from z_n, and so does "uncorrected"
    rows = random_rows(["a"], n=1)["a"]
    task = least_squares(dict.fromkeys("ab", rows))
    network = star({"a": 8e3, "b": 8e3}, rate=8.0)
    fields: dict[str, Any] = {"local_steps": 4, "lr": 0.05, "batch_size": 1, "ceiling": 2, **ON}
    ends = [run(network, task, FedEx(form=form, **fields), 5, start=[1.0, -1.0, 2.0]).x.numpy() for form in ("exact", "paper", "uncorrected")]
    np.testing.assert_allclose(ends[1], ends[0], rtol=1e-12)
    np.testing.assert_allclose(ends[2], ends[0], rtol=1e-12)


def test_uncorrected_clients_drift_to_their_own_optima() -> None:
    # without a correction nobody ever takes the global model: each goes to its own optimum
    course = played(40, form="uncorrected", ceiling=5, **ON)
    assert [course.sim.sites[n].state["x"].flat.item() for n in NAMES] == pytest.approx([1.0, 2.0, 3.0], abs=1e-3)
    exact = played(40, ceiling=5, **ON)
    assert exact.x.item() == pytest.approx(2.0, abs=0.1)


def test_a_client_keeps_one_update_at_most() -> None:
    course = played(5, ceiling=5, **ON)
    for n in NAMES:
        assert {key for key, value in course.sim.sites[n].state.items() if hasattr(value, "flat")} <= {"g"}


# --- who takes part --------------------------------------------------------------------------------------------------------------------------

CLIENT = overlap.Candidate(samples=50, loss=2.0, age=1, done=0, step_s=1.0, upload_s=4.0)
LAW: dict[str, Any] = {"forced_age": 20, "loss_power": 1.0, "time_power": 1.0}


def test_utilities_by_hand() -> None:
    # sqrt(50 * 2) = 10; 4 + 10 = 14 s of a preferred 7: a half; with overlap and 4 steps done 1 / (4 + 6)
    assert overlap.utility(CLIENT, 10, preferred_s=7.0, **LAW) == 5.0
    assert overlap.utility(CLIENT, 10, preferred_s=30.0, **LAW) == 10.0
    assert overlap.utility(replace(CLIENT, done=4), 10, preferred_s=None, **LAW) == 1.0
    assert overlap.utility(replace(CLIENT, done=12), 10, preferred_s=None, **LAW) == 2.5  # not less than nothing is left
    assert overlap.utility(replace(CLIENT, age=21), 10, preferred_s=None, **LAW) == inf
    assert overlap.utility(replace(CLIENT, loss=None), 10, preferred_s=None, **LAW) == inf


@given(
    st.lists(st.tuples(st.floats(0.01, 10), st.floats(0.01, 10), st.integers(0, 10)), min_size=1, max_size=6),
    st.integers(1, 10),
    st.integers(0, 10),
)
def test_budgets_keep_what_they_promise(devices: list[tuple[float, float, int]], steps: int, ceiling: int) -> None:
    chosen = {str(i): replace(CLIENT, step_s=c, upload_s=u, done=min(S, steps)) for i, (c, u, S) in enumerate(devices)}
    plan = overlap.ahead(chosen, steps, ceiling)
    plain = overlap.ahead({n: replace(c, done=0) for n, c in chosen.items()}, steps, ceiling)
    assert plan.finish_s <= plain.finish_s
    for n, c in chosen.items():
        assert 0 <= plan.ahead[n] <= ceiling
        # what is done ahead fits before the round ends, and one more would not, unless the ceiling stops it
        assert c.busy_s(steps) + plan.ahead[n] * c.step_s <= plan.finish_s * (1 + 1e-9)
        if plan.ahead[n] < ceiling:
            assert c.busy_s(steps) + (plan.ahead[n] + 1) * c.step_s > plan.finish_s * (1 - 1e-9)


def test_rounds_zero_and_one_ask_everybody_and_then_the_useful_ones() -> None:
    # losses (w - c)^2 / 2: c is farthest away, has the largest loss, and all are within the preferred time
    course = played(6, fraction=0.34, lr=1e-6, preferred_s=1000.0)
    assert taken(course) == {"a": 20, "b": 20, "c": 60}


def test_nobody_waits_longer_than_the_forced_age() -> None:
    course = played(30, fraction=0.34, forced_age=5, lr=1e-6)
    waits = [max(s["age"].values()) for s in course.states[1:]]
    assert max(waits) == 6 + 1  # two of them are overdue at once, and one place is there
    assert min(taken(course).values()) > 20


def test_who_missed_too_much_starts_anew() -> None:
    # b is away while rounds go on; when it comes back its ahead steps are thrown away: K steps from the global model
    churn = away(b=(50.0, 150.0))
    course = played(10, three(churn=churn), ceiling=5, **ON)
    ages = [s["age"].get("b", 1) for s in course.states]
    assert max(ages) > 2
    assert taken(course)["b"] % 5 == 0


# --- similarity --------------------------------------------------------------------------------------------------------------------------------


def test_cka_is_one_for_the_same_and_does_not_see_rotations_and_scales() -> None:
    rng = np.random.default_rng(0)
    x, y = (torch.from_numpy(rng.normal(size=(12, 4))) for _ in range(2))
    q, _ = torch.linalg.qr(torch.from_numpy(rng.normal(size=(4, 4))))
    assert linear_cka(x, x).item() == pytest.approx(1.0, abs=1e-12)
    assert linear_cka(3 * x @ q + 1, y).item() == pytest.approx(linear_cka(x, y).item(), abs=1e-12)
    assert 0 < linear_cka(x, y).item() < 0.9
    assert linear_cka(torch.ones(5, 2), torch.zeros(5, 1)).item() == 1.0
    assert linear_cka(torch.ones(5, 2), x[:5]).item() == 0.0


def test_overlap_begins_when_models_agree_and_not_before_its_round() -> None:
    network = star(dict.fromkeys(NAMES, 1e6), rate=1e3)
    task = make_task(TaskSettings(partition="iid", limit=150, public=0.2), NAMES, 0, model=task_for(network).model)

    def first_on(**fields: Any) -> list[bool]:
        course = run(network, task, FedEx(local_steps=2, lr=0.05, batch_size=8, ceiling=1, **fields), 5)
        return [s["is_on"] for s in course.states[1:]]

    for probe in ("clients", "public"):
        assert first_on(cka_min=0.5, first_overlap=2, probe=probe) == [False, False, False, True, True]
        assert not any(first_on(cka_min=1.0, first_overlap=0, probe=probe))


def test_probes_are_charged_where_they_are_made() -> None:
    network = star(dict.fromkeys(NAMES, 1e6), rate=1e3)
    task = make_task(TaskSettings(partition="iid", limit=150, public=0.2), NAMES, 0, model=task_for(network).model)
    fields: dict[str, Any] = {"local_steps": 2, "batch_size": 8}
    own, public = (run(network, task, FedEx(**fields, ceiling=2, probe=probe), 1) for probe in ("clients", "public"))
    assert own.spent(0)["bytes_up"] == public.spent(0)["bytes_up"] + 3 * 8
    assert own.stamps[-1]["joules_server"] == 0.0 < public.stamps[-1]["joules_server"]


# --- loss of clients, bad input --------------------------------------------------------------------------------------------------------------------


def test_a_client_that_loses_its_state_does_all_steps() -> None:
    # six rounds of 10 steps and 5 ahead of the last; the 5 that b had done ahead when it left, idle, at 60 s are done again
    wiped, kept = (played(6, three(churn=away(b=(60.0, 60.5)), on_leave=rule), ceiling=5, **ON) for rule in ("wipe", "keep"))
    assert taken(wiped)["b"] == 6 * 10 + 5 + 5 and taken(kept)["b"] == 6 * 10 + 5
    assert wiped.x.item() == pytest.approx(kept.x.item(), rel=1e-12)  # b's own optimum is that of the mean, so that its start does not matter


def test_nobody_there_keeps_the_model() -> None:
    network = world({(n, "hub"): 1.0 for n in "ab"}, churn=away(a=(0.0,), b=(0.0,)))
    course = run(network, targets({"a": (1, 1.0), "b": (1, 2.0)}), fedex(**ON), 1, start=[5.0])
    assert course.x.item() == 5.0


def test_bad_input() -> None:
    for field in ({"fraction": 0.0}, {"ceiling": -1}, {"smoothing": 0.0}, {"cka_min": 2.0}):
        with pytest.raises(ScenarioError, match=rf"FedEx\.{next(iter(field))}: got .* allowed is"):
            FedEx(**field)  # type: ignore[arg-type]
    with pytest.raises(ScenarioError, match="allowed are finite step_s and upload_s > 0"):
        replace(CLIENT, step_s=0.0)
    with pytest.raises(ScenarioError, match="no public pool"):
        played(1, probe="public")
