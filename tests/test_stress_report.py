"""`report.html`: what it shows of a run, that no text can break out of it, and that bad input is refused in a line."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import random
import re
import subprocess
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest
from hypothesis import example, given, settings, strategies as st

from stress import cli, session
from stress.report import write_report
from stress.report.charts import charts_of
from stress.report.page import page
from stress.report.source import LegResult, RunResult, read_run
from stress.report.thinning import FEWEST, kept_dots, kept_indices
from stress.report.ticks import number, quantity, tick_label, ticks, ticks_within

ROOT = Path(__file__).resolve().parent.parent
MIB = 1 << 20
LINE = "/somewhere/stress/scenarios/snapshot_age.py:44"
SIGNALS = (
    *("heap", "rss", "uss", "pinned_memtables", "sst_live", "sst_total", "scan_seconds", "open_handles", "oldest_age"),
    *("live_iterators", "snapshots", "live_versions", "memtables"),
)


def series(samples: int = 40, *, leaks: bool = False) -> dict[str, list[float | None]]:
    """Return what a leg samples: rising in every signal if it leaks, and in none if it does not."""
    times: list[float | None] = [number / 10 for number in range(samples)]
    level = [1.0 if leaks else 0.0] * samples
    found: dict[str, list[float | None]] = {"time": times, "rounds": list(range(samples))}
    for name in SIGNALS:
        size = MIB if name in ("heap", "rss", "uss", "pinned_memtables", "sst_live", "sst_total", "memtables") else 1.0
        found[name] = [size * (each * index + (size > 1)) for index, each in enumerate(level)]
    return found | {"oldest_age": times if leaks else [0.0] * samples}


def leg(scenario: str, name: str, **changes: object) -> dict[str, object]:
    """Return the record of a leg, as it must be."""
    leaks = name == "raw"
    budget = {"signal": "heap", "verdict": "fail" if leaks else "pass", "reason": "because", "budget": 4 * MIB}
    figures = {"figure": 39.0 * MIB, "low": 38.0 * MIB, "high": 40.0 * MIB} if leaks else {"figure": 0.5, "low": -1.0}
    limit = {"signal": "open_handles", "verdict": "pass", "reason": "never above its limit", "figure": 0.0, "budget": 0}
    said = {"source": "warning", "opened_at": LINE, "text": "snapshot opened and collected while open"}
    return {
        "scenario": scenario,
        "leg": name,
        "verdict": "fail" if leaks else "pass",
        "status": "green",
        "reason": f"why {name}",
        "named": [LINE] if name == "guarded" else [],
        "judgements": [{"high": 2.0, **budget, **figures}, {"low": 0.0, "high": 0.0, **limit}],
        "series": series(leaks=leaks),
        "leaks": [said, said] if name == "guarded" else [],
        **changes,
    }


def record(*results: dict[str, object], **changes: object) -> dict[str, object]:
    """Return what `run.json` holds."""
    legs = ("raw", "guarded", "scoped")
    return {
        "format": 1,
        "status": "green",
        "reason": "every leg came out as it must",
        "interrupted": False,
        "started": "2030-01-02T03:04:05+00:00",
        "command": "python -m stress run snapshot-age --seconds 4.5 --seed 77",
        "scenarios": ["snapshot-age"],
        "legs": list(legs),
        "seconds": 4.5,
        "seed": 77,
        "versions": {"saferocks": "9.8.7", "platform": "Linux-of-the-test"},
        "machine": {"cpu": "a fast one", "memory": 8 << 30, "platform": "Linux-of-the-test"},
        "workers": [{"address": "one", "memory": 4 << 30}],
        "results": list(results) or [leg("snapshot-age", name) for name in legs],
        **changes,
    }


def as_run(content: dict[str, object]) -> RunResult:
    return msgspec.convert(content, type=RunResult)


class Reader(HTMLParser):
    """Reads a page as a browser does: its elements, its text, and what its scripts and styles hold."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.inside = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "wbr":  # where a line may break: no element of its own, and no space
            return
        self.elements.append((tag, dict(attrs)))
        self.text += " "
        if tag in self.raw:
            self.inside = tag
            self.raw[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == self.inside:
            self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.raw[self.inside][-1] += data
        else:
            self.text += data

    @property
    def tags(self) -> list[str]:
        return [tag for tag, _ in self.elements]

    @property
    def island(self) -> dict[str, object]:
        return json.loads(self.raw["script"][0])

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    """The record of a run, in a directory of its own."""
    file = tmp_path / "run" / "run.json"
    file.parent.mkdir()
    file.write_text(json.dumps(record()))
    return file


# --------------------------------------------------------------------------- what the page shows


EVERYTHING = (
    "\N{HEAVY CHECK MARK} Green Every leg came out as it must.",
    "2 January 2030, 03:04:05 UTC. 3 legs measured, for 11.7 s in all.",
    "Replay it with python -m stress run snapshot-age --seconds 4.5 --seed 77",
    "length 4.50 s for each leg seed 77 cpu a fast one memory 8 GiB platform Linux-of-the-test worker 1",
    "worker 1 address: one, memory: 4 GiB saferocks 9.8.7 snapshot-age",
    "One snapshot held while the same rows are overwritten.",
    "why raw",
    "why guarded",
    "why scoped",
    LINE,
    "snapshot opened and collected while open",
    "fail +39 MiB 38 MiB to 40 MiB",
)


def test_the_page_shows_the_whole_run() -> None:
    """Status, verdicts, reasons, the line named, how often, replay, seed, versions and machine are all on it."""
    read = Reader(page(as_run(record())))
    for said in EVERYTHING:
        assert said in read.words
    assert read.words.index("Verdicts") < read.words.index("The run") < read.words.index("Over time")


def test_what_the_guard_said_is_said_once_with_its_count() -> None:
    """The same warning twice is one row that says 2, and one that stands for 500 counts as 500."""
    said = {"source": "warning", "opened_at": LINE, "text": "snapshot opened", "reports": 500}
    event = {"source": "event", "opened_at": LINE, "text": "saferocks.handle_leaked kind='snapshot'", "count": 9}
    for leaks, shown in (([said | {"reports": 1}] * 2, "2"), ([event, said], "500")):
        words = Reader(page(as_run(record(leg("snapshot-age", "guarded", leaks=leaks))))).words
        assert f"First in these words {LINE} warning {shown} snapshot opened" in words
    assert f"{LINE} saferocks.handle_leaked 1 saferocks.handle_leaked kind='snapshot'" in words


def test_a_flood_of_lines_is_cut_short_and_counted() -> None:
    """Thirty lines are shown, and how many more there are."""
    flood = [{"source": "warning", "opened_at": f"file.py:{number}", "text": "x"} for number in range(75)]
    words = Reader(page(as_run(record(leg("snapshot-age", "guarded", named=[], leaks=flood))))).words
    assert words.count("file.py:") == 30
    assert "And 45 more, in the record." in words


def test_curves_of_the_centre_come_first_against_age() -> None:
    """In snapshot-age the charts against the snapshot's age stand before those over time; elsewhere after them."""
    words = Reader(page(as_run(record()))).words
    assert words.index("Against the age of the oldest snapshot") < words.index("Over time")
    other = as_run(record(leg("iterator-leak", "raw"), scenarios=["iterator-leak"]))
    words = Reader(page(other)).words
    assert words.index("Over time") < words.index("Against the age of the oldest handle")


def test_every_signal_has_its_chart_over_time_and_against_age() -> None:
    """Native memory, files, latency and handles are drawn along both axes, in SVG and in the island alike."""
    read = Reader(page(as_run(record())))
    drawn = {attributes["data-chart"] for tag, attributes in read.elements if tag == "figure"}
    assert drawn == set(read.island["charts"])
    both = SIGNALS[:8]
    assert {f"snapshot-age/{axis}/{name}" for axis in ("time", "age") for name in both} <= drawn
    curves = read.island["charts"]["snapshot-age/time/heap"]["curves"]
    assert [curve["leg"] for curve in curves] == ["raw", "guarded", "scoped"]


def test_a_signal_that_was_0_throughout_is_named_and_not_drawn() -> None:
    """A chart of nothing is a sentence, unless its signal is one of the central ones."""
    quiet = [leg("snapshot-age", name, series=series(leaks=False)) for name in ("raw", "scoped")]
    read = Reader(page(as_run(record(*quiet))))
    charts = read.island["charts"]
    assert "snapshot-age/time/snapshots" not in charts
    assert "snapshot-age/time/open_handles" in charts
    assert "and so not drawn: age of the oldest handle, live iterators, snapshots" in read.words
    assert not [name for name in charts if "/age/" in name], "no leg held a handle, so there is no age"


def test_legs_of_other_names_and_signals_of_a_scenario_are_shown() -> None:
    """Whatever legs and signals are recorded are drawn, each leg in one colour on the whole page."""
    own = {**series(), "refused_reopenings": [2.0] * 40, "wait_seconds": [0.5] * 40}
    legs = (leg("db-reuse", "raw"), leg("snapshot-age", "expiring", expected="fail", series=own), leg("x", "expiring"))
    read = Reader(page(as_run(record(*legs))))
    assert "Refused reopenings" in read.words
    assert "Wait, ms" in read.words
    assert "pass must be fail" in read.words
    colours = {(curve["leg"], curve["colour"]) for chart in read.island["charts"].values() for curve in chart["curves"]}
    assert colours == {("raw", 0), ("expiring", 3)}


def test_a_leg_s_table_is_shown() -> None:
    """A reported table appears with its columns and every row."""
    table = {"columns": ["rows per batch", "latency"], "rows": [[1000, 1.25], ["endless", None]]}
    words = Reader(page(as_run(record(leg("batch-memory", "scoped", table=table))))).words
    assert "What the legs reported scoped rows per batch latency 1,000 1.25 endless" in words


def test_legs_that_did_not_run_are_in_the_table() -> None:
    """A planned leg without a result, be it a variant, has a row that says so."""
    content = record(leg("snapshot-age", "raw"), status="inconclusive", interrupted=True, reason="interrupted")
    words = Reader(page(as_run(content))).words
    assert words.count("not run") == 4
    assert all(f"{name} not run" in words for name in ("guarded", "scoped", "scans", "points"))
    chosen = record(leg("snapshot-age", "raw"), legs=["raw", "scans"], interrupted=True)
    assert Reader(page(as_run(chosen))).words.count("not run") == 1
    assert "The run was interrupted" in words


@pytest.mark.parametrize(
    "results",
    [
        [],
        [leg("snapshot-age", "raw", series={}, judgements=[], leaks=[])],
        [leg("snapshot-age", "raw", series={"time": [0.0], "heap": [5.0], "oldest_age": [0.0]})],
        [leg("snapshot-age", "raw", series={"time": [0.0, 1.0], "rss": [None, None]})],
        [leg("snapshot-age", "raw", series={"time": [None, None], "rss": [1.0, 2.0]})],
        [leg("no such scenario", "raw")],
        [leg("snapshot-age", "raw", verdict="odd", status="odd", named=[LINE])],
    ],
)
def test_runs_with_little_in_them_are_drawn(results: list[dict[str, object]]) -> None:
    """No results, no samples, one sample, only missing ones, unknown names: there is a page."""
    content = record() | {"results": results}
    assert Reader(page(as_run(content))).tags.count("h1") == 1


def test_a_run_of_nothing_says_so() -> None:
    """Without scenarios there is a sentence in place of the table."""
    content = record() | {"results": [], "scenarios": []}
    assert "planned nothing" in Reader(page(as_run(content))).words


def test_missing_samples_are_gaps() -> None:
    """A curve is cut where samples are missing: null in the island, two paths in the drawing."""
    found = series(leaks=True)
    found["rss"][10:20] = [None] * 10
    html = page(as_run(record(leg("snapshot-age", "raw", series=found))))
    for axis in ("time", "age"):
        assert Reader(html).island["charts"][f"snapshot-age/{axis}/rss"]["curves"][0]["y"].count(None) == 10
        figure = html.partition(f'data-chart="snapshot-age/{axis}/rss"')[2]
        assert re.search(r'class="curve" d="([^"]+)"', figure)[1].count("M") == 2


def test_a_falling_age_is_drawn_as_dots() -> None:
    """A handle that is replaced makes no line that runs back; a leg without a handle is one dot at 0."""
    found = series(leaks=True)
    found["oldest_age"] = [float(index % 10) for index in range(40)]
    results = (leg("snapshot-age", "raw", series=found), leg("snapshot-age", "scoped"))
    heap = charts_of([msgspec.convert(each, LegResult) for each in results], {"raw": 0, "scoped": 2}).over_age[0]
    assert [(curve.leg, curve.dots, len(curve.xs)) for curve in heap.curves] == [("raw", True, 10), ("scoped", True, 1)]


def test_the_budget_and_the_warm_up_are_drawn() -> None:
    """The heap's budget stands above where a healthy leg began, and a quarter of the samples is shaded."""
    chart = Reader(page(as_run(record()))).island["charts"]["snapshot-age/time/heap"]
    assert chart["budget"] == [5, "budget: +4\N{NO-BREAK SPACE}MiB"]
    assert chart["warm"] == pytest.approx(1.0)
    assert 'class="budget"' in page(as_run(record()))
    assert 'class="warm"' in page(as_run(record()))


def test_the_warm_up_ends_on_the_axis() -> None:
    """Where a signal is missing for most of a leg, nothing is shaded beyond what is drawn."""
    short = leg("snapshot-age", "raw", series={"time": [0.0, 1.0, 100.0], "heap": [1.0, 2.0]})
    chart = Reader(page(as_run(record(short)))).island["charts"]["snapshot-age/time/heap"]
    assert (chart["warm"], chart["x"]["end"]) == (pytest.approx(1.0), pytest.approx(1.0))


def test_every_drawing_is_well_formed_and_says_what_it_shows() -> None:
    """Each SVG parses as XML and has a title and a description, to which it points."""
    drawings = re.findall(r"<svg viewBox=\"0 0 440.*?</svg>", page(as_run(record())), re.DOTALL)
    assert len(drawings) == len(re.findall("<figure", page(as_run(record()))))
    seen = set()
    for text in drawings:
        drawing = ET.fromstring(text)  # noqa: S314 - a drawing of our own making
        title, description = drawing.find("title"), drawing.find("desc")
        assert title.text
        assert "raw: from" in description.text
        assert drawing.get("aria-labelledby").split() == [title.get("id"), description.get("id")]
        seen.add(title.get("id"))
    assert len(seen) == len(drawings)


# --------------------------------------------------------------------------- one file, and nothing gets out or in


def test_only_the_page_s_own_script_and_style_are_let_in() -> None:
    """The policy forbids all loading, and names the page's script and style by their hashes."""
    read = Reader(page(as_run(record())))
    policy = next(
        attributes["content"] for tag, attributes in read.elements if tag == "meta" and "http-equiv" in attributes
    )

    def source(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    assert policy == (
        f"default-src 'none'; script-src {source(read.raw['script'][1])}; style-src {source(read.raw['style'][0])}; "
        "base-uri 'none'; form-action 'none'"
    )
    assert len(read.raw["script"]) == 2
    assert len(read.raw["style"]) == 1


def test_the_page_refers_to_nothing_outside_itself() -> None:
    """No element loads anything; links lead to places on the page."""
    elements = Reader(page(as_run(record()))).elements
    referring = [
        (tag, name, value) for tag, given in elements for name, value in given.items() if name in ("src", "href")
    ]
    assert referring
    assert [each for each in referring if not (each[0] == "a" and each[2].startswith("#"))] == []
    assert not {"link", "img", "iframe", "object", "base", "form"} & {tag for tag, _ in elements}
    places = {attributes.get("id") for _, attributes in elements}
    assert {value[1:] for _, _, value in referring} <= places


def test_uplot_is_there_with_its_licence() -> None:
    """The page holds the chart library as it was published, its version and its licence."""
    html = page(as_run(record()))
    assets = ROOT / "stress" / "report" / "assets" / "uplot"
    library = (assets / "uPlot.iife.min.js").read_text()
    assert library in html
    version = re.search(r"\(v([\d.]+)\)", library)[1]
    comment = re.search(r"<!--(.*?)-->", html, re.DOTALL)[1]
    assert f"uPlot {version}," in comment
    assert (assets / "LICENSE").read_text().strip() in comment


HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(1)>",
    "<!--<script>",
    "-->",
    '" onmouseover="alert(1)',
    "'}}{{7*7}}",
    "\u2028\u2029&amp;&lt;",
)


def texts_everywhere(text: str) -> dict[str, object]:
    """Return a run that has this text wherever a run has any."""
    said = {"source": "warning", "opened_at": text, "text": text}
    judged = [{"signal": text, "verdict": text, "reason": text, "figure": 1.0, "low": 0.0, "high": 2.0, "budget": 1.0}]
    table = {"columns": [text], "rows": [[text]]}
    own = {**series(leaks=True), f"own {text}~": [1.0] * 40}
    given = {"reason": text, "named": [text], "judgements": judged, "leaks": [said], "table": table, "series": own}
    result = leg(text, text, verdict=text, status=text, expected=text, **given)
    return record(result, status=text, reason=text, started=text, command=text, scenarios=[text], legs=[text]) | {
        "versions": {text: text},
        "machine": {text: text},
    }


def check_harmless(text: str) -> None:
    """Check that a text changes nothing about a page but its words; with a head that makes it no name we know."""
    text = f"~{text}"
    read = Reader(page(as_run(texts_everywhere(text))))
    harmless = Reader(page(as_run(texts_everywhere("~"))))
    assert not set("<>&") & set(read.raw["script"][0])
    assert read.tags == harmless.tags
    assert [sorted(given) for _, given in read.elements] == [sorted(given) for _, given in harmless.elements]
    assert read.raw["script"][1] == harmless.raw["script"][1]
    assert read.island["charts"][f"{text}/time/heap"]["curves"][0]["leg"] == text


@pytest.mark.parametrize("text", HOSTILE)
def test_markup_in_a_run_is_text_on_its_page(text: str) -> None:
    """Names, paths and warnings with markup in them add no element and no attribute, and stay as they were."""
    check_harmless(text)
    command = next(
        given for tag, given in Reader(page(as_run(texts_everywhere(text)))).elements if given.get("id") == "replay"
    )
    assert sorted(command) == ["aria-labelledby", "id", "tabindex"]


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=30).filter(str.strip))
@example("_bytes")
def test_no_text_breaks_out_of_the_page(text: str) -> None:
    """Any text at all leaves the structure of the page as it is."""
    check_harmless(text)


