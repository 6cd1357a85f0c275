"""The report page: what is on it, that it asks for nothing, its colors, and (slow lane) how it behaves in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import airloom
from airloom.clock.span import Span
from airloom.errors import RecordError
from airloom.records import report
from airloom.records.record import RecordWriter, load
from airloom.records.timeline import Timeline
from tests import chromium
from tests.chromium import Page
from tests.tiny_world import tiny

CSS = (Path(report.__file__).parent / "page" / "report.css").read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods on two seeds."""
    out = tmp_path_factory.mktemp("report") / "compared"
    airloom.compare(["mtgc", "fedavg"], scenario=tiny, budget={"rounds": 4}, target=("accuracy", 0.3), seeds=2, workers=1, executor="loop", out=out)
    return out


@pytest.fixture(scope="module")
def html(folder: Path) -> str:
    return report.report(report.compared([folder]))


def data_of(html: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


# --- what is on it --------------------------------------------------------------------------------------------------------------------


def test_the_page_holds_what_the_records_hold(folder: Path, html: str) -> None:
    data = data_of(html)
    assert data["methods"] == ["mtgc", "fedavg"]  # as compared, not as the folders are named
    assert [(run["label"], run["seed"]) for run in data["runs"]] == [("mtgc", 0), ("mtgc", 1), ("fedavg", 0), ("fedavg", 1)]
    assert data["target"] == {"metric": "accuracy", "value": 0.3, "direction": "higher"}
    assert data["metrics"][0] == {"name": "accuracy", "is_rate": True}
    run, record = data["runs"][2], load(folder / "fedavg-0")
    assert run["points"]["seconds"] == [point["seconds"] for point in record.points]
    assert run["points"]["bytes"] == [point["bytes_up"] + point["bytes_down"] for point in record.points]
    assert run["header"]["versions"] == record.header["versions"]
    assert record.summary is not None and run["devices"] == record.summary["devices"]
    assert run["explanation"][0].startswith("fedavg in tiny, seed 0: all 4 rounds")
    assert [place["name"] for place in run["world"]["places"] if place.get("samples")] == [f"board{i}" for i in range(4)]
    assert run["clients"]["accuracy"].keys() == {f"board{i}" for i in range(4)}
    assert len(run["timeline"]["rounds"]) == 4
    # 4 boards: model down, computing, model up each; and 2 edge servers with one model down, and one per board up
    parts = [row[1] for row in run["timeline"]["rounds"][1]["spans"]]
    assert (parts.count("down"), parts.count("compute"), parts.count("up")) == (4, 4, 4)


def test_the_page_asks_the_network_for_nothing(html: str) -> None:
    addresses = set(re.findall(r"[a-z]+://[^\"'\s<>)]+", re.sub(r'<script type="application/json".*?</script>', "", html, flags=re.DOTALL)))
    assert addresses == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert "default-src 'none'" in html
    assert not re.search(r"<link|<img|@import|url\(|fetch\(|XMLHttpRequest|eval\(|innerHTML", html)


def test_texts_of_a_record_cannot_end_the_script(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script>"
    with RecordWriter(tmp_path / "run", {"method": evil, "seed": 0, "clock": "simulated", "scenario": {"name": evil}}) as writer:
        writer.point({"seconds": 1.0, "round": 0, "bytes_up": 1.0, "bytes_down": 1.0, "joules": 1.0, "accuracy": 0.5})
    html = report.report(report.compared([tmp_path]))
    assert html.count("</script>") == 2  # the data's and the page's own
    assert data_of(html)["methods"] == [evil]


def test_a_run_without_timeline_and_world_and_with_numbers_beyond_json_has_a_page(tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "run", {"method": "m", "seed": 0, "clock": "simulated"}) as writer:
        for i in range(1200):
            writer.point(
                {"seconds": float(i), "round": i, "bytes_up": 1.0, "bytes_down": 1.0, "joules": 1.0, "loss": float("nan") if i == 7 else 1.0}
            )
    run = data_of(report.report(report.compared([tmp_path])))["runs"][0]
    assert run["timeline"] is None and run["world"] is None and run["clients"] == {}
    assert 400 <= len(run["points"]["seconds"]) <= report.POINTS and run["points"]["seconds"][-1] == 1199.0


def test_folders_without_records_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="found no record"):
        report.compared([tmp_path])


def test_seconds_of_a_device_count_overlaps_once() -> None:
    # computes 0..4 s, sends 3..6 s and 5..7 s, the round ends at 10 s: 4 s computing, 4 s radio, 10 - 7 = 3 s neither
    def span(kind: Any, on: str, start_s: float, end_s: float) -> Span:
        return Span(kind, 0, 1, "a", "hub", "hub", on, "f", start_s, end_s, 0.0, 0.0, 0.0, False)

    spans = [span("call", "cpu", 0.0, 4.0), span("message", "up", 3.0, 6.0), span("message", "up", 5.0, 7.0)]
    timeline = Timeline(root="hub", spans=spans, rounds={0: 10.0})
    assert report._seconds(timeline, {"a"}) == {"a": [4.0, 4.0, 3.0]}


def test_of_many_devices_those_that_were_done_last_are_kept() -> None:
    def up(i: int) -> Span:
        return Span("message", 0, i, f"d{i}", "hub", "hub", "up", "f", 0.0, float(i + 1), 0.0, 0.0, 0.0, False)

    timeline = Timeline(root="hub", spans=[up(i) for i in range(100)], rounds={0: 100.0})
    (kept,) = report._timeline(timeline, 10_000)["rounds"]
    assert (kept["of"], len(kept["devices"]), kept["devices"][0], kept["devices"][-1]) == (100, report.DEVICES, "d99", "d40")
    assert len(kept["spans"]) == report.DEVICES


# --- colors ---------------------------------------------------------------------------------------------------------------------------

# G. Machado, M. Oliveira, L. Fernandes, A Physiologically-based Model for Simulation of Color Vision Deficiency, 2009, severity 1.0
SIMULATIONS = {
    "full color": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
}


def themes() -> list[dict[str, str]]:
    """Variables of the light and of the dark theme."""
    return [dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r"(?::root|data-theme=dark\]) \{(.*?)\}", CSS, re.DOTALL)][:2]


