"""Prometheus itself reads the metrics, checks the alerts, and runs what the dashboard asks.

`promtool` and `prometheus` are those of the Debian package `prometheus`. Where it is not installed these
tests fail: continuous integration installs it.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import psutil
import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest, make_wsgi_app

import saferocks
from saferocks import _metrics, metrics
from tests.systems import needs_linux

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Tool = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = [pytest.mark.usefixtures("fresh_totals"), needs_linux]

PAGES = Path(__file__).resolve().parent.parent / "docs" / "observability"
RULES = yaml.safe_load((PAGES / "alerts.yml").read_text())["groups"][0]["rules"]
DASHBOARD = json.loads((PAGES / "dashboard.json").read_text())
SECONDS = 60.0
#: What Grafana puts in the place of its variables.
VARIABLES = {"$instance": ".*", "$database": ".*", "$__range": "3h", "$__rate_interval": "1m"}


@pytest.fixture
def promtool() -> Tool:
    """Run promtool."""

    def run(*arguments: str | Path, text: str | None = None) -> subprocess.CompletedProcess[str]:
        command = ["promtool", *map(str, arguments)]
        return subprocess.run(command, input=text, capture_output=True, text=True, timeout=SECONDS, check=False)

    return run


def scraped(db: saferocks.Rdict) -> str:
    """Return what a scrape gives while handles of a database are open."""
    registry = CollectorRegistry()
    metrics.register(registry)
    with db.items(), db.snapshot():
        return generate_latest(registry).decode()


def expressions() -> list[str]:
    """Return all expressions of the dashboard, as Grafana would send them."""
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    for name, value in VARIABLES.items():
        found = [expression.replace(name, value) for expression in found]
    return found


def names_in(expression: str) -> set[str]:
    """Return the names of metrics in an expression."""
    return set(re.findall(r"\bsaferocks_\w+", expression))


# --------------------------------------------------------------------------- names and rules


def test_promtool_finds_nothing_wrong_with_the_names(promtool: Tool, db: saferocks.Rdict) -> None:
    """`promtool check metrics` has no word to say of a scrape."""
    done = promtool("check", "metrics", text=scraped(db))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_promtool_would_find_a_bad_name(promtool: Tool, db: saferocks.Rdict) -> None:
    """The same scrape with a counter that is not called `_total` is refused."""
    bad = scraped(db).replace("saferocks_handles_leaked_total", "saferocks_handles_leaked")
    done = promtool("check", "metrics", text=bad)
    assert done.returncode != 0
    assert "_total" in done.stdout + done.stderr


def test_the_alerts_are_rules(promtool: Tool) -> None:
    """`promtool check rules` accepts the alerts."""
    done = promtool("check", "rules", PAGES / "alerts.yml")
    assert (done.returncode, "4 rules found" in done.stdout) == (0, True)


def test_the_alerts_do_what_their_tests_say(promtool: Tool) -> None:
    """`promtool test rules` passes: each alert comes when it should, and in healthy programs none does."""
    done = promtool("test", "rules", PAGES / "alerts_test.yml")
    assert (done.returncode, done.stderr) == (0, "")


SPOILED = {"never": "vector(0) > 1", "always": "max by (database, kind) ({__name__=~'saferocks_.+'}) >= 0"}


@pytest.mark.parametrize("how", SPOILED)
@pytest.mark.parametrize("alert", [rule["alert"] for rule in RULES])
def test_the_tests_of_the_alerts_can_fail(promtool: Tool, tmp_path: Path, alert: str, how: str) -> None:
    """An alert that never comes, or always, does not pass its tests."""
    rules = [{**rule, "expr": SPOILED[how]} if rule["alert"] == alert else rule for rule in RULES]
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump({"groups": [{"name": "spoiled", "rules": rules}]}))
    (tmp_path / "alerts_test.yml").write_text((PAGES / "alerts_test.yml").read_text())
    done = promtool("test", "rules", tmp_path / "alerts_test.yml")
    assert done.returncode != 0
    assert alert in done.stdout + done.stderr


@pytest.mark.parametrize("alert", [rule["alert"] for rule in RULES])
def test_alerts_name_metrics_that_exist(db: saferocks.Rdict, alert: str) -> None:
    """Each metric that an alert asks for is in a scrape."""
    (rule,) = [rule for rule in RULES if rule["alert"] == alert]
    names = names_in(rule["expr"])
    assert names
    assert names - set(re.findall(r"^(saferocks_\w+)", scraped(db), re.MULTILINE)) == set()


# --------------------------------------------------------------------------- the dashboard


def test_the_dashboard_names_metrics_that_exist(db: saferocks.Rdict) -> None:
    """Each metric in the dashboard's expressions and variables is in a scrape, and each metric is on the dashboard."""
    asked = set().union(*map(names_in, expressions()))
    there = set(re.findall(r"^(saferocks_\w+)", scraped(db), re.MULTILINE))
    assert asked - there == set()
    assert there - asked == set()
    variables = [each["definition"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]
    assert set().union(*map(names_in, variables)) <= there


def test_the_dashboard_uses_labels_that_exist() -> None:
    """Each label that an expression selects by or groups by is one of its metrics, or Prometheus's own."""
    known = {label for metric in _metrics.METRICS for label in metric.labels} | {"le", "instance"}
    for expression in expressions():
        selected = re.findall(r"(\w+)(?:=~|!~|=|!=)\"", expression)
        grouped = [label.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for label in group.split(",")]
        assert {*selected, *grouped} <= known, expression


def test_the_dashboard_can_be_read_by_promtool(promtool: Tool, tmp_path: Path) -> None:
    """Each expression of the dashboard is one that Prometheus understands."""
    rules = [{"record": f"panel:{number}", "expr": each} for number, each in enumerate(expressions())]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = promtool("check", "rules", file)
    assert (done.returncode, f"{len(rules)} rules found" in done.stdout) == (0, True), done.stderr


def test_panels_are_told_apart_and_lie_side_by_side() -> None:
    """Each panel has a number, a title, a description and a place of its own."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels) >= 10
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}  # fmt: skip
        assert panel["description"].endswith(".")
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells


# --------------------------------------------------------------------------- a real server


class Quiet(WSGIRequestHandler):
    """Logs no requests."""

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Target:
    """What Prometheus scrapes: the metrics of this process, on loopback.

    Attributes:
        address: Where, as `host:port`.
    """

    def __init__(self) -> None:
        registry = CollectorRegistry()
        metrics.register(registry)
        self._app: Any = make_wsgi_app(registry)
        self._scrapes = threading.Semaphore(0)
        self._server = make_server("127.0.0.1", 0, self._serve, handler_class=Quiet)
        self.address = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def _serve(self, environ: Any, start: Any) -> Any:
        self._scrapes.release()
        return self._app(environ, start)

    def wait(self, scrapes: int) -> None:
        """Wait for so many scrapes from now: when one comes, Prometheus is through with the one before it."""
        while self._scrapes.acquire(blocking=False):
            pass
        for _ in range(scrapes):
            assert self._scrapes.acquire(timeout=SECONDS), "Prometheus does not scrape"

    def stop(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Server:
    """A Prometheus server on a free port of loopback that scrapes a target each second, with the alerts."""

    def __init__(self, directory: Path, target: Target) -> None:
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(PAGES / "alerts.yml")],
            "scrape_configs": [{"job_name": "saferocks", "static_configs": [{"targets": [target.address]}]}],
        }
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
        self._process = subprocess.Popen(
            [
                "prometheus", f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data",
                "--web.listen-address=127.0.0.1:0",
            ],
            stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self._said: list[str] = []
        ready = threading.Event()
        self._reader = threading.Thread(target=self._read, args=(ready,))
        self._reader.start()
        assert ready.wait(SECONDS), "\n".join(self._said)
        listening = psutil.Process(self._process.pid).net_connections("tcp")
        (self._port,) = [each.laddr.port for each in listening if each.status == psutil.CONN_LISTEN]

    def _read(self, ready: threading.Event) -> None:
        """Read what it says, to the end, so that it never waits for a reader."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said.append(line)
            if "Server is ready to receive web requests" in line:
                ready.set()

    def get(self, path: str, **query: str) -> Any:
        """Ask its interface, and return the data."""
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=SECONDS) as answer:
            found = json.load(answer)
        assert found["status"] == "success"
        return found["data"]

    def value(self, expression: str) -> float:
        """Return the one value of an expression."""
        (sample,) = self.get("query", query=expression)["result"]
        return float(sample["value"][1])

    def stop(self) -> None:
        """End it, and see that it has ended."""
        self._process.terminate()
        self._process.wait(SECONDS)
        self._reader.join()
        assert self._process.stderr is not None
        self._process.stderr.close()