def test_text_that_is_no_text_is_still_written(run_file: Path) -> None:
    """A path with bytes that are no UTF-8 does not keep the page from being written."""
    run_file.write_text(json.dumps(record(leg("snapshot-age", "raw", reason="/somewhere/\udce9"))))
    assert r"/<wbr>\udce9" in Path(write_report(str(run_file))).read_text(encoding="utf-8")


# --------------------------------------------------------------------------- size


def test_the_page_of_a_night_stays_small() -> None:
    """Twenty-four legs of 15 noisy signals over 4 hours make a page below 3 MB."""
    noise = random.Random(7)
    samples = 2880
    times = [index * 5 + noise.random() for index in range(samples)]
    rising = {name: [noise.random() * 1e9 for _ in range(samples)] for name in (*SIGNALS, "rounds")}
    own = {"time": times, **rising, "oldest_age": times}
    names = [f"scenario-{number}" for number in range(8)]
    legs = [leg(name, which, series=own) for name in names for which in ("raw", "guarded", "scoped")]
    html = page(as_run(record(*legs, scenarios=names)))
    assert len(html.encode()) < 3_000_000
    curves = [curve for chart in Reader(html).island["charts"].values() for curve in chart["curves"]]
    assert max(len(curve["y"]) for curve in curves) <= 240
    assert len(curves) > 24 * 20


