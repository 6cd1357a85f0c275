"""What the documentation shows, runs: every python block, in order, one name space per page. A block marked `no-run` is left out."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = [path for path in [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))] if path.is_file()]
BLOCK = re.compile(r"^```python([^\n]*)\n(.*?)^```\s*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s#]+)(?:#[^)]*)?\)")


def blocks(text: str) -> list[str]:
    """Python blocks to run, each moved down by blank lines to the line where it stands on the page."""
    return ["\n" * text[: found.start(2)].count("\n") + found[2] for found in BLOCK.finditer(text) if "no-run" not in found[1].split()]


def name_of(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page.read_text())], ids=name_of)
def test_code_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # what a block writes does not stay
    module = ModuleType("airloom_page_" + re.sub(r"\W", "_", name_of(page)))  # a real module: classes of a block must be found by name
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for code in blocks(page.read_text()):
        exec(compile(code, str(page), "exec"), module.__dict__)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    targets = [
        target
        for target in LINK.findall(re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))
        if "://" not in target and not target.startswith("mailto:")
    ]
    lost = [target for target in targets if not (page.parent / target).exists()]
    assert not lost, f"{name_of(page)} links to files that are not there: {lost}"


def test_blocks_are_found_with_their_lines() -> None:
    text = "a\n```python\nx = 1\n```\n```python no-run\ny = 2\n```\n```bash\nz\n```\n"
    assert blocks(text) == ["\n\nx = 1\n"]
