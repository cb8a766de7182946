"""The sessions of a web shop, kept in RocksDB: `before.py`, moved to saferocks.

Four column families: `sessions` (id to JSON), `expiry` (an index: due time and id), `visits` (user
and time to page) and `default`, which has counters.

    python after.py DIR
"""

from __future__ import annotations

import json
import os
import struct
import sys
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

import saferocks

if TYPE_CHECKING:
    from collections.abc import Iterator

FAMILIES = ("sessions", "expiry", "visits")
TIME_TO_LIVE = 1800
SWEEP_BATCH = 100

Session = dict[str, Any]


def raw_options() -> saferocks.Options:
    """Return options for raw keys and values."""
    options = saferocks.Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    return options


@contextmanager
def open_store(path: str, lock_seconds: float = 5.0) -> Iterator[SessionStore]:
    """Open the database, waiting for another process that has it open, and close it at the end of the block."""
    families = {name: raw_options() for name in FAMILIES}
    with saferocks.open(
        path, options=raw_options(), column_families=families, lock_timeout=lock_seconds, policy="raise"
    ) as db:
        yield SessionStore(db)


def due_key(due: int, session_id: bytes) -> bytes:
    """Return the key of the index: the time first, so that rows sort by it."""
    return struct.pack(">Q", due) + session_id


def parse_due(key: Any) -> tuple[int, bytes]:
    """Return the time and the session of an entry in the index."""
    return struct.unpack(">Q", key[:8])[0], key[8:]


def visit_key(user: bytes, at: int) -> bytes:
    """Return the key of a visit: all of a user's are together, oldest first."""
    return user + b"\0" + struct.pack(">Q", at)


def parse_visit(key: Any) -> tuple[bytes, int]:
    """Return the user and the time of a visit."""
    return key[:-9], struct.unpack(">Q", key[-8:])[0]


class SessionStore:
    """Who is logged in, until when, and what they have looked at."""

    def __init__(self, db: saferocks.Rdict) -> None:
        self.db = db
        self.sessions = self.db.get_column_family("sessions")
        self.expiry = self.db.get_column_family("expiry")
        self.visits = self.db.get_column_family("visits")
        self.session_handle = self.db.get_column_family_handle("sessions")
        self.expiry_handle = self.db.get_column_family_handle("expiry")

    # ---- writing

    def log_in(self, session_id: bytes, user: bytes, now: int) -> None:
        """Write a session and its entry in the index, both or neither."""
        session: Session = {"user": user.decode(), "since": now, "due": now + TIME_TO_LIVE}
        with self.db.write_batch() as batch:
            batch.put(session_id, json.dumps(session).encode(), self.session_handle)
            batch.put(due_key(session["due"], session_id), b"", self.expiry_handle)
            batch.put(b"logins", self.next_count(b"logins"))

    def touch(self, session_id: bytes, now: int) -> bool:
        """Prolong a session; tells whether there was one."""
        session = self.session(session_id)
        if session is None:
            return False
        with self.db.write_batch() as batch:
            batch.delete(due_key(session["due"], session_id), self.expiry_handle)
            session["due"] = now + TIME_TO_LIVE
            batch.put(session_id, json.dumps(session).encode(), self.session_handle)
            batch.put(due_key(session["due"], session_id), b"", self.expiry_handle)
        return True

    def log_out(self, session_id: bytes) -> None:
        """Delete a session, if it is there."""
        session = self.session(session_id)
        if session is None:
            return
        with self.db.write_batch() as batch:
            batch.delete(session_id, self.session_handle)
            batch.delete(due_key(session["due"], session_id), self.expiry_handle)

    def visit(self, user: bytes, page: bytes, at: int) -> None:
        """Note that a user has looked at a page."""
        self.visits[visit_key(user, at)] = page

    def forget_visits(self, user: bytes, before: int) -> None:
        """Delete a user's visits before a time."""
        self.visits.delete_range(visit_key(user, 0), visit_key(user, before))

    def sweep(self, now: int) -> int:
        """Delete the sessions whose time has run out; returns how many."""
        swept = 0
        while True:
            with self.expiry.keys(upper_bound=due_key(now + 1, b"")) as keys:
                due = list(islice(keys, SWEEP_BATCH))
            if not due:
                return swept
            with self.db.write_batch() as batch:
                for key in due:
                    batch.delete(key, self.expiry_handle)
                    batch.delete(parse_due(key)[1], self.session_handle)
            swept += len(due)

    def next_count(self, name: bytes) -> bytes:
        """Return a counter's next value, as it is stored."""
        return str(int(self.db.get(name) or b"0") + 1).encode()

    # ---- reading

    def session(self, session_id: bytes) -> Session | None:
        """Return a session, or None."""
        text = self.sessions.get(session_id)
        if text is None:
            return None
        session: Session = json.loads(text)
        return session

    def next_due(self) -> int | None:
        """Return when the next session runs out, or None if there is none."""
        with self.expiry.iter() as cursor:
            cursor.seek_to_first()
            return parse_due(cursor.key())[0] if cursor.valid() else None

    def last_visits(self, user: bytes, since: int, most: int) -> list[tuple[int, bytes]]:
        """Return a user's visits since a time, newest first."""
        first, end = visit_key(user, since), visit_key(user, 2**63)
        with self.visits.items(backwards=True, lower_bound=first, upper_bound=end) as visits:
            return [(parse_visit(key)[1], page) for key, page in islice(visits, most)]

    def visit_before(self, user: bytes, at: int) -> Any:
        """Return the page of a user's last visit before a time, or None."""
        with self.visits.values(
            backwards=True, lower_bound=visit_key(user, 0), upper_bound=visit_key(user, at)
        ) as pages:
            return next(pages, None)

    def users(self) -> list[str]:
        """Return who is logged in, each once."""
        with self.sessions.values() as texts:
            return sorted({json.loads(text)["user"] for text in texts})

    def popular_pages(self) -> dict[bytes, int]:
        """Return how often each page was looked at."""
        counts: dict[bytes, int] = {}
        with self.visits.values() as pages:
            for page in pages:
                counts[page] = counts.get(page, 0) + 1
        return counts

    def counts_before_and_after(self, session_id: bytes, user: bytes, now: int) -> tuple[Any, Any]:
        """Log in; returns the number of logins as it was, and as it is."""
        with self.db.snapshot(point_reads_only=True) as snapshot:
            self.log_in(session_id, user, now)
            return snapshot[b"logins"], self.db[b"logins"]

    def export(self) -> saferocks.Scope[saferocks.RdictItems]:
        """Open a scan of all visits as they are now, for the caller's `with`."""
        return self.visits.items()

    # ---- keeping

    def back_up(self, path: str) -> None:
        """Write a copy that can be opened."""
        self.db.flush()
        with self.db.checkpoint() as checkpoint:
            checkpoint.create_checkpoint(path)