sample_values = st.lists(st.none() | st.floats(-1e12, 1e12), min_size=1, max_size=400)


@given(sample_values, st.integers(FEWEST, 100))
def test_thinning_keeps_ends_extremes_and_gaps(values: list[float | None], most: int) -> None:
    """What is drawn of a series has its first and last sample, its lowest, its highest, and a gap if there was one."""
    kept = kept_indices(values, most)
    assert kept == sorted(set(kept))
    assert len(kept) <= max(most, FEWEST)
    assert (kept[0], kept[-1]) == (0, len(values) - 1)
    drawn = [values[index] for index in kept]
    there = [value for value in values if value is not None]
    if there:
        left = [value for value in drawn if value is not None]
        assert (min(left), max(left)) == (min(there), max(there))
    assert (None in drawn) == (None in values)
    if len(values) <= most:
        assert kept == list(range(len(values)))


@given(sample_values, st.integers(2 * FEWEST, 100))
def test_thinned_dots_keep_the_extremes_too(values: list[float | None], most: int) -> None:
    """A cloud of dots keeps its extremes and stays within its number."""
    kept = kept_dots(values, most)
    assert kept == sorted(set(kept))
    assert len(kept) <= most
    assert {*kept_indices(values, most if len(values) <= most else most // 2)} <= set(kept)


# --------------------------------------------------------------------------- axes and numbers


@given(st.floats(0, 1e15), st.floats(-1e15, 0), st.integers(3, 8), st.booleans())
def test_ticks_are_round_even_and_cover_the_data(high: float, low: float, most: int, whole: bool) -> None:
    """An axis holds 0 and all of the data, in even steps of 1, 2 or 5 times a power of ten, and not many of them."""
    found = ticks(high, most, low, whole=whole)
    step = found[1] - found[0]
    assert 0.0 in found
    hair = step * 1e-6
    assert found[0] <= low + hair
    assert found[-1] >= high - hair
    assert 2 <= len(found) <= most + 3
    assert [later - earlier for earlier, later in pairwise(found)] == pytest.approx([step] * (len(found) - 1))
    assert f"{step:.3e}".split("e")[0] in ("1.000", "2.000", "5.000")
    assert not whole or all(tick == int(tick) for tick in found)


@given(st.floats(0, 1e12))
def test_ticks_within_an_axis_do_not_pass_its_end(high: float) -> None:
    """The ticks of the x axis begin at 0 and stay on it."""
    found = ticks_within(high)
    assert found[0] == 0
    assert found[-1] <= high * (1 + 1e-6)


@given(st.floats(-1e14, 1e14))
def test_numbers_are_written_as_they_are(value: float) -> None:
    """What is written of a number is within a hundredth of it, and a minus stands before nothing but a number."""
    shown = number(value)
    assert float(shown.replace(",", "").replace("\N{MINUS SIGN}", "-")) == pytest.approx(value, rel=0.051, abs=1e-300)
    assert "-" not in shown.partition("e")[0]


@pytest.mark.parametrize(
    ("kind", "value", "shown"),
    [
        ("bytes", 0, "0 B"),
        ("bytes", 1536, "1.50 KiB"),
        ("bytes", 40 * MIB, "40 MiB"),
        ("bytes", -40.25 * MIB, "\N{MINUS SIGN}40.2 MiB"),
        ("bytes", 3.5 * 2**30, "3.50 GiB"),
        ("latency", 0.000123, "123 \N{MICRO SIGN}s"),
        ("latency", 0.0123, "12.3 ms"),
        ("time", 90.0, "90 s"),
        ("time", 14400.0, "4 h"),
        ("count", 23456, "23,456"),
        ("count", 123456, "123 thousand"),
        ("bytes", math.nan, "not known B"),
    ],
)
def test_quantities_have_the_unit_that_reads_best(kind: str, value: float, shown: str) -> None:
    """Bytes in binary units, latencies in small ones, times in long ones."""
    assert quantity(kind, value).replace("\N{NO-BREAK SPACE}", " ") == shown


def test_tick_labels_are_short() -> None:
    """A tick is written without digits that it does not need."""
    assert [tick_label(tick) for tick in (0.0, 0.5, -0.0, 2500.0, -20.0)] == [
        "0",
        "0.5",
        "0",
        "2,500",
        "\N{MINUS SIGN}20",
    ]


wild = st.none() | st.floats(allow_nan=True, allow_infinity=True) | st.integers(-(2**63), 2**63)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(["time", *SIGNALS]), st.lists(wild, max_size=30), max_size=6))
def test_no_samples_however_wild_keep_the_page_from_being_drawn(tmp_path_factory, wild_series) -> None:
    """Samples of any size, any number of them, in any order: the page is there, and has no NaN in its drawings."""
    file = tmp_path_factory.mktemp("wild") / "run.json"
    file.write_text(json.dumps(record(leg("snapshot-age", "raw", series=wild_series))))
    html = page(read_run(str(file)))
    assert not re.search(r"[\"\s](nan|-?inf)[\"\s]", html.partition("<main>")[2].partition("</main>")[0])
    json.dumps(Reader(html).island, allow_nan=False)


