"""What can be told of a database's health from its directory alone, without opening it.

Each check is a function that yields findings; none of them raises for what it finds.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from saferocks import _directory, _manifest
from saferocks._lock_holder import lock_holder
from saferocks._options_file import read_options_file
from saferocks._shadow_files import FILES_ELSEWHERE
from saferocks._text import printable, several
from saferocks.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from saferocks._manifest import Manifest


@dataclass(frozen=True)
class Finding:
    """One result of a check.

    Attributes:
        level: `ok`, `note` (worth knowing) or `problem` (something is to be done).
        text: What was found, printable.
        remedy: What to do, if anything.
    """

    level: str
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class Patient:
    """A database directory as it was found.

    Attributes:
        path: The directory.
        names: The names in it.
        manifest: What its MANIFEST says, or None if that cannot be read.
        is_open: Whether a process has it open for writing, or may have.
        elsewhere: Directories with more of its files.
    """

    path: str
    names: frozenset[str]
    manifest: Manifest | None
    is_open: bool
    elsewhere: tuple[str, ...] = ()

    @property
    def places(self) -> tuple[str, ...]:
        """All directories that may hold files of it."""
        return (self.path, *self.elsewhere)


_ACCESS = "change its owner or mode"
_BACKUP = "restore it from a backup, or try saferocks.Rdict.repair on a copy"


def findings(path: str, elsewhere: Sequence[str] = ()) -> Iterator[Finding]:
    """Run all checks; `elsewhere` are directories with more of its files."""
    locked = list(_lock(path))
    manifest, damage = _read_manifest(path)
    is_open = any(finding.text.startswith("open for writing") for finding in locked)
    patient = Patient(path, frozenset(os.listdir(path)), manifest, is_open, tuple(elsewhere))
    yield from _mode(path)
    yield from locked
    yield from damage
    yield from _missing(patient)
    yield from _left_over(patient)
    yield from _background_errors(patient)
    yield from _free_disk(path)


def _mode(path: str) -> Iterator[Finding]:
    """Compare the comparator in the MANIFEST with what rocksdict's configuration says."""
    try:
        raw = _directory.look(path).raw_mode
    except EngineError as error:
        yield Finding("problem", printable(str(error)))
        return
    kind = "raw bytes, comparator leveldb.BytewiseComparator" if raw else "typed, comparator rocksdict"
    yield Finding("ok", f"keys and values are {kind}: open it with raw_mode={raw}")
    config = os.path.join(path, _directory.CONFIG_NAME)
    try:
        with open(config, encoding="utf-8") as file:
            says = json.load(file).get("raw_mode")
    except FileNotFoundError:  # rocksdict then takes the keys for raw
        text, remedy = f"there is no {_directory.CONFIG_NAME}", "the next opening for writing makes one"
        yield Finding("note", text, remedy) if raw else Finding("problem", text, _config(raw))
    except PermissionError as error:
        text = f"{_directory.CONFIG_NAME} cannot be read: {printable(str(error))}"
        yield Finding("problem", text, _ACCESS)
    except (OSError, ValueError, AttributeError) as error:
        yield Finding("problem", f"{_directory.CONFIG_NAME} cannot be read: {printable(str(error))}", _config(raw))
    else:
        if says is not raw:
            yield Finding("problem", f"{_directory.CONFIG_NAME} says raw_mode={says!r}", _config(raw))


def _config(raw: bool | None) -> str:
    content = json.dumps({"raw_mode": raw, "prefix_extractors": {}})
    return f"write {content} into it"


def _lock(path: str) -> Iterator[Finding]:
    try:
        holder = lock_holder(path)
    except OSError as error:
        yield Finding("note", f"who holds LOCK cannot be told here: {printable(str(error))}")
        return
    if holder is None:
        yield Finding("ok", "no process has it open for writing")
        return
    who = f"process {holder.pid}: {printable(holder.command)}" if holder.pid else "a process of another container"
    yield Finding("ok", f"open for writing in {who}", "end that process before you open it for writing")


