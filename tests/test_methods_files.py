"""One method is one short file, one page and one test."""

from __future__ import annotations

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
MOST_LINES = 150
LONGER: dict[str, str] = {}  # "room/name": why this file may be longer


def names(room: str) -> list[str]:
    return sorted(path.stem for path in (REPOSITORY / "airloom" / room).glob("*.py") if not path.stem.startswith("_"))


@pytest.mark.parametrize("room", ["methods", "serving", "security"])
def test_files_are_short_and_have_a_page_and_a_test(room: str) -> None:
    found = []
    for name in names(room):
        lines = len((REPOSITORY / "airloom" / room / f"{name}.py").read_text().splitlines())
        if lines > MOST_LINES and f"{room}/{name}" not in LONGER:
            found.append(f"airloom/{room}/{name}.py has {lines} lines, at most {MOST_LINES}: move shared text to a part, or give a reason in LONGER")
        needed = (f"docs/{room}/{name}.md", f"tests/{room}/test_{name}.py")
        found += [f"airloom/{room}/{name}.py needs {path}" for path in needed if not (REPOSITORY / path).is_file()]
    assert not found, "\n".join(found)


def test_exceptions_are_still_needed() -> None:
    known = {f"{room}/{name}" for room in ("methods", "serving", "security") for name in names(room)}
    assert set(LONGER) <= known
    assert all(reason.strip() for reason in LONGER.values())
