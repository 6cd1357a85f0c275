"""The documents build as a site, strictly, with a reference made from docstrings, and ask no other host for anything (slow lane)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.mark.slow
def test_the_site_builds_strictly(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=REPOSITORY, env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    site = tmp_path / "site"
    pages = {path.relative_to(site).as_posix(): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}
    assert {f"methods/{page.stem}.html" for page in (REPOSITORY / "docs" / "methods").glob("*.md")} <= pages.keys()
    assert "airloom.program.node.Node" in pages["reference/program.html"] and "critical_path" in pages["reference/records.html"]
    assert "<math" in pages["methods/mtgc.html"]
    assert 'overflow: auto hidden; padding-bottom: 0.8em"><math' in pages["methods/disentafl.html"]
    for name, text in pages.items():
        assert "<p>```" not in text, f"{name} has code that stays text"
        assert 'class="arithmatex"' not in text and not re.search(r"<m[a-z]+>\\[A-Za-z]", text), f"{name} has a formula that stays text"
        assert not [cell for cell in re.findall(r"<td.*?</td>", text, re.DOTALL) if "\\|" in cell], f"{name} has a bar of a table that stays escaped"
        asked = re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"(https?:[^\"]+)", text)
        assert not asked, f"{name} asks for {asked}"
