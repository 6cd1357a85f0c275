"""Nothing in the repository names this machine, a package host, or things that are not about the project; no stubs, no unsafe loading."""

from __future__ import annotations

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
HERE = Path(__file__).resolve()
FOLDERS = ("airloom", "tests", "docs", "examples", "benchmarks", ".ci", ".github")
SUFFIXES = {".py", ".md", ".toml", ".txt", ".cff", ".json", ".jsonl", ".csv", ".yml", ".yaml", ".sh", ".html", ""}

# one letter of each word stands in brackets, so that a plain search of the repository does not stop here
WORDS = re.compile(r"\b([C]EO|[s]ubagent|([h]elper|[t]his) session|[s]teering repo|issue #?\d+)\b", re.IGNORECASE)
HOSTS = re.compile(r"--(extra-)?index-url|(pypi|pythonhosted|npmjs|download\.pytorch)\.org")
HOMES = re.compile(r"(?<![\w.])/(home|Users)/\w+/")
STUBS = re.compile(r"\b([T]ODO|[F]IXME|[X]XX|[N]otImplementedError)\b|[a]ssert True\b|pytest\.skip\(\)")
UNSAFE = re.compile(r"pickle\.loads?|torch\.load\(|joblib\.load|yaml\.load\(")


def texts() -> dict[str, str]:
    """Text of every file of the repository but this one, by its path."""
    paths = [path for path in REPOSITORY.iterdir() if path.is_file()]
    for folder in FOLDERS:
        paths += [path for path in (REPOSITORY / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {
        path.relative_to(REPOSITORY).as_posix(): path.read_text(errors="replace")
        for path in sorted(paths)
        if path.suffix in SUFFIXES and path != HERE
    }


def places(pattern: re.Pattern[str], under: tuple[str, ...] = ("",)) -> list[str]:
    found = []
    for name, text in texts().items():
        if name.startswith(under):
            found += [f"{name}:{number}: {line.strip()[:120]}" for number, line in enumerate(text.splitlines(), 1) if pattern.search(line)]
    return found


def test_no_paths_of_a_machine() -> None:
    own = [re.escape(f"{folder}/") for folder in (REPOSITORY.parent.as_posix(), Path.home().as_posix()) if folder.count("/") > 1 or len(folder) > 4]
    pattern = re.compile("|".join([HOMES.pattern, *(rf"(?<![\w.]){folder}" for folder in own)]))
    assert not places(pattern)


def test_no_package_hosts() -> None:
    assert not places(HOSTS)


def test_no_words_that_are_not_about_the_project() -> None:
    assert not places(WORDS)


def test_no_stubs() -> None:
    assert not places(STUBS, under=("airloom/", "tests/"))


def test_nothing_is_unpickled() -> None:
    assert not places(UNSAFE, under=("airloom/",))
