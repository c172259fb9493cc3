"""Pages of the assets' clips in a real browser: quiet, alone, moving, and true to the trace."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seats_cli.show.page import render_page
from seats_cli.show.record import AUDIO, VIDEO, RunRecord
from tests.show.conftest import ROOT

ASSETS = sorted(path for path in (ROOT / "assets").iterdir() if path.suffix in (".mp4", ".wav"))
# Sums over the groups that look kept: neither dropped before the LLM nor by the slider's layer.
COUNT = """(selector) => [...document.querySelectorAll(selector + " g.k:not(.k0):not(.gone) rect")]
    .reduce((sum, rectangle) => sum + Number(rectangle.getAttribute("width")), 0)"""
SLIDE = """(layer) => {
    const slider = document.getElementById("slider");
    slider.value = layer;
    slider.dispatchEvent(new Event("input"));
}"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Debian's Chromium without a window."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if path is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page that is open, and what it complained about and asked for."""

    def __init__(self, browser: Any, path: Path, page: str, **options: Any) -> None:
        path.write_text(page, encoding="utf-8")
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page = browser.new_page(**options)
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_load_state("networkidle")

    def kept(self, where: str) -> int:
        """Tokens that are shown as kept."""
        return int(self.page.evaluate(COUNT, where))

    def check(self) -> None:
        """Nothing went wrong, and nothing came from elsewhere."""
        assert self.complaints == []
        outside = [url[:90] for url in self.requests if not url.startswith(("data:", "file:"))]
        assert outside == []
        assert sum(url.startswith("file:") for url in self.requests) == 1
        self.page.close()


def alive(record: RunRecord, code: int, layer: int) -> int:
    """Tokens of a modality that a layer processes, straight from the stages."""
    kept = np.arange(len(record.modality))
    for stage in record.stages:
        if stage.after_layer < layer:
            kept = stage.kept
    return int((record.modality[kept] == code).sum())


@pytest.mark.parametrize("asset", ASSETS, ids=lambda path: path.stem)
def test_pages_of_the_assets(chromium, ask, tmp_path, asset):
    run = ask(asset)
    record = run.record
    visit = Visit(chromium, tmp_path / "page.html", render_page([record], run.clip))
    for layer in (1, 9, record.num_layers):
        visit.page.evaluate(SLIDE, layer)
        assert visit.kept(".cells") == alive(record, VIDEO, layer)
        assert visit.kept(".spans") == alive(record, AUDIO, layer)
        assert visit.kept(".strip") == alive(record, AUDIO, layer)
        assert visit.page.inner_text("#layer") == str(layer)
        assert visit.page.inner_text(".readout").startswith(f"Layer {layer} processes")
        assert visit.page.locator("g.bar.now").get_attribute("data-layer") == str(layer)
    assert visit.page.locator("figure").count() == (record.grid.grids if record.grid else 0)
    visit.check()


def test_the_slider_moves_by_key(chromium, cards, tmp_path):
    visit = Visit(chromium, tmp_path / "page.html", render_page([cards.record], cards.clip))
    before = visit.kept(".cells")
    visit.page.focus("#slider")
    visit.page.keyboard.press("End")
    assert visit.page.input_value("#slider") == str(cards.record.num_layers)
    assert visit.kept(".cells") == 0 < before
    visit.check()


def test_the_sound_plays_and_the_cursor_follows(chromium, cards, tmp_path):
    visit = Visit(chromium, tmp_path / "page.html", render_page([cards.record], cards.clip))
    page = visit.page
    assert page.evaluate("document.getElementById('sound').duration") == pytest.approx(12, abs=0.2)
    page.locator("figure").nth(5).click()
    page.wait_for_function("document.getElementById('sound').currentTime >= 5")
    page.wait_for_selector("figure.now")
    assert page.locator("figure.now").get_attribute("data-start") == "5.0"
    x = float(page.locator("svg.sound .cursor").get_attribute("x1"))
    width = page.evaluate("document.querySelector('svg.sound').viewBox.baseVal.width")
    assert x == pytest.approx(5 / 12 * width, rel=0.05)
    page.locator("svg.sound").click(position={"x": 10, "y": 20})
    page.wait_for_function("document.getElementById('sound').currentTime < 1")
    visit.check()


def test_without_javascript_everything_is_there(chromium, cards, tmp_path):
    visit = Visit(
        chromium,
        tmp_path / "page.html",
        render_page([cards.record, cards.record], cards.clip),
        java_script_enabled=False,
    )
    assert visit.page.locator("section.run").count() == 2
    assert all(visit.page.locator("section.run").nth(k).is_visible() for k in (0, 1))
    assert not visit.page.locator("#slider").is_visible()
    assert visit.page.locator("audio").is_visible()
    assert not visit.page.locator("nav").is_visible()


def test_several_runs_are_chosen_by_buttons(chromium, ask, tmp_path):
    runs = [ask(method=method) for method in ("seats", "omnidrop", None)]
    page = render_page([run.record for run in runs], runs[0].clip)
    visit = Visit(chromium, tmp_path / "page.html", page)
    for number, run in enumerate(runs):
        visit.page.locator("nav button").nth(number).click()
        shown = visit.page.locator("section.run:visible")
        assert shown.count() == 1
        assert shown.get_attribute("id") == f"run{number}"
        assert visit.kept(f"#run{number} .cells") == alive(run.record, VIDEO, 1)
    visit.check()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [380, 1100])
def test_text_is_readable_and_nothing_overflows(chromium, cards, tmp_path, scheme, width):
    visit = Visit(
        chromium,
        tmp_path / "page.html",
        render_page([cards.record], cards.clip),
        color_scheme=scheme,
        viewport={"width": width, "height": 800},
    )
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    for selector in ("h1", ".note", "dt", ".legend th", "figcaption span"):
        assert _contrast(visit.page, selector) >= 4.5
    visit.check()


def test_every_picture_has_words(chromium, cards, tmp_path):
    visit = Visit(chromium, tmp_path / "page.html", render_page([cards.record], cards.clip))
    silent = visit.page.evaluate(
        """[...document.querySelectorAll("svg, audio, input")].filter((item) =>
            !item.closest("[aria-hidden]") && !item.getAttribute("aria-label")).length"""
    )
    assert silent == 0
    visit.check()


def _contrast(page: Any, selector: str) -> float:
    """WCAG's ratio of the colour of an element to the page's ground."""
    colours = page.evaluate(
        """(selector) => [getComputedStyle(document.querySelector(selector)).color,
            getComputedStyle(document.body).backgroundColor]""",
        selector,
    )
    light, dark = sorted((_luminance(colour) for colour in colours), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    values = [int(part) / 255 for part in colour.split("(")[1].rstrip(")").split(",")[:3]]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
