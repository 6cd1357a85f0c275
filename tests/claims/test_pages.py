"""The code beside the algorithm on a page is the method's own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


PAGES = (
    "ada_lora_is", "cofed", "contextlora", "fedex", "fedgs", "fedgsp", "fedlora", "fedrolex", "flexlora", "flora", "fslora", "heterofl", "hetlora",
    "hfedavg", "hfedms", "ics", "lora_mixture", "mtgc", "sequential_fl", "whale_fl", "zone_s",
)  # fmt: skip


@pytest.mark.parametrize("name", PAGES)
def test_code_beside_the_algorithm_is_in_the_file(name: str) -> None:
    page = (REPOSITORY / "docs" / "methods" / f"{name}.md").read_text(encoding="utf-8")
    source = (REPOSITORY / "airloom" / "methods" / f"{name}.py").read_text(encoding="utf-8")
    part = page.split("## Algorithm and code")[1].split("\n\n|")[1].split("\n\n")[0]
    lines = [row.rstrip(" |").rsplit("| `", 1)[1].rstrip("`").replace("\\|", "|") for row in part.splitlines()[2:]]
    assert len(lines) >= 4
    assert not [line for line in lines if re.sub(r"\s+", " ", line) not in re.sub(r"\s+", " ", source)]