def count_sessions(path: str) -> int:
    """Return how many sessions a database has that is not being written."""
    reading = saferocks.AccessType.read_only()
    with (
        saferocks.open(path, access_type=reading, policy="raise") as db,
        db.get_column_family("sessions").keys() as keys,
    ):
        return sum(1 for _ in keys)


def report(store: SessionStore, directory: str) -> Iterator[str]:
    """Let some customers in, and tell of it."""
    for number in range(300):
        store.log_in(b"s%03d" % number, b"user%d" % (number % 7), now=1000 + number)
        store.visit(b"user%d" % (number % 7), b"/page/%d" % (number % 5), at=1000 + number)
    yield f"logins before and after: {store.counts_before_and_after(b's300', b'late', now=1300)}"
    yield f"touched: {store.touch(b's000', now=1400)}, {store.touch(b'unknown', now=1400)}"
    store.log_out(b"s299")
    yield f"next due: {store.next_due()}"
    yield f"swept: {store.sweep(now=3050)}"
    yield f"next due: {store.next_due()}"
    yield f"users: {', '.join(store.users())}"
    yield f"last visits: {store.last_visits(b'user3', since=1280, most=2)}"
    yield f"visits since 1290: {len(store.last_visits(b'user3', since=1290, most=100))}"
    yield f"before 1100: {store.visit_before(b'user3', 1100)!r}, {store.visit_before(b'nobody', 1100)!r}"
    store.forget_visits(b"user3", before=1200)
    yield f"popular: {sorted(store.popular_pages().items())}"
    with store.export() as visits:
        pages = [len(list(islice(visits, 100))) for _ in range(2)]
    yield f"exported: {pages}"
    copy = os.path.join(directory, "copy")
    store.back_up(copy)
    yield f"in the copy: {count_sessions(copy)}"


def main(directory: str) -> None:
    """Print the report of a new database in a directory."""
    with open_store(os.path.join(directory, "sessions")) as store:
        for line in report(store, directory):
            print(line)


if __name__ == "__main__":
    main(sys.argv[1])