# --------------------------------------------------------------------------- the command


def test_the_command_writes_the_page_and_says_where(run_file: Path, capsys) -> None:
    """`report RUN.json` puts report.html beside it; `--output` puts it elsewhere; both exit with 0."""
    assert cli.main(["report", str(run_file)]) == 0
    beside = run_file.parent / "report.html"
    assert capsys.readouterr().out == f"{beside}\n"
    assert beside.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    elsewhere = run_file.parent.parent / "page.html"
    assert cli.main(["report", str(run_file), "--output", str(elsewhere)]) == 0
    assert elsewhere.read_bytes() == beside.read_bytes()
    assert sorted(file.name for file in run_file.parent.iterdir()) == ["report.html", "run.json"]


def test_a_link_stays_a_link(run_file: Path) -> None:
    """A page that is a link to elsewhere is written there."""
    target = run_file.parent / "real.html"
    target.write_text("old")
    (run_file.parent / "report.html").symlink_to(target)
    write_report(str(run_file))
    assert (run_file.parent / "report.html").is_symlink()
    assert target.read_text(encoding="utf-8") != "old"


BAD_FILES = {
    "missing": (None, "run.json"),
    "empty": ("", "give a run.json"),
    "cut off": (json.dumps(record())[:300], "cut off"),
    "not JSON": ("hello", "not JSON"),
    "a list": ("[]", "not the record of a run"),
    "no run": ('{"a": 1}', "not the record of a run"),
    "no version": (json.dumps({key: value for key, value in record().items() if key != "format"}), "format"),
    "another version": (json.dumps(record(format=2)), "format 2"),
    "results of another type": (json.dumps(record() | {"results": 3}), "$.results"),
    "samples of another type": (json.dumps(record(leg("x", "raw", series={"heap": ["1"]}))), "$.results[0].series"),
    "nested without end": ("[" * 100_000, "give a run.json"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_a_bad_record_is_refused_in_one_line(kind: str, run_file: Path, capsys) -> None:
    """What is no run exits with 2 and a line that names the file and the fault; an older page stays as it is."""
    content, said = BAD_FILES[kind]
    older = run_file.parent / "report.html"
    older.write_text("older")
    if content is None:
        run_file.unlink()
    else:
        run_file.write_text(content)
    assert cli.main(["report", str(run_file)]) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert said in shown.err
    assert repr(str(run_file)) in shown.err
    assert older.read_text() == "older"


def test_a_directory_is_no_record(run_file: Path, capsys) -> None:
    """A directory in place of run.json exits with 2 in one line."""
    assert cli.main(["report", str(run_file.parent)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "where", ["no/such/directory/page.html", ".", "run.json", "run.json/page.html", "", "/dev/null"]
)
def test_an_output_that_cannot_be_written_is_refused(where: str, run_file: Path, capsys, monkeypatch) -> None:
    """A directory, a device, the record itself or a place that is not there: exit 2, one line, nothing changed."""
    monkeypatch.chdir(run_file.parent)
    before = run_file.read_bytes()
    assert cli.main(["report", "run.json", "--output", where]) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert f"cannot write {where!r}" in shown
    assert "--output" in shown
    assert [file.name for file in run_file.parent.iterdir()] == ["run.json"]
    assert run_file.read_bytes() == before
    assert Path("/dev/null").is_char_device()


OUT_OF_ROOM = """
import resource, sys
from stress import cli
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
sys.exit(cli.main(["report", sys.argv[1]]))
"""


def test_an_older_page_outlives_a_full_disk(run_file: Path) -> None:
    """A page that can only be half written is not written at all, and leaves nothing behind."""
    older = run_file.parent / "report.html"
    older.write_text("older")
    command = [sys.executable, "-c", OUT_OF_ROOM, str(run_file)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "cannot write" in done.stderr
    assert older.read_text() == "older"
    assert sorted(file.name for file in run_file.parent.iterdir()) == ["report.html", "run.json"]


def test_every_run_ends_with_its_page(tmp_path: Path, monkeypatch, capsys) -> None:
    """A run that was interrupted has its page, too, beside its record, and says where."""

    def interrupted(record, *_, **__) -> None:
        record.interrupted = True
        record.save()
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "carry_out", interrupted)
    assert cli.main(["quick", "--output", str(tmp_path)]) == 3
    (written,) = tmp_path.glob("*/report.html")
    assert f"report: {written}" in capsys.readouterr().out
    assert "The run was interrupted" in written.read_text(encoding="utf-8")


def test_a_page_that_cannot_be_written_changes_nothing_about_the_run(tmp_path: Path, monkeypatch, capsys) -> None:
    """A run's status is that of its legs, whatever becomes of its page."""

    def in_the_way(record, *_, **__) -> None:
        Path(record.directory, "report.html").mkdir()

    monkeypatch.setattr(session, "carry_out", in_the_way)
    assert cli.main(["quick", "--output", str(tmp_path)]) == 3
    assert "no report: " in capsys.readouterr().out
