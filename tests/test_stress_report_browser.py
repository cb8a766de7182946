"""`report.html` of a real run in a real browser: it draws, zooms, fits, and asks for nothing beyond itself.

The browser is Chromium with its driver, from the system; nothing is installed here.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from stress.record import Plan
from stress.report import write_report
from stress.runner import carry_out, prepare
from stress.scenario import LEGS

if TYPE_CHECKING:
    from selenium.webdriver.chrome.webdriver import WebDriver

SECONDS = 30
SCENARIOS = ("iterator-leak", "snapshot-age")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the page of a real run, two legs at a time."""
    plan = Plan(SCENARIOS, LEGS, 0.5, 1)
    run = prepare(plan, str(tmp_path_factory.mktemp("run")), datetime(2030, 1, 2, tzinfo=timezone.utc))
    with ThreadPoolExecutor(2) as executor:
        carry_out(run, executor=executor)
    return Path(write_report(run.file)).as_uri()


def view(driver: WebDriver, width: int, height: int = 1000) -> None:
    """Give the page a window of this size, as a phone or a desktop would."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def prefer(driver: WebDriver, scheme: str) -> None:
    """Ask for a light or a dark page."""
    feature = {"name": "prefers-color-scheme", "value": scheme}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})


def draw_all(driver: WebDriver) -> None:
    """Wait until every chart is drawn, in a window so high that all of the page is in view."""
    view(driver, 1400, driver.execute_script("return document.documentElement.scrollHeight") * 2)
    undrawn = "return document.querySelectorAll('figure:not(.drawn), figure .plot:empty').length"
    WebDriverWait(driver, SECONDS).until(lambda waiting: waiting.execute_script(undrawn) == 0)


def requested(driver: WebDriver) -> set[str]:
    """Return every address that the browser has asked for since its own first page."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    sent = [each["params"] for each in messages if each["method"] == "Network.requestWillBeSent"]
    return {each["request"]["url"] for each in sent if not each["documentURL"].startswith("chrome:")}


BLANK = """
return [...document.querySelectorAll('figure canvas')].filter((canvas) => {
  const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  return !pixels.some((value) => value !== 0);
}).length
"""


def test_the_page_opens_without_errors_or_requests(page, browser) -> None:
    """From its file alone, the page shows every scenario and draws every chart, and asks for nothing."""
    driver = browser()
    driver.get(page)
    draw_all(driver)
    headings = [heading.text for heading in driver.find_elements(By.CSS_SELECTOR, "section.scenario h2")]
    assert [heading.split()[0] for heading in headings] == list(SCENARIOS)
    figures, canvases = (len(driver.find_elements(By.CSS_SELECTOR, name)) for name in ("figure", "figure canvas"))
    assert figures == canvases > 30
    assert driver.execute_script(BLANK) == 0
    assert driver.get_log("browser") == []
    assert requested(driver) == {page}


FETCH = """
const done = arguments[0];
document.addEventListener('securitypolicyviolation', (event) => done('refused: ' + event.violatedDirective));
fetch('http://127.0.0.1:9/').then(() => done('fetched'), () => null);
"""


def test_the_policy_keeps_the_page_from_the_network(page, browser) -> None:
    """Even a script inside the page cannot fetch anything."""
    driver = browser()
    driver.get(page)
    fetched = driver.execute_async_script(FETCH)
    assert fetched == "refused: connect-src"


SHOWN = "const {min, max} = document.querySelector(arguments[0]).uplot.scales.x; return [min, max]"


def shown(driver: WebDriver, chart: str) -> list[float]:
    """Return from where to where a chart shows x."""
    return driver.execute_script(SHOWN, f'[data-chart="{chart}"]')


def test_dragging_zooms_the_charts_of_a_scenario_together(page, browser) -> None:
    """A drag narrows x for every chart of its group and for no other; a double click or the button resets it."""
    driver = browser()
    driver.get(page)
    draw_all(driver)
    charts = ("snapshot-age/time/heap", "snapshot-age/time/rss", "snapshot-age/age/heap", "iterator-leak/time/heap")
    before = [shown(driver, chart) for chart in charts]
    over = driver.find_element(By.CSS_SELECTOR, f'[data-chart="{charts[0]}"] .u-over')
    reset = driver.find_element(By.CSS_SELECTOR, 'button.reset[data-group="snapshot-age/time"]')

    def drag() -> None:
        ActionChains(driver, 50).move_to_element(over).click_and_hold().move_by_offset(60, 0).release().perform()

    drag()
    zoomed = [shown(driver, chart) for chart in charts]
    middle = sum(before[0]) / 2
    assert zoomed[0][0] == pytest.approx(middle, rel=0.05)
    assert middle < zoomed[0][1] < before[0][1] * 0.95
    assert zoomed[1] == zoomed[0]
    assert zoomed[2:] == before[2:]
    assert reset.is_displayed()
    ActionChains(driver, 50).double_click(over).perform()
    assert [shown(driver, chart) for chart in charts] == before
    assert not reset.is_displayed()
    drag()
    reset.click()
    assert [shown(driver, chart) for chart in charts] == before


