"""The threads of a gateway: what a call leaves in the state of its place."""

from __future__ import annotations

from airloom.engines.threads import ThreadWorld
from airloom.program.here import Here
from tests.serving.worlds import asked, skilled, star


def count(here: Here, key: str) -> int:
    here.state[key] = here.state.get(key, 0) + 1
    return here.state[key]


def test_a_place_keeps_what_its_calls_change_and_the_given_state_stays() -> None:
    network, given = star("phone0"), {"phone0": {"a": 5, "theta": "kept"}}
    world = ThreadWorld(network, asked(network, {"phone0": skilled(1.0), "cloud": skilled(1.0)}, 10.0), seed=0, workers=1, state=given)
    try:
        assert [world.run(count, "phone0", (key,))[0] for key in ("a", "a", "b")] == [6, 7, 1]
        assert world.run(count, "cloud", ("a",))[0] == 1  # another place, another state
        assert world.state["phone0"] == {"a": 7, "b": 1, "theta": "kept"} and given == {"phone0": {"a": 5, "theta": "kept"}}
    finally:
        world.close()