def _read_manifest(path: str) -> tuple[Manifest | None, list[Finding]]:
    try:
        return _manifest.read_manifest(path), []
    except (OSError, EngineError) as error:
        is_denied = isinstance(error, PermissionError)
        remedy = _BACKUP if isinstance(error, EngineError) else _ACCESS if is_denied else ""
        return None, [Finding("problem", f"the MANIFEST cannot be read: {printable(str(error))}", remedy)]


def _missing(patient: Patient) -> Iterator[Finding]:
    """Name every SST and blob file that is missing or of another size than the MANIFEST says."""
    if patient.manifest is None:
        return
    found = [
        (file.number, f"{file.name} of column family {printable(file.family)} {text}")
        for file in patient.manifest.files
        if (text := _wrong(patient, file)) is not None
    ]
    for number in sorted(patient.manifest.blobs):
        if not any(os.path.lexists(os.path.join(each, f"{number:06d}.blob")) for each in patient.places):
            found.append((number, f"blob file {number:06d}.blob is missing"))
    if found:
        # A writer deletes only what is in its MANIFEST no more: what still is in there is missing for good.
        now, _ = _read_manifest(patient.path)
        needed = None if now is None else {file.number for file in now.files} | now.blobs
        found = [(number, text) for number, text in found if needed is None or number in needed]
    for _, text in found:
        remedy = f"{_BACKUP}; {FILES_ELSEWHERE}" if text.endswith("missing") else _BACKUP
        yield Finding("problem", text, remedy)
    if not found:
        count = len(patient.manifest.files) + len(patient.manifest.blobs)
        files = "its one file is" if count == 1 else f"all {count} files that it consists of are"
        yield Finding("ok", f"{files} there, in full" if count else "it has no SST file yet, and none is missing")


def wrong_files(path: str) -> list[Finding]:
    """Name every SST and blob file that is missing or of a wrong size, of a database that nobody writes."""
    manifest, damage = _read_manifest(path)
    patient = Patient(path, frozenset(os.listdir(path)), manifest, is_open=False)
    return [*damage, *(finding for finding in _missing(patient) if finding.level == "problem")]


def _wrong(patient: Patient, file: _manifest.LiveFile) -> str | None:
    for folder, suffix in itertools.product(patient.places, (".sst", ".ldb")):
        try:
            found = os.stat(os.path.join(folder, f"{file.number:06d}{suffix}")).st_size
        except FileNotFoundError:
            continue
        return None if found == file.size else f"has {several(found, 'byte')} instead of {file.size}"
    return "is missing"


_KNOWN = re.compile(
    r"(CURRENT|IDENTITY|LOCK|LOG|LOG\.old\.\d+|\d+\.log|(MANIFEST|OPTIONS)-\d+|archive|lost|rocksdict-config\.json)$"
)
_NUMBERED = re.compile(r"(\d+)\.(sst|ldb|blob)$")
_FOOTERS = (0x88E241B785F4CFF7, 0xDB4775248B80FB57, 0x8242229663BF9564, 0x4F3418EB7A8F13B8, 0x926789D0C5F17873)


def _left_over(patient: Patient) -> Iterator[Finding]:
    """Tell what is in the directory and not part of the database."""
    if patient.manifest is None:
        return
    live = {file.number for file in patient.manifest.files} | patient.manifest.blobs
    for name in sorted(patient.names):
        if _KNOWN.match(name):
            continue
        numbered = _NUMBERED.match(name)
        if numbered is None:
            yield _foreign(patient, name)
        elif int(numbered[1]) not in live and not patient.is_open:
            text = f"{name} is not part of the present state"
            yield Finding("note", text, "the next opening for writing removes it")