def linear(color: str) -> Any:
    srgb = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast."""
    low, high = sorted(float(linear(color) @ [0.2126, 0.7152, 0.0722]) for color in (one, other))
    return (high + 0.05) / (low + 0.05)


def lab(rgb: Any) -> Any:
    """CIE L*a*b* of linear sRGB, D65."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(rgb, 0, 1) / [0.9505, 1.0, 1.089]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colors_are_readable_and_differ_for_color_blind_eyes(theme: int) -> None:
    colors = themes()[theme]
    assert contrast(colors["ink"], colors["bg"]) >= 7 and contrast(colors["soft"], colors["panel"]) >= 4.5
    lines = [colors[f"c{i}"] for i in range(4)]
    parts = [colors[name] for name in ("compute", "up", "down", "idle")]
    assert all(contrast(color, colors["panel"]) >= 3 for color in [*lines, *parts[:3]])
    for matrix in SIMULATIONS.values():
        for group in (lines, parts):
            seen = [lab(matrix @ linear(color)) for color in group]
            assert min(float(np.linalg.norm(a - b)) for a, b in combinations(seen, 2)) > 10  # a just noticeable difference is about 2.3


# --- in a browser ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(html: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    if chromium.BINARY is None:
        pytest.skip("no Chromium on this machine; install one to test the page in it")
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html, encoding="utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def page(address: str) -> Iterator[Page]:
    with Page(address) as page:
        yield page