def test_the_cursor_shows_the_values_of_all_legs(page, browser) -> None:
    """Above a chart, its legend gives each leg's value at the cursor, with its unit."""
    driver = browser()
    driver.get(page)
    draw_all(driver)
    figure = driver.find_element(By.CSS_SELECTOR, '[data-chart="iterator-leak/time/heap"]')
    ActionChains(driver, 50).move_to_element(figure.find_element(By.CSS_SELECTOR, ".u-over")).perform()
    legend = [row.text for row in figure.find_elements(By.CSS_SELECTOR, ".u-legend .u-series")]
    names = ("time", *LEGS)
    assert [row.startswith(name) for row, name in zip(legend, names, strict=True)] == [True] * len(names)
    assert [row.split()[-1] for row in legend] == ["s", "MiB", "MiB", "MiB"]


def test_without_javascript_the_drawings_are_there(page, browser) -> None:
    """A reader that runs no script sees every chart as SVG, and no control that would do nothing."""
    driver = browser(javascript=False)
    driver.get(page)
    figures = driver.find_elements(By.CSS_SELECTOR, "figure")
    assert len(figures) > 30
    for figure in figures:
        drawing = figure.find_element(By.CSS_SELECTOR, "svg")
        assert drawing.is_displayed()
        assert drawing.size["height"] > 100
    assert driver.find_elements(By.CSS_SELECTOR, "canvas") == []
    assert not any(button.is_displayed() for button in driver.find_elements(By.CSS_SELECTOR, "button"))
    assert not driver.find_element(By.CSS_SELECTOR, ".scripted").is_displayed()


@pytest.mark.parametrize("javascript", [True, False])
def test_a_phone_scrolls_one_way_only(page, browser, javascript: bool) -> None:
    """At 390 pixels nothing is wider than the window; tables scroll inside their boxes."""
    driver = browser(javascript=javascript)
    view(driver, 390)
    driver.get(page)
    if javascript:
        for figure in driver.find_elements(By.CSS_SELECTOR, "figure"):
            driver.execute_script("arguments[0].scrollIntoView()", figure)
        WebDriverWait(driver, SECONDS).until(lambda waiting: waiting.find_elements(By.CSS_SELECTOR, "figure canvas"))
    metrics = driver.execute_cdp_cmd("Page.getLayoutMetrics", {})
    assert metrics["cssContentSize"]["width"] <= 390
    assert metrics["cssLayoutViewport"]["clientWidth"] == 390


def lightness(driver: WebDriver, of: str) -> float:
    """Return the lightness of a colour of the page, 0 to 1."""
    value = driver.find_element(By.TAG_NAME, "body").value_of_css_property(of)
    parts = [float(part) for part in value[value.index("(") + 1 : -1].split(",")][:3]
    return sum(parts) / (3 * 255)


COLOURS = """
const canvas = document.querySelector('figure canvas');
const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
const seen = new Set();
for (let at = 0; at < pixels.length; at += 4) {
  if (pixels[at + 3] === 255) seen.add([...pixels.slice(at, at + 3)].join());
}
return [...seen]
"""


def test_the_page_follows_the_scheme_of_the_system(page, browser) -> None:
    """Light text on dark where that is asked for, dark on light otherwise; charts follow at once."""
    driver = browser()
    prefer(driver, "light")
    driver.get(page)
    draw_all(driver)
    assert lightness(driver, "background-color") > 0.9
    assert lightness(driver, "color") < 0.2
    light = driver.execute_script(COLOURS)
    assert "196,79,10" in light  # the raw leg's colour
    prefer(driver, "dark")
    assert lightness(driver, "background-color") < 0.15
    assert lightness(driver, "color") > 0.8
    WebDriverWait(driver, SECONDS).until(lambda waiting: "255,147,80" in waiting.execute_script(COLOURS))


def test_the_replay_command_can_be_copied(page, browser) -> None:
    """The button selects the whole command, for the clipboard or for the keyboard."""
    driver = browser()
    driver.get(page)
    driver.find_element(By.ID, "copy").click()
    assert driver.execute_script("return String(getSelection())").startswith("python -m stress run iterator-leak")
    WebDriverWait(driver, SECONDS).until(lambda waiting: waiting.find_element(By.ID, "copy").text != "Copy")
