"""What the site adds to the pages as they lie in the repository: a first page, the API reference, formulas, links to files that are no pages."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
LINK = re.compile(r"(?<!!)\[([^\]\[]*)\]\(([^)\s]+)\)")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)
FENCE = re.compile(r"^(```\w+) [\w-]+$", re.MULTILINE)  # words for the tests behind a language
CELL = re.compile(r"<td.*?</td>", re.DOTALL)
SOURCE = re.compile(r'src="([^"]+)"')
REFERENCE = {  # room: modules whose public names are documented
    "api": "the calls `airloom.run`, `compare`, `resume`, `show`",
    "program": "the words that methods are written in",
    "network": "devices, links, cells, channels, churn",
    "models": "parameters, submodels, training, prices",
    "tasks": "data sets, partitions, streams, evaluation",
    "parts": "selectors, server optimizers, orders",
    "plans": "planners in numpy and scipy",
    "methods": "training systems",
    "serving": "systems that answer requests",
    "security": "attacks and defenses",
    "scenarios": "worlds",
    "records": "records, comparisons, figures, reports, timelines",
    "sweep": "crossover maps",
    "clock": "kernel, wires, media, meters",
    "engines": "the simulated engine",
}


def modules(room: str) -> list[str]:
    """Dotted names of a room's modules."""
    path = ROOT / "airloom" / room
    if not path.is_dir():
        return [f"airloom.{room}"]
    return [f"airloom.{room}.{file.stem}" for file in sorted(path.glob("*.py")) if file.stem != "__init__"]


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made."""
    files.append(File.generated(config, "index.md", content=_first_page()))
    for room, about in [(room, about) for room, about in REFERENCE.items() if modules(room)]:
        text = f"# {room}: {about}\n\n" + "\n\n".join(f"::: {name}" for name in modules(room)) + "\n"
        files.append(File.generated(config, f"reference/{room}.md", content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Name files of the repository that are no pages instead of linking to them; a link that leads nowhere stays, and is an error."""
    here = (DOCS / page.file.src_uri).parent

    def replace(found: re.Match[str]) -> str:
        text, target = found[1], found[2].partition("#")[0]
        path = (here / target).resolve()
        is_page = path.is_relative_to(DOCS) and files.get_file_from_path(path.relative_to(DOCS).as_posix()) is not None
        if "://" in target or not target or is_page or not path.exists():
            return found[0]
        name = path.relative_to(ROOT).as_posix()
        return f"{text} (`{name}`)" if text.strip("`") != name else f"`{name}`"

    return FENCE.sub(r"\1", LINK.sub(replace, markdown))


def on_page_content(text: str, page: Any, config: Any, files: Files) -> str:
    """Formulas as MathML, which browsers draw by themselves: no script, no other host. Bars in the code of a table as they are read elsewhere."""

    def replace(found: re.Match[str]) -> str:
        formula = unescape(found[2]).strip()
        if found[1] == "span":
            return convert(formula, display="inline")
        return f'<div style="overflow: auto hidden; padding-bottom: 0.8em">{convert(formula, display="block")}</div>'  # a phone is narrower than some

    return CELL.sub(lambda cell: cell[0].replace("\\|", "|"), FORMULA.sub(replace, text))


def _first_page() -> str:
    """The README, with its links as seen from the pages' folder."""

    def seen(target: str) -> str:
        return target if "://" in target else target.removeprefix("docs/") if target.startswith("docs/") else f"../{target}"

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    text = LINK.sub(lambda found: f"[{found[1]}]({seen(found[2])})", text)
    return SOURCE.sub(lambda found: f'src="{seen(found[1])}"', text)
