"""The trust boundary: exact round trips whatever the text holds, growth, the scan, refusals."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airloom.errors import ScenarioError
from airloom.parts.boundary import LITERAL, TOKEN, Leak, Registry, Sanitized, UnknownToken, leaked

PIECES = st.sampled_from(["Ann", "ann", "1", "_1", "{", "}", "{NAME_1}", "{LITERAL_1}", "{NAME_", "NAME", "Annex", " ", "}{", "ba", "ab", "0", "é"])
TEXTS = st.lists(PIECES, max_size=10).map("".join)
VALUES = st.lists(st.tuples(st.sampled_from(["NAME", "CARD"]), TEXTS.filter(bool)), max_size=6)


@settings(max_examples=400, deadline=None)
@given(VALUES, TEXTS, VALUES, TEXTS)
def test_round_trips_are_exact_also_after_growth(first: list[tuple[str, str]], text: str, later: list[tuple[str, str]], other: str) -> None:
    box = Registry()
    for kind, value in first:
        box.add(kind, value)
    said = box.sanitize(text)
    assert box.sanitize(said) is said
    box.scan(said)  # nothing that is known remains
    for kind, value in later:
        box.add(kind, value)
    assert box.reverse(said.text) == text
    again = box.sanitize(other)
    assert box.reverse(again.text) == other
    box.scan(Sanitized(box.late(said)))
    assert box.reverse(box.late(said)) == text


@given(VALUES)
def test_a_registry_is_a_bijection(pairs: list[tuple[str, str]]) -> None:
    box = Registry()
    tokens = {value: box.add(kind, value) for kind, value in pairs}
    assert len(set(tokens.values())) == len(tokens) and all(box.reverse(token) == value for value, token in tokens.items())
    assert all(TOKEN.fullmatch(token) for token in tokens.values())


def test_the_first_type_wins_and_other_spellings_are_other_values() -> None:
    box = Registry()
    assert box.add("NAME", "Ann") == "{NAME_1}" == box.add("CARD", "Ann") and box.add("NAME", "ann") == "{NAME_2}"


def test_longer_values_first_and_glued_ones_too() -> None:
    box = Registry()
    box.add("NAME", "Ann")
    box.add("NAME", "Ann Lee")
    assert box.sanitize("Ann Lee, Anna").text == "{NAME_2}, {NAME_1}a"


def test_a_user_who_writes_a_token_gets_it_back_and_nothing_else() -> None:
    box = Registry()
    box.add("CARD", "4111")
    said = box.sanitize("my code is {CARD_1}, my card 4111")
    assert said.text == f"my code is {{{LITERAL}_1}}, my card {{CARD_1}}"
    assert box.reverse(said.text) == "my code is {CARD_1}, my card 4111"


def test_the_scan_looks_outside_of_tokens_and_knows_what_is_allowed() -> None:
    box = Registry(allowed=["a"])
    box.add("NAME", "NAME")
    box.add("NAME", "1")
    box.add("NAME", "a")
    assert box.scan(Sanitized("{NAME_1} and {NAME_2}")).text == "{NAME_1} and {NAME_2}"
    with pytest.raises(Leak, match="1 characters stands in the message; it was not sent"):
        box.scan(Sanitized("{NAME_1} 21"))


def test_raw_text_cannot_cross() -> None:
    with pytest.raises(ScenarioError, match="got a str; allowed is Sanitized text"):
        Registry().scan("hello")  # type: ignore[arg-type]


def test_an_unknown_placeholder_is_refused() -> None:
    box = Registry()
    box.add("NAME", "Ann")
    assert box.argument("to {NAME_1}") == "to Ann"
    with pytest.raises(UnknownToken, match=r"got the placeholder \{CARD_7\}; allowed are \{NAME_1\}; it is not executed"):
        box.argument("{CARD_7}")


@pytest.mark.parametrize(("kind", "value"), [("name", "Ann"), ("NAME_1", "Ann"), ("NAME", "")])
def test_bad_kinds_and_values(kind: str, value: str) -> None:
    with pytest.raises(ScenarioError, match="allowed are kinds of capital letters"):
        Registry().add(kind, value)


def test_leakage_counts_what_was_recognized_too_late() -> None:
    assert leaked(["Ann", "Bob", "Ann"], ["hello Ann", "{NAME_1}"]) == ["Ann"]