def _foreign(patient: Patient, name: str) -> Finding:
    """Say what a file is that RocksDB did not make here."""
    where, shown = os.path.join(patient.path, name), printable(name)
    if name.endswith((".dbtmp", ".saferocks")):
        return Finding("note", f"{shown} is left from an opening that was cut short", "delete it once nobody writes")
    if not (name.endswith(".sst") and os.path.isfile(where)):
        return Finding("note", f"{shown} is no file of RocksDB", "move it elsewhere if it is yours")
    if _is_finished(where):
        return Finding("note", f"{shown} is a finished SST file that was never ingested", "ingest it, or delete it")
    return Finding(
        "problem", f"{shown} is an SST file that its writer did not finish", "delete it once no writer is at work on it"
    )


def _is_finished(path: str) -> bool:
    """Tell whether a file ends as an SST file does: with one of the magic numbers of its formats."""
    try:
        with open(path, "rb") as file:
            file.seek(-8, os.SEEK_END)
            return int.from_bytes(file.read(8), "little") in _FOOTERS
    except OSError:  # shorter than that, or not to be read
        return False


_TAIL = 1 << 20
_ERROR = re.compile(r"^(\S+) \S+ (?:\[\w+\] )*\[?(?:ERROR|FATAL)\]? (.*)$", re.MULTILINE)
_SHOWN = 3


def _background_errors(patient: Patient) -> Iterator[Finding]:
    """Tell which errors RocksDB has written into its info log since the last opening for writing."""
    log = _info_log(patient.path)
    if log is None:
        yield Finding("note", "there is no info log: nothing says whether background work has failed")
        return
    try:
        with open(log, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            found = _ERROR.findall(file.read().decode("utf-8", "replace"))
    except OSError as error:
        yield Finding("note", f"the info log cannot be read: {printable(str(error))}")
        return
    if not found:
        yield Finding("ok", "no errors in the info log")
    for when, text in found[-_SHOWN:]:
        remedy = "make room on the disk, then open it anew" if "No space" in text else "see the info log"
        yield Finding("problem", f"{when} {printable(text)}", remedy)
    if len(found) > _SHOWN:
        earlier = len(found) - _SHOWN
        are = "is" if earlier == 1 else "are"
        yield Finding("note", f"{several(earlier, 'earlier error')} {are} in {printable(log)}")


#: The bytes of a path for which RocksDB puts another in the name of its log.
_OTHERS = re.compile(rb"[^A-Za-z0-9._-]")


def _info_log(path: str) -> str | None:
    """Return the info log, which may be in a directory for logs of several databases."""
    try:
        elsewhere = read_options_file(path).get(("DBOptions", ""), {}).get("db_log_dir", "")
    except OSError:
        elsewhere = ""
    inside = os.path.join(path, "LOG")
    outside = (
        os.path.join(elsewhere, f"{_OTHERS.sub(b'_', os.fsencode(path[1:])).decode()}_LOG") if elsewhere else inside
    )
    return next((each for each in (outside, inside) if os.path.isfile(each)), None)


_SMALL_SHARE, _SMALL_ROOM = 0.05, 1 << 30


def _free_disk(path: str) -> Iterator[Finding]:
    usage = shutil.disk_usage(path)
    yield room(usage.free, usage.total, _directory_bytes(path))


def room(free: int, total: int, own: int) -> Finding:
    """Compare the room that is left on a disk with what a compaction of everything may need, all in bytes."""
    shown = f"{_gib(free)} of {_gib(total)} free on its disk"
    if free < max(own, min(_SMALL_ROOM, _SMALL_SHARE * total)):
        return Finding("problem", f"{shown}, and the database has {_gib(own)}", "make room: compactions need as much")
    return Finding("note" if free < _SMALL_SHARE * total else "ok", shown)


def _directory_bytes(path: str) -> int:
    total = 0
    for entry in os.scandir(path):
        with suppress(FileNotFoundError):  # a writer may just have removed it
            total += entry.stat(follow_symlinks=False).st_size
    return total


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"
