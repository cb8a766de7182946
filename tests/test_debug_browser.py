"""The debug page of this process in a real browser: live, quiet, and readable everywhere.

The browser is Chromium with its driver, from the system; nothing is installed here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

import saferocks
from saferocks import debug

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from selenium.webdriver.chrome.webdriver import WebDriver

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 30


@pytest.fixture
def url() -> Iterator[str]:
    """The address of the page of this process."""
    with debug.serve() as server:
        yield server.url


def shows(driver: WebDriver, text: str) -> None:
    """Wait until the page shows a text."""
    WebDriverWait(driver, SECONDS).until(lambda it: text in it.execute_script("return document.body.innerText"))


def drawn(driver: WebDriver, chart: str) -> list[list[float]]:
    """Return the heights of the points of each curve of a chart, from the bottom up."""
    selector = f'figure[data-chart="{chart}"] polyline'
    script = "return [...document.querySelectorAll(arguments[0])].map((line) => line.getAttribute('points'))"
    lines = [points.split() for points in driver.execute_script(script, selector)]
    return [[100 - float(point.split(",")[1]) for point in line] for line in lines]


def test_a_leak_shows_up_while_one_looks(db: saferocks.Rdict, url: str, browser) -> None:
    """A handle that is opened while the page is open appears with its line and count, and the curves rise."""
    driver = browser()
    driver.get(url)
    shows(driver, "1 open handle ")
    with ExitStack() as leaked:
        for _ in range(7):
            leaked.enter_context(db.items())
            line = f"{__file__}:{sys._getframe().f_lineno - 1}"
        shows(driver, "8 open handles ")
        row = driver.find_element(By.CSS_SELECTOR, "#live tbody tr").text
        assert row.startswith("7 ")
        assert line in row
        WebDriverWait(driver, SECONDS).until(lambda it: any(len(each) >= 2 for each in drawn(it, "counts")))
        rising = [each for each in drawn(driver, "counts") if each[-1] > each[0] + 50]
        assert len(rising) == 1
        assert "iterator 7" in driver.find_element(By.CSS_SELECTOR, '[data-chart="counts"] .legend').text
    shows(driver, "1 open handle ")
    assert driver.get_log("browser") == []


def test_the_page_asks_nobody_else(url: str, browser) -> None:
    """All that the browser asks for is the page itself, and the policy keeps scripts from asking others."""
    driver = browser()
    driver.get(url)
    shows(driver, "updated every two seconds")
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    sent = [each["params"] for each in messages if each["method"] == "Network.requestWillBeSent"]
    asked = {each["request"]["url"] for each in sent if each["documentURL"].startswith("http")}
    assert {address.split("?")[0] for address in asked} - {"data:,"} == {url}
    fetched = driver.execute_async_script("""
        const done = arguments[0];
        document.addEventListener('securitypolicyviolation', (event) => done('refused: ' + event.violatedDirective));
        fetch('http://127.0.0.1:9/').then(() => done('fetched'), () => null);
    """)
    assert fetched == "refused: connect-src"


def test_markup_in_labels_stays_text(db: saferocks.Rdict, url: str, browser) -> None:
    """A label that holds a script or an image is shown as it is written, at first and when fetched anew."""
    nasty = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>"
    driver = browser()
    with db.items(label=nasty):
        driver.get(url)
        shows(driver, nasty)
    with db.keys(label=nasty):
        shows(driver, nasty)
        shows(driver, "updated every two seconds")
        assert driver.find_elements(By.CSS_SELECTOR, "img") == []
    assert driver.title.startswith("saferocks: ")
    assert driver.get_log("browser") == []


def test_an_open_stack_stays_open(path: str, url: str, browser) -> None:
    """The whole stack of an opening can be unfolded, and stays so when the page is fetched anew."""
    driver = browser()
    with saferocks.open(path, trace="stack") as db, db.items():
        driver.get(url)
        driver.find_element(By.CSS_SELECTOR, "summary").click()
        first = driver.find_element(By.TAG_NAME, "time")
        WebDriverWait(driver, SECONDS).until(lambda it: it.find_element(By.TAG_NAME, "time") != first)
        assert driver.find_element(By.CSS_SELECTOR, "details[open] ol").is_displayed()


def test_without_javascript(db: saferocks.Rdict, url: str, browser) -> None:
    """A reader that runs no script sees the tables, anew every five seconds, and no empty charts."""
    driver = browser(javascript=False)
    driver.get(url)
    assert not driver.find_element(By.ID, "charts").is_displayed()
    assert driver.find_element(By.CSS_SELECTOR, "#live table").is_displayed()
    with db.items(label="seen"):
        WebDriverWait(driver, SECONDS, ignored_exceptions=[Exception]).until(
            lambda it: "[seen]" in it.find_element(By.ID, "live").text
        )


def test_a_server_that_has_gone(browser) -> None:
    """When the process answers no more, the page says that what it shows is old, and keeps it."""
    driver = browser()
    with debug.serve() as server:
        driver.get(server.url)
        shows(driver, "updated every two seconds")
    shows(driver, "what is shown is old")
    assert driver.find_element(By.ID, "live").is_displayed()


HURRY = "const wait = AbortSignal.timeout; AbortSignal.timeout = (time) => wait.call(AbortSignal, time / 10);"


def test_a_process_that_hangs(browser) -> None:
    """When the process takes a connection and never answers, the page says that what it shows is old; until it does."""
    answers = threading.Event()
    answers.set()

    def hanging(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        answers.wait(SECONDS)
        return debug.app(environ, start_response)

    driver = browser()
    driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": HURRY})
    with debug.serve(app=hanging) as server:
        driver.get(server.url)
        shows(driver, "updated every two seconds")
        answers.clear()
        try:
            shows(driver, "what is shown is old")
        finally:
            answers.set()
        shows(driver, "updated every two seconds")


TOP = "return document.querySelector('[data-chart=counts] .top').textContent"
NOTE = """
const [status, top] = [document.getElementById("status"), document.querySelector("[data-chart=counts] .top")];
window.noted = [];
new MutationObserver(() => noted.push(status.textContent + "; " + top.textContent)).observe(status, {childList: true});
"""
SERVING = (
    "import sys; from saferocks import debug; print(debug.serve(int(sys.argv[1])).port, flush=True); sys.stdin.read()"
)


@contextmanager
def serving(port: int = 0) -> Iterator[tuple[int, int]]:
    """A process that serves the page: its number, and the port."""
    command = [sys.executable, "-c", SERVING, str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as child:
        assert child.stdout is not None
        yield child.pid, int(child.stdout.readline())
        child.kill()


def test_another_process_answers(browser) -> None:
    """When the program was started anew, the page names the process that it shows, and no curve mixes the two."""
    driver = browser()
    with serving() as (first, port):
        driver.get(f"http://127.0.0.1:{port}/")
        shows(driver, f"process {first}")
        WebDriverWait(driver, SECONDS).until(lambda it: "over 0.0 s" not in it.execute_script(TOP))
        driver.execute_script(NOTE)
    with serving(port) as (second, _):
        shows(driver, f"process {second}")
        shows(driver, "updated every two seconds")
        noted = driver.execute_script("return window.noted")
        assert "another process answers than before: the curves begin anew; top 1, over 0.0 s" in noted
        assert f"process {first}" not in driver.find_element(By.TAG_NAME, "body").text


def test_what_the_reader_does_stays(path: str, url: str, browser) -> None:
    """The keyboard stays where it is when the page is fetched anew, selected text too, and the tab counts on."""
    driver = browser()
    with saferocks.open(path, trace="stack") as db, db.items():
        driver.get(url)
        first = driver.find_element(By.TAG_NAME, "time")
        driver.execute_script("document.querySelectorAll('summary')[1].focus()")
        with db.items():
            WebDriverWait(driver, SECONDS).until(lambda it: it.title == "saferocks: 3 open")
        WebDriverWait(driver, SECONDS).until(lambda it: it.find_element(By.TAG_NAME, "time") != first)
        assert driver.execute_script("return document.activeElement === document.querySelectorAll('summary')[1]")
        driver.execute_script("getSelection().selectAllChildren(document.querySelector('#live table'))")
        shows(driver, "tables wait while text in them is selected")
        driver.execute_script("getSelection().removeAllRanges()")
        shows(driver, "updated every two seconds")


@pytest.mark.parametrize("javascript", [True, False])
def test_a_phone_scrolls_one_way_only(path: str, url: str, browser, javascript: bool) -> None:
    """At 390 pixels nothing is wider than the window; tables scroll inside their boxes."""
    driver = browser(javascript=javascript)
    size = {"width": 390, "height": 1000, "deviceScaleFactor": 1, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    with saferocks.open(path, trace="stack") as db, db.items(label="x" * 200):
        driver.get(url)
        if javascript:
            shows(driver, "updated every two seconds")
            driver.find_element(By.CSS_SELECTOR, "summary").click()
        metrics = driver.execute_cdp_cmd("Page.getLayoutMetrics", {})
    assert metrics["cssContentSize"]["width"] <= 390
    assert metrics["cssLayoutViewport"]["clientWidth"] == 390


def test_long_labels_leave_room(db: saferocks.Rdict, url: str, browser) -> None:
    """However long labels are, rows are lower than the window, and a wide one shows all columns without scrolling."""
    driver = browser()
    with ExitStack() as labelled:
        for letters in ("x", "\N{FULL BLOCK}", "\u202e", "two words "):
            labelled.enter_context(db.items(label=letters * 10_000))
            labelled.enter_context(db.keys(label=letters * 10_000))
        driver.get(url)
        box = driver.find_element(By.CSS_SELECTOR, "#live .box")
        assert driver.execute_script("return arguments[0].scrollWidth - arguments[0].clientWidth", box) == 0
        rows = driver.find_elements(By.CSS_SELECTOR, "#live tbody tr")
        assert max(row.size["height"] for row in rows) < 800


def test_light_and_dark(db: saferocks.Rdict, url: str, browser) -> None:
    """Light text on dark where the system asks for that, dark on light otherwise; curves have other colours too."""
    driver = browser()
    seen = {}
    for scheme in ("light", "dark"):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        driver.get(url)
        curve = driver.find_element(By.CSS_SELECTOR, "polyline").value_of_css_property("stroke")
        seen[scheme] = (lightness(driver, "background-color"), lightness(driver, "color"), curve)
    assert seen["light"][0] > 0.9
    assert seen["light"][1] < 0.2
    assert seen["dark"][0] < 0.15
    assert seen["dark"][1] > 0.8
    assert seen["light"][2] != seen["dark"][2]


def lightness(driver: WebDriver, of: str) -> float:
    """Return the lightness of a colour of the page, 0 to 1."""
    value = driver.find_element(By.TAG_NAME, "body").value_of_css_property(of)
    parts = [float(part) for part in value[value.index("(") + 1 : -1].split(",")][:3]
    return sum(parts) / (3 * 255)
