"""WHALE-FL: FedAvg at one level, smallest at first, widths that follow the utilities by hand, load and time, the published quirks, losses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from airloom.engines.simnode import SimNode
from airloom.errors import ScenarioError
from airloom.methods.fedavg import FedAvg
from airloom.methods.whale_fl import WhaleFL
from airloom.models.train import grad
from airloom.network.load import TraceLoad
from airloom.plans.width import rate, utility
from tests.methods.hand import away
from tests.methods.quadratic import Course, run
from tests.methods.widths import NAMES, boards, digits
from tests.worlds import play

FIELDS: dict[str, Any] = {"local_steps": 3, "lr": 0.2, "batch_size": 8}


def widths(course: Course) -> list[dict[str, float]]:
    """p of every round, worked out again from the states."""
    found = []
    for s, after in zip(course.states, course.states[1:], strict=False):
        r, top = s["t"], after["linear_arg"]
        F = s["F"]
        row = {}
        for n in NAMES:
            W = utility(len(course.sim.task.data(n)), F[-2][n] if len(F) >= 2 else None, s["T"].get(n, 20.0), scale_s=20.0, power=1.0)
            row[n] = rate(W / top if top else 0.0)
        found.append(row)
        assert r == len(found) - 1
    return found


def reports(network: Any, task: Any, method: WhaleFL, rounds: int) -> list[dict[str, Any]]:
    def text(node: SimNode) -> None:
        s = method.init(node, task.model.initial(0))
        for _ in range(rounds):
            s = method.round(node, s)
            node.sim.end_round()

    return play(network, text, task=task).reports


def test_one_level_with_all_labels_is_fedavg_with_equal_weights() -> None:
    network, task = boards(), digits("iid")
    mine = run(network, task, WhaleFL(levels=1, clip_norm=1e9, **FIELDS), 3)
    other = run(network, task, FedAvg(weights="equal", **FIELDS), 3)
    np.testing.assert_allclose(mine.x.numpy(), other.x.numpy(), rtol=1e-6, atol=1e-7)
    assert mine.stamps[-1]["bytes_up"] == other.stamps[-1]["bytes_up"]  # 8 bytes of F, as many as of FedAvg's loss


@pytest.mark.parametrize(("delay", "onepoint"), [(0, 0), (2, 1)])
def test_all_start_at_the_smallest_until_the_window_is_complete(delay: int, onepoint: int) -> None:
    seen = reports(boards(), digits(), WhaleFL(delay=delay, onepoint=onepoint, **FIELDS), 2 + delay + onepoint + 1)
    assert all(s["narrowest"] == s["widest"] == 1 / 16 and s["F_high"] == 0.0 for s in seen[:-1])
    assert seen[-1]["widest"] == 1.0 and seen[-1]["F_high"] > seen[-1]["F_low"] > 0  # calibrated: the largest W exceeds the normalizer


def test_widths_follow_the_states_by_hand() -> None:
    network, task = boards(3e4), digits()
    course = run(network, task, WhaleFL(delay=0, **FIELDS), 6)
    seen = reports(network, task, WhaleFL(delay=0, **FIELDS), 6)
    p = widths(course)
    for told, row in zip(seen, p, strict=True):
        assert (told["rate"], told["narrowest"], told["widest"]) == (np.mean(list(row.values())), min(row.values()), max(row.values()))
    assert len({tuple(row.values()) for row in p}) > 2
    # what the normalizer is calibrated to: a tenth of the largest utility of round 2, the first with a window
    s = course.states[2]
    top = 0.1 * max(len(task.data(n)) * s["F"][0][n] ** 0.5 * 20.0 / s["T"][n] for n in NAMES)
    assert course.states[3]["linear_arg"] == pytest.approx(top)
    assert course.states[6]["linear_arg"] == course.states[3]["linear_arg"]


def test_F_is_the_mean_square_of_the_raw_gradient_over_the_batch_size() -> None:
    # one step: F = |g|^2 / (values of the slice) / batch size; the step is g clipped to 1 times lr, so |x_n - x| = lr where |g| > 1
    course = run(boards(), digits("iid"), WhaleFL(levels=1, local_steps=1, lr=0.1, batch_size=8), 1)
    x, task = course.states[0]["x"], course.sim.task
    for n in NAMES:
        batch = task.data(n).rows(task.sample_ids(n, 0, 8, 0, 0.0))
        g, _ = grad(x, batch)
        assert course.states[1]["F"][0][n] == pytest.approx(g.square_norm() / x.spec.size / 8, rel=1e-4)


def test_the_round_takes_as_long_as_planned() -> None:
    network = boards(dict(zip(NAMES, (2e4, 1e5, 5e4, 3e4), strict=True)), framing_bytes=32)
    seen = reports(network, digits("iid"), WhaleFL(delay=0, **FIELDS), 6)
    seconds = np.diff([0.0, *[s["seconds"] for s in seen]])
    assert seconds.tolist() == pytest.approx([s["planned_s"] for s in seen], rel=1e-9)
    assert all(s["compute_s"] + s["upload_s"] < s["planned_s"] for s in seen)


def test_a_device_whose_load_doubles_gets_less() -> None:
    # the same run with tx2 ten times slower from round 3 on: in the round after, its T has risen and its width fallen; nothing else has changed
    task, method = digits("iid"), WhaleFL(delay=0, beta_T=2.0, **FIELDS)
    free = run(boards(1e9), task, method, 5)
    since = free.stamps[3]["seconds"]
    loaded = run(replace(boards(1e9), load=TraceLoad(changes={"tx2": [(since, 10.0)]})), task, method, 5)
    assert [s["T"] for s in loaded.states[:4]] == [s["T"] for s in free.states[:4]]
    assert loaded.states[4]["T"]["tx2"] == pytest.approx(10 * free.states[4]["T"]["tx2"], rel=1e-3)
    W = [utility(1, s["F"][-2]["tx2"], s["T"]["tx2"], scale_s=20.0, power=2.0) / s["linear_arg"] for s in (free.states[4], loaded.states[4])]
    data = len(task.data("tx2"))
    assert rate(data * W[1]) <= rate(data * W[0])
    assert W[1] == pytest.approx(W[0] / 100, rel=1e-2)


def test_the_published_form_counts_the_whole_models_upload_and_the_latest_F() -> None:
    # at 1/16 (1 of 16 neurons, 85 values and 8 bytes of ranges) of 1210 values: T = 24 samples of the table + (answer / rate) * 4840 / 348
    network, task = boards(1e5), digits("iid")
    exact, paper = (run(network, task, WhaleFL(mode=mode, delay=0, onepoint=1, **FIELDS), 4) for mode in ("exact", "paper"))  # type: ignore[arg-type]
    nano = 24 * 0.002569063
    up, down = (348 + 8) / 1e5, 348 / 1e5
    assert exact.states[1]["T"]["raspberry_pi"] == pytest.approx(nano + up + down)
    assert paper.states[1]["T"]["raspberry_pi"] == pytest.approx(nano + up * 4840 / 348)
    s = paper.states[3]
    W = {n: len(task.data(n)) * (s["F"][-1][n] * (1 / 3 + 1 / 9 + 1 / 27)) ** 0.5 * 20.0 / s["T"][n] for n in NAMES}
    assert paper.states[4]["linear_arg"] == pytest.approx(0.1 * max(W.values()))


def test_a_device_that_does_not_answer_keeps_what_is_known_of_it() -> None:
    task, method = digits("iid"), WhaleFL(delay=0, **FIELDS)
    since = run(boards(), task, method, 2).stamps[2]["seconds"]
    course = run(boards(churn=away(raspberry_pi=(since - 1e-3,))), task, method, 4)
    known = course.states[1]["F"][-1]["raspberry_pi"]
    assert [row["raspberry_pi"] for s in course.states[2:] for row in s["F"][-1:]] == [known] * 3
    assert course.states[4]["T"]["raspberry_pi"] == course.states[1]["T"]["raspberry_pi"]


def test_with_nobody_there_nothing_changes() -> None:
    network = boards(churn=away(**dict.fromkeys(NAMES, (0.0, 5.0))))
    course = run(network, digits("iid"), WhaleFL(delay=0, **FIELDS), 2)
    assert (course.states[1]["x"] - course.states[0]["x"]).abs_max() == 0.0
    assert course.stamps[1]["bytes_up"] == 0


@pytest.mark.parametrize("field", [{"linear_arg": -1.0}, {"T_set": 0.0}, {"beta_T": -1.0}, {"delay": -1}, {"levels": 0}, {"clip_norm": 0.0}])
def test_fields_are_checked(field: dict[str, Any]) -> None:
    with pytest.raises(ScenarioError, match=rf"WhaleFL\.{next(iter(field))}: got .* allowed is"):
        WhaleFL(**field)


def test_a_window_past_the_last_round_is_refused() -> None:
    with pytest.raises(ScenarioError, match=r"WhaleFL\(delay=1, onepoint=3\): allowed is onepoint <= delay \+ 1"):
        WhaleFL(delay=1, onepoint=3)
