from __future__ import annotations

import pytest

from airloom.errors import ScenarioError
from airloom.parts.optimizer import ServerYogi, server_optimizer
from airloom.parts.order import RandomReshuffle, orderer
from airloom.parts.select import Oort, PowerOfChoice, selector


def test_names_and_fields() -> None:
    assert selector("oort") == Oort()
    assert selector(" oort( alpha=1.5, most_picks = None) ") == Oort(alpha=1.5)
    assert selector("power_of_choice(candidates=7)") == PowerOfChoice(candidates=7)
    assert server_optimizer("yogi(lr=1e-2)") == ServerYogi(lr=0.01)
    assert orderer("random_reshuffle()") == RandomReshuffle()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ort", r"select='ort': unknown; allowed: oort, power_of_choice, uniform, weighted"),
        ("oort(alfa=1)", r"unexpected keyword argument 'alfa'; fields of oort: alpha, exploration"),
        ("oort(2.0)", "fields need their names"),
        ("oort(alpha=", r"write oort\(field=value"),
        ("oort(alpha=open)", r"open is no value; allowed are numbers, True, False, None and text in quotes; fields of oort"),
        ("power_of_choice", r"missing .* 'candidates'"),
        ("power_of_choice(candidates=0)", r"PowerOfChoice.candidates: got 0"),
        ("uniform(k=1)", "fields of uniform: no fields"),
    ],
)
def test_bad_text_is_named(text: str, message: str) -> None:
    with pytest.raises(ScenarioError, match=message):
        selector(text)
