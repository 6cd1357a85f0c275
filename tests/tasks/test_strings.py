"""Tasks on strings of digits: answers are right, rows carry them, and the model knows digits and not the tasks."""

from __future__ import annotations

import numpy as np
import pytest

from airloom.tasks.metrics import IGNORE
from airloom.tasks.strings import ANSWER, CONTEXT, IDS, NEEDS, TASKS, WORDS, draw, rows, strings


@pytest.mark.parametrize("task", TASKS)
def test_answers_are_right(task: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        question, answer = draw(task, rng)
        d = [int(c) for c in question[1:-1] if c != "_"]
        assert len(question) == 6 and question[-1] == "=" and len(answer) == ANSWER[task]
        two = (10 * d[0] + d[1], 10 * d[2] + d[3]) if task == "compare" else (d[0] + d[1], sum(d[2:]))
        wanted = {
            "reverse": "".join(map(str, d[::-1])), "add": f"{sum(d[:2]):02d}", "max": f"{max(two):02d}",
            **dict.fromkeys(("compare", "both"), "<" if two[0] < two[1] else ">" if two[0] > two[1] else "|"),
        }  # fmt: skip
        assert answer == wanted[task]


def test_rows_ask_and_say_the_same_as_the_strings() -> None:
    for task in TASKS:
        x, y = rows(task, 4, np.random.default_rng(1))
        rng = np.random.default_rng(1)
        for i in range(4):
            question, answer = draw(task, rng)
            assert x.shape == y.shape == (4, CONTEXT)
            assert "".join(WORDS[j] for j in x[i, :6]) == question
            said = y[i][y[i] != IGNORE]
            assert "".join(WORDS[j] for j in said) == answer
            # the first token of the answer is asked for at "=", the others at the answer's own tokens
            assert x[i, 5] == IDS["="] and y[i, 5] == said[0] and (x[i, 6 : 5 + len(said)] == said[:-1]).all()


def test_every_row_says_whose_it_is_and_tests_do_not_vary() -> None:
    one, other = strings(count=20, seed=0), strings(count=20, seed=1)
    assert one.natural is not None and list(one.natural) == [task for task in TASKS for _ in range(20)]
    assert np.array_equal(one.x_test, other.x_test) and not np.array_equal(one.x_train, other.x_train)
    assert set(NEEDS) <= set(TASKS)
