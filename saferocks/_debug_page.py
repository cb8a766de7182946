"""The debug page as HTML: complete without JavaScript, which only fetches it anew and draws curves."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from datetime import datetime, timezone
from html import escape
from importlib.resources import files
from typing import TYPE_CHECKING

import saferocks
from saferocks import _settings
from saferocks._debug_figures import LASTING
from saferocks._groups import LABEL_WIDTH
from saferocks._terminal import size
from saferocks._text import clipped, printable, printable_path, several
from saferocks.errors import in_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from saferocks._debug_figures import Database, Figures
    from saferocks._groups import Group

_ASSETS = files("saferocks") / "_assets"
_STYLE = (_ASSETS / "debug.css").read_text(encoding="utf-8")
_SCRIPT = (_ASSETS / "debug.js").read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}'"


#: What the page may do: its own style and script, and asking its own server; nothing else.
POLICY = (
    f"default-src 'none'; style-src {_hash(_STYLE)}; script-src {_hash(_SCRIPT)}; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

#: Characters of paths and lines that the tables show, and of anything that a pointer brings up.
_PATH_WIDTH, _TITLE_WIDTH = 240, 1000

# Each has its colour, which stays when others come and go.
_KINDS = ("iterator", "snapshot", "write_batch", "checkpoint", "sst_writer", "column_family", "database")
_KEPT = ("memtables", "block cache", "SST files")

_CHARTS = (
    ("counts", "", "Open handles", "by kind"),
    ("ages", "s", "Age of the oldest", "by kind; databases and column families left out"),
    ("kept", "B", "Kept by open handles", "flushed memtables, pinned blocks, SST files that nobody else needs"),
)


def render(figures: Figures) -> str:
    """Return the page."""
    charts = "".join(_chart(*chart) for chart in _CHARTS)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<link rel="icon" href="data:,">\n'
        '<noscript><meta http-equiv="refresh" content="5"></noscript>\n'
        f"<title>saferocks: {figures.total} open</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>saferocks {escape(saferocks.__version__)}, process {os.getpid()}</h1>\n"
        '<p id="status" class="faint">as of the time below</p></header>\n'
        f'<div id="charts" class="charts" hidden>{charts}</div>\n'
        f"{_live(figures)}\n"
        '<p class="faint">The handles as <a href="?format=text">text</a>; '
        'all of it as <a href="?format=json">JSON</a>.</p>\n'
        f"<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def _chart(name: str, unit: str, title: str, what: str) -> str:
    return (
        f'<figure data-chart="{name}" data-unit="{unit}"><figcaption>{title}</figcaption>'
        f'<div class="faint">{what}</div>'
        f'<svg viewBox="0 0 600 100" preserveAspectRatio="none" role="img" aria-label="{title}"></svg>'
        '<div class="legend"></div><div class="top faint"></div></figure>'
    )


def _live(figures: Figures) -> str:
    """Return the part that is fetched anew, with the figures for the curves."""
    when = datetime.fromtimestamp(figures.time, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    heap = "" if figures.heap is None else f", {size(figures.heap)} given out by the allocator"
    return (
        f'<main id="live" data-figures="{escape(json.dumps(_curves(figures)))}">\n'
        f"<p><strong>{figures.total}</strong> open handle{'' if figures.total == 1 else 's'} at "
        f"<time>{when}</time>; {size(figures.rss)} resident{heap}</p>\n"
        f"{_groups(figures)}{_databases(figures.databases)}</main>"
    )


def _curves(figures: Figures) -> dict[str, object]:
    """Return what the curves show: only numbers, and names that are our own."""
    memory = [database.memory for database in figures.databases if database.memory is not None]
    kept = (
        sum(each.pinned_memtables for each in memory),
        sum(each.block_cache_pinned for each in memory),
        sum(database.kept_files or 0 for database in figures.databases),
    )
    return {
        "process": os.getpid(),
        "time": round(figures.time, 3),
        "counts": {kind: count for kind, (count, _) in figures.kinds.items()},
        "ages": {kind: round(oldest, 3) for kind, (_, oldest) in figures.kinds.items() if kind not in LASTING},
        "kept": dict(zip(_KEPT, kept, strict=True)),
        "colours": {name: at for names in (_KINDS, _KEPT) for at, name in enumerate(names)},
    }


def _table(headers: Sequence[tuple[str, str]], rows: Iterable[str]) -> str:
    head = "".join(f'<th scope="col" class="{kind}">{title}</th>' for title, kind in headers)
    return f'<div class="box"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>\n'


def _groups(figures: Figures) -> str:
    headers = (("count", "number"), ("oldest", "number"), ("kind", ""), ("opened at", ""), ("database", ""))
    if not figures.groups:
        return "<h2>Handles</h2><p>Nothing is open.</p>\n"
    table = _table(headers, map(_group, figures.groups))
    left = f"{several(figures.left_out, 'more line is', 'more lines are')} left out"
    more = f"<p>{left}; the text has them all.</p>\n" if figures.left_out else ""
    hint = (
        '<p class="faint">Each with the line that opened it; '
        '<code>saferocks.configure(trace="stack")</code> keeps the way there as well.</p>\n'
        if _settings.current.trace == "site"
        else ""
    )
    return f"<h2>Handles, by the line that opened them</h2>\n{table}{more}{hint}"


def _group(group: Group) -> str:
    labels = "".join(
        f' <span class="faint"{_title(label, LABEL_WIDTH)}>[{_brief(label, LABEL_WIDTH)}]</span>'
        for label in group.labels
    )
    return (
        f'<tr><td class="number">{group.count}</td><td class="number">{in_words(group.oldest)}</td>'
        f'<td class="kind">{_safe(group.kind)}{labels}</td>'
        f'<td class="place">{_place(group)}</td>{_path(group.database or "")}</tr>'
    )


def _place(group: Group) -> str:
    first, *others = group.stack
    if not others:
        return _line(first)
    key = hashlib.sha256("\n".join((group.kind, group.database or "", *group.stack)).encode("utf-8", "replace"))
    lines = "".join(f"<li>{_line(line)}</li>" for line in others)
    return f'<details data-key="{key.hexdigest()[:16]}"><summary>{_line(first)}</summary><ol>{lines}</ol></details>'


def _line(line: str) -> str:
    return f"<code{_title(line, _PATH_WIDTH, printable_path)}>{_brief(line, _PATH_WIDTH, printable_path)}</code>"


def _path(path: str) -> str:
    shown = _brief(path, _PATH_WIDTH, printable_path)
    return f'<td class="mono"{_title(path, _PATH_WIDTH, printable_path)}>{shown}</td>'


def _databases(databases: Sequence[Database]) -> str:
    if not databases:
        return ""
    titles = ("handles", "memtables", "kept memtables", "pinned blocks", "SST needed", "SST kept")
    headers = (("database", ""), *((title, "number") for title in titles))
    return f"<h2>Databases</h2>\n{_table(headers, map(_database, databases))}"


def _database(database: Database) -> str:
    memory = database.memory
    found: tuple[int | None, ...] = (None,) * 5
    if memory is not None:
        found = (memory.memtables, memory.pinned_memtables, memory.block_cache_pinned, memory.sst_live)
        found = (*found, database.kept_files)
    cells = "".join(f'<td class="number">{size(each)}</td>' for each in found)
    return f'<tr>{_path(database.path)}<td class="number">{database.handles}</td>{cells}</tr>'


def _brief(text: str, most: int, write: Callable[[str], str] = printable) -> str:
    """Return so many characters of a text, which may have millions; JSON has them all."""
    return escape(write(clipped(text, most)))


def _title(text: str, most: int, write: Callable[[str], str] = printable) -> str:
    """Return what shows more of a text to whoever points at it, if there is more."""
    return f' title="{_brief(text, _TITLE_WIDTH, write)}"' if len(text) > most else ""


def _safe(text: str) -> str:
    """Return text that may hold anything, as HTML that shows it."""
    return escape(printable(text))