@pytest.fixture
def target() -> Iterator[Target]:
    """The metrics of this process, served on loopback."""
    target = Target()
    yield target
    target.stop()


@pytest.fixture
def server(tmp_path: Path, target: Target) -> Iterator[Server]:
    """A running Prometheus that scrapes this process."""
    directory = tmp_path / "prometheus"
    directory.mkdir()
    server = Server(directory, target)
    yield server
    server.stop()


@pytest.mark.slow
@pytest.mark.about_leaks
def test_a_real_prometheus_scrapes_and_alerts(server: Server, target: Target, db: saferocks.Rdict) -> None:
    """A real server has the figures of this process, answers the dashboard, and its alert comes with a leak."""
    with db.items(), db.snapshot():
        target.wait(3)
        assert server.value("up") == 1
        assert server.value('saferocks_open_handles{kind="iterator"}') == 1
        assert server.value('saferocks_open_handles{kind="snapshot"}') == 1
        assert server.value("saferocks_rocksdb_iterators - saferocks_registered_iterators") == 0
        assert 0 <= server.value('time() - saferocks_handle_oldest_opened_timestamp_seconds{kind="snapshot"}') < SECONDS
        for expression in expressions():
            assert "result" in server.get("query", query=expression), expression
    assert server.get("alerts")["alerts"] == []
    with pytest.warns(saferocks.LeakedHandleWarning):
        db.snapshot()
    fired: list[Any] = []
    for _ in range(30):
        target.wait(1)
        fired = server.get("alerts")["alerts"]
        if fired:
            break
    (alert,) = fired
    assert (alert["labels"]["alertname"], alert["labels"]["kind"]) == ("SaferocksHandleLeaked", "snapshot")
    assert alert["state"] == "firing"
