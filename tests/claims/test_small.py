"""The acceptance experiments of the wireless systems on digits, at the size of the fast lane: what must hold in any run of them, however short."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks.claims import ada_lora_is, fedzo, fslora, ics, tap, whale_fl
from benchmarks.claims.harness import Outcome, Plan, play


def small(claim: Any, labels: Sequence[str], budget: Any, lr: float, more: Any = lambda points: {}) -> Outcome:
    """Some sides of a claim, one seed, untuned."""
    sides = [side for side in claim.SIDES if side.label in labels]
    assert len(sides) == len(labels)
    return play(claim.world, sides, Plan(cases={"digits": budget}, lrs=(lr,), seeds=(0,)), more)


def test_ics_finishes_rounds_sooner_than_equal_shares_and_samples_shorter_ones() -> None:
    outcome = small(ics, ["proposed", "full", "full, equal shares"], {"seconds": 50.0}, 0.3, ics.more)
    round_s = {row["side"]: row["round_s"] for row in outcome.rows}
    # 24 s against 12 s at full size
    assert round_s["full"] < 0.8 * round_s["full, equal shares"] and round_s["proposed"] < round_s["full"]


def test_whale_fl_starts_at_the_smallest_width_and_its_first_rounds_are_shorter() -> None:
    outcome = small(whale_fl, ["whale_fl", "full"], 2, 0.3, whale_fl.more)
    mean = {row["side"]: row for row in outcome.rows}
    assert (mean["whale_fl"]["rate_first"], mean["full"]["rate_first"]) == (1 / 16, 1.0)
    assert mean["whale_fl"]["round_s"] < mean["full"]["round_s"] / 4


def test_fedzo_gains_by_local_steps() -> None:
    outcome = small(fedzo, ["H = 1", "H = 20"], 2, 0.1)
    accuracy = {row["side"]: row["accuracy"] for row in outcome.rows}
    assert accuracy["H = 20"] > accuracy["H = 1"] + 0.2  # twenty times as many steps
    # at equal bytes
    assert outcome.rows[0]["bytes_up"] == outcome.rows[1]["bytes_up"]


def test_fslora_sends_what_hetlora_sends_and_flexlora_works_at_the_server() -> None:
    outcome = small(fslora, ["hetlora, equal", "flexlora", "fslora"], 1, 0.003, lambda points: {"server_s": points[-1].get("server_s", 0.0)})
    sent, server_s = ({row["side"]: row[name] for row in outcome.rows} for name in ("bytes_up", "server_s"))
    assert sent["fslora"] == pytest.approx(sent["hetlora, equal"], rel=0.02)
    assert server_s["flexlora"] > 0.0 == server_s["fslora"]


def test_ada_lora_is_has_the_shortest_rounds_and_sends_the_least() -> None:
    outcome = small(ada_lora_is, ["uniform", "q only", "ada_lora_is"], 3, 0.01)
    seconds, sent = ({row["side"]: row[name] for row in outcome.rows} for name in ("seconds", "bytes_up"))
    assert seconds["ada_lora_is"] < seconds["uniform"]
    assert sent["ada_lora_is"] < sent["q only"] and sent["ada_lora_is"] < sent["uniform"]


def test_tap_replaces_everything_at_first_and_less_later() -> None:
    swaps: list[float] = []
    small(tap, ["tap, none"], 6, 0.3, lambda points: swaps.extend(point["swaps"] for point in points) or {})
    assert swaps[0] > 0.0 and sum(swaps[3:]) < sum(swaps[:3])
