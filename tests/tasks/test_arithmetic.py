"""The language of arithmetic, and the tiny transformer that learns it."""

from __future__ import annotations

import numpy as np
import pytest

from airloom.clock.rng import generator
from airloom.errors import ScenarioError
from airloom.tasks.arithmetic import ASK, IDS, TinySolver, dataset, draw, encode, is_question, mixed, pretrained, solve


@pytest.mark.parametrize(
    ("question", "answer"), [("0+0=", "0"), ("9+9=", "18"), ("9*9=", "81"), ("9*9+9=", "90"), ("9*9*9=", "29"), ("2+3*4=", "20")]
)
def test_questions_are_read_from_left_to_right_modulo_100(question: str, answer: str) -> None:
    assert solve(question) == answer


def test_rows_end_with_the_sign_of_equality() -> None:
    assert encode(["3+4=", "3+4*2="]).tolist() == [[IDS["_"]] * 2 + [3, IDS["+"], 4, IDS["="]], [3, IDS["+"], 4, IDS["*"], 2, IDS["="]]]
    data = dataset(count=8, hard=0.5, seed=0)
    assert (data.x_train[:, -1] == IDS["="]).all() and (data.y_train[:, :-1] < 0).all() and (data.y_train[:, -1] >= 0).all()


def test_hard_is_the_share_of_three_digits() -> None:
    rng = generator("test")
    lengths = [len(mixed(rng, hard=0.3)[0]) for _ in range(1000)]
    assert 0.24 < lengths.count(6) / 1000 < 0.36 and set(lengths) == {4, 6}


def test_after_practice_it_knows_sums_of_two_digits_and_little_of_three() -> None:
    solver, rng = TinySolver(pretrained(), 1), generator("test", "skill")

    def share(digits: int, signs: str) -> float:
        asked = [draw(rng, digits=digits, signs=signs) for _ in range(100)]
        return float(np.mean([solver.answer(q, ()).text == solve(q) for q in asked]))

    assert share(2, "+") > 0.9 and share(2, "*") > 0.6 and share(3, "+*") < 0.5


def test_it_never_asks_unless_it_may() -> None:
    values = pretrained()
    assert all(TinySolver(values, 1).answer(f"{a}*{b}*9=", ()).text != ASK for a in range(10) for b in range(3))


@pytest.mark.parametrize("text", ["", "3+4", "hello", "33+4=", "3-4=", "3+4+5+6=", "+3+4="])
def test_other_texts_are_refused(text: str) -> None:
    assert not is_question(text + "" if text else "x")
    with pytest.raises(ScenarioError, match="allowed are two or three digits"):
        TinySolver(pretrained(), 1).answer(text, ())