@pytest.mark.slow
def test_everything_is_drawn_without_errors_and_requests(page: Page, address: str) -> None:
    assert page.run("document.documentElement.dataset.ready") == "yes"
    assert page.errors == []
    assert page.requests == [address]
    assert page.run("document.querySelectorAll('#charts svg').length") == 4
    assert page.run("document.querySelectorAll('#charts polyline').length") == 8  # two methods in each
    for section in ("gantt", "bars", "map", "shards", "spread"):
        assert page.run(f"document.querySelectorAll('#{section} svg').length") >= 1, section
    assert page.run("[...document.querySelectorAll('svg[role=img]')].every(s => s.getAttribute('aria-label'))")


@pytest.mark.slow
def test_charts_are_read_by_keyboard_and_by_pointer(page: Page) -> None:
    page.run("document.querySelector('#charts svg').focus()")
    page.press("End")
    said = page.run("document.querySelector('#charts .readout').textContent")
    assert "mtgc" in said and "fedavg" in said and "%" in said
    page.press("Escape")
    assert page.run("document.querySelector('#charts .readout').textContent") == ""
    box = page.run(
        "(() => { const s = document.querySelector('#charts svg'); s.scrollIntoView({block: 'center'}); const r = s.getBoundingClientRect(); "
        "return [r.left, r.top, r.width, r.height]; })()"
    )
    page.hover(box[0] + 0.8 * box[2], box[1] + 0.5 * box[3])
    assert "fedavg" in page.run("document.getElementById('tip').textContent")
    page.run("document.querySelector('#gantt svg').focus()")
    page.press("ArrowDown")
    assert re.match(r"board\d: computing .*sending", page.run("document.querySelector('#gantt .readout').textContent"))


@pytest.mark.slow
def test_methods_runs_rounds_and_colors_can_be_chosen_with_keys(page: Page) -> None:
    page.run("document.querySelector('#legend button').focus()")
    page.press("Enter")
    assert page.run("document.querySelectorAll('#charts polyline').length") == 4
    page.press("Enter")
    page.run("document.getElementById('next').focus()")
    page.press("Enter")
    assert page.run("document.getElementById('round').value") == "1"
    page.run("(() => { const s = document.getElementById('run'); s.value = 3; s.dispatchEvent(new Event('change')); })()")
    assert page.run("document.querySelector('#explanation p').textContent").startswith("fedavg in tiny, seed 1")
    before = page.run("getComputedStyle(document.body).backgroundColor")
    page.run("document.getElementById('theme').focus()")
    page.press("Enter", times=2)  # auto, light, dark
    assert page.run("getComputedStyle(document.body).backgroundColor") != before
    page.press("Enter")


@pytest.mark.slow
def test_tab_reaches_everything_and_focus_is_seen(page: Page) -> None:
    page.run("document.activeElement.blur(); window.scrollTo(0, 0)")
    seen = []
    for _ in range(60):
        page.press("Tab")
        seen.append(page.run("(e => (e.closest('section') || {}).id + ' ' + e.tagName)(document.activeElement)"))
    for wanted in (
        "curves SELECT",
        "curves BUTTON",
        "curves svg",
        "timeline svg",
        "network svg",
        "partition svg",
        "clients svg",
        "configuration SUMMARY",
    ):
        assert wanted in seen, wanted
    page.run("document.getElementById('metric').focus()")
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


@pytest.mark.slow
@pytest.mark.parametrize("is_dark", [False, True])
def test_on_a_phone_nothing_sticks_out(address: str, is_dark: bool) -> None:
    with Page(address, width=360, height=740, is_dark=is_dark, is_phone=True) as page:
        assert page.run("document.documentElement.scrollWidth") <= 360
        assert page.errors == []
        wide = page.run("[...document.querySelectorAll('svg[role=img]')].filter(s => s.getBoundingClientRect().right > 361).length")
        assert wide == 0
        dark = page.run("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 26)"
        assert dark is is_dark
