"""`saferocks inspect`: what is in a database, and with what options it was last written."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING

from saferocks import _terminal
from saferocks._lock_holder import lock_holder
from saferocks._manifest import read_manifest
from saferocks._options_file import read_options_file
from saferocks._shadow import open_unchanged
from saferocks._terminal import size
from saferocks._text import printable, several

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from saferocks._database import Rdict
    from saferocks._options_file import Sections

#: The options that explain most of what a database does.
_SHOWN = frozenset(
    {
        *("comparator", "compression", "compaction_style", "write_buffer_size", "max_write_buffer_number"),
        *("target_file_size_base", "num_levels", "prefix_extractor", "merge_operator", "enable_blob_files", "ttl"),
        *("table_factory", "disable_auto_compactions", "max_open_files", "max_background_jobs", "wal_dir"),
        *("db_log_dir", "wal_recovery_mode", "max_total_wal_size", "WAL_ttl_seconds", "block_size", "filter_policy"),
        *("cache_index_and_filter_blocks", "index_type", "rocksdb_version"),
    }
)
_FIGURES = (
    ("entries~", "estimate-num-keys", str),
    ("SST files", "live-sst-files-size", size),
    ("blobs", "total-blob-file-size", size),
    ("memtables", "size-all-mem-tables", size),
    ("readers", "estimate-table-readers-mem", size),
    ("to compact", "estimate-pending-compaction-bytes", size),
)


def run(options: argparse.Namespace) -> int:
    """Write what there is to know."""
    with open_unchanged(options.path, elsewhere=options.db_path) as reading:
        _summary(options.path, reading.families)
        _families(reading.families)
        _levels(reading.families)
        _properties(reading.families)
    _options(read_options_file(options.path), everything=options.options)
    return 0


def _summary(path: str, families: Mapping[str, Rdict]) -> None:
    db = families["default"]
    sizes = []
    for entry in os.scandir(path):
        with suppress(FileNotFoundError):  # a writer may just have removed it
            if entry.is_file(follow_symlinks=False):
                sizes.append(entry.stat(follow_symlinks=False).st_size)
    _terminal.heading(printable(path))
    _terminal.say(f"  keys and values  {'raw bytes' if db._raw else 'typed (raw_mode=False)'}")
    _terminal.say(f"  sequence number  {db.latest_sequence_number()}")
    _terminal.say(f"  on disk          {size(sum(sizes))} in {several(len(sizes), 'file')}")
    _terminal.say(f"  free there       {size(shutil.disk_usage(path).free)}")
    _terminal.say(f"  open for writing {open_in(path)}")


def open_in(path: str) -> str:
    """Say in which process a database is open for writing."""
    try:
        holder = lock_holder(path)
    except OSError as error:
        return f"not known: {error.strerror}"
    if holder is None:
        return "nowhere"
    if holder.pid is None:
        return "in a process of another container"
    return f"in process {holder.pid} ({printable(holder.command)[:60] or 'no command line'})"


def _families(families: Mapping[str, Rdict]) -> None:
    """Show what each holds on disk and, as it is open here, in memory."""
    _terminal.say()
    _terminal.heading("Column families")
    rows = [
        (printable(name), *(write(_number(family, key) or 0) for _, key, write in _FIGURES))
        for name, family in families.items()
    ]
    _terminal.table(("name", *(title for title, _, _ in _FIGURES)), rows)


def _number(family: Rdict, name: str) -> int | None:
    return family.property_int_value(f"rocksdb.{name}")


def _levels(families: Mapping[str, Rdict]) -> None:
    _terminal.say()
    _terminal.heading("Levels")
    found: dict[tuple[str, int], list[int]] = {}
    for file in read_manifest(families["default"].path()).files:
        found.setdefault((file.family, file.level), []).append(file.size)
    rows = [
        (printable(name), str(level), str(len(sizes)), size(sum(sizes)))
        for (name, level), sizes in sorted(found.items())
    ]
    _terminal.table(("column family", "level", "files", "size"), rows)
    files = families["default"].live_files()
    entries, deletions = (sum(file[name] for file in files) for name in ("num_entries", "num_deletions"))
    counted = f"{several(len(files), 'SST file')} with {several(entries, 'entry', 'entries')}"
    _terminal.say(f"  {counted}, {several(deletions, 'of them a deletion', 'of them deletions')}")


_PROPERTIES = (
    ("num-live-versions", str),
    ("num-snapshots", str),
    ("num-running-compactions", str),
    ("background-errors", str),
    ("block-cache-capacity", size),
    ("current-super-version-number", str),
    ("min-log-number-to-keep", str),
    ("live-blob-file-size", size),
)


def _properties(families: Mapping[str, Rdict]) -> None:
    _terminal.say()
    _terminal.heading("Properties, of this reading")
    found = ((name, _number(families["default"], name), write) for name, write in _PROPERTIES)
    _terminal.table(
        ("property", "value"), [(name, "-" if value is None else write(value)) for name, value, write in found]
    )


def _options(sections: Sections, *, everything: bool) -> None:
    _terminal.say()
    _terminal.heading("Options in force" if everything else "Options in force (--options for all of them)")
    rows = [
        (_of(kind, family), name, printable(value))
        for (kind, family), values in sections.items()
        for name, value in sorted(values.items())
        if everything or (name in _SHOWN and value not in ("", "nullptr"))
    ]
    _terminal.table(("of", "option", "value"), rows)
    if not rows:
        _terminal.say("  there is no OPTIONS file: nothing says so")


def _of(kind: str, family: str) -> str:
    """Say whose options a section of the file holds."""
    if kind == "Version":
        return "written by"
    return printable(family) if family else "database"
