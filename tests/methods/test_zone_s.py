"""ZONE-S: its two forms are one, rounds by hand, its bytes, clients that leave, bad fields."""

from __future__ import annotations

from typing import Any

import pytest

from airloom.errors import ScenarioError
from airloom.methods.zone_s import ZoneS
from tests.methods.hand import away, star, targets
from tests.methods.quadratic import run

CENTERS = {"a": 4.0, "b": 8.0}
TWO = targets({name: (1, c) for name, c in CENTERS.items()})
# in one dimension on the sphere v = +-1, and every estimate is the derivative w - c
FIELDS: dict[str, Any] = {"lr": 0.25, "batch_size": 1, "directions": 1, "mu": 1e-6, "estimates": 1, "law": "sphere"}


def test_a_round_by_hand() -> None:
    # one client alone: x = 0 - 0.25 * (0 - 4) = 1; then G = -3, y = -4, mean y = -4: x = 1 - 0.25 (-3 + 4 - 4) = 1.75
    worlds = star({"a": 1.0}), targets({"a": (1, 4.0)})
    first, second = (run(*worlds, ZoneS(**FIELDS), t, start=[0.0]) for t in (1, 2))
    assert (first.x.item(), second.x.item()) == pytest.approx((1.0, 1.75), abs=1e-5)
    assert (first.stamps[-1]["bytes_down"], first.stamps[-1]["bytes_up"]) == (8 + 8, 8)  # model and seed down, an estimate up


def test_the_steps_are_those_of_the_primal_dual_form() -> None:
    # the text of the paper: z and lambda, with alpha = 1 / N and rho = 1 / eta; the client of each round is read off the first round's end
    rounds, eta = 6, FIELDS["lr"]
    xs = [run(star({"a": 1.0, "b": 1.0}), TWO, ZoneS(**FIELDS), t, start=[0.0]).x.item() for t in range(1, rounds + 1)]
    x, dual, rho = 0.0, dict.fromkeys(CENTERS, 0.0), 1 / eta
    chosen = []
    for seen in xs:
        ends = {}
        for i, c in CENTERS.items():
            G = x - c
            z = {n: x for n in CENTERS} | {i: x - 2 / rho * (dual[i] + G)}
            ends[i] = (sum(rho * z[n] + dual[n] for n in CENTERS) / (2 * rho), dual | {i: dual[i] + rho / 2 * (z[i] - x)})
        i = min(ends, key=lambda n: abs(ends[n][0] - seen))
        chosen.append(i)
        assert ends[i][0] == pytest.approx(seen, abs=1e-4)
        x, dual = seen, ends[i][1]
    assert set(chosen) == {"a", "b"}


def test_it_ends_where_the_mean_gradient_is_zero() -> None:
    # what the others last found takes away the difference between clients: no ball around 6 is left, as there would be with eta (w - c_i) alone
    course = run(star({"a": 1.0, "b": 1.0}), TWO, ZoneS(**FIELDS), 60, start=[0.0])
    assert course.x.item() == pytest.approx(6.0, abs=1e-2)


def test_steps_of_several_clients_add_up() -> None:
    # both: 0 - 0.25 (-4 - 8) = 3; then G = -1 and -5, y = -4 and -8: 3 - 0.25 (3 + 3 - 6) = 3
    first, second = (run(star({"a": 1.0, "b": 1.0}), TWO, ZoneS(**FIELDS, clients=2), t, start=[0.0]) for t in (1, 2))
    assert (first.x.item(), second.x.item()) == pytest.approx((3.0, 3.0), abs=1e-5)


def test_a_client_that_leaves_changes_nothing() -> None:
    course = run(star({"a": 1.0, "b": 1.0}, churn=away(a=(1.0,), b=(1.0,))), TWO, ZoneS(**FIELDS), 1, start=[5.0])
    assert course.x.item() == 5.0


@pytest.mark.parametrize("field", [{"clients": 0}, {"lr": 0.0}, {"estimates": 0}, {"batch_size": 0}, {"mu": -1.0}, {"directions": 0}])
def test_fields_are_checked(field: dict[str, Any]) -> None:
    with pytest.raises(ScenarioError, match=rf"ZoneS\.{next(iter(field))}: got .* allowed is"):
        ZoneS(**field)
