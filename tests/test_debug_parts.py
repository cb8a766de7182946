"""Who may see the debug page, and what it shows: the parts of it, each alone."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import json
import tempfile
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings, strategies as st

import saferocks
from saferocks import _debug_figures, _registry, inspection
from saferocks._debug_access import LOOPBACK, Access, Request, make_access
from saferocks._debug_figures import Database, figures
from saferocks.errors import LockedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PORTS = st.integers(0, 65535)
HERE = make_access(LOOPBACK, (), behind_proxy=False)
V4, V6 = st.ip_addresses(v=4), st.ip_addresses(v=6)


def asked(
    client: str | None = "127.0.0.1", *hosts: str, is_forwarded: bool = False, access: Access = HERE
) -> str | None:
    """Return why a request is refused."""
    return access.refusal(Request("GET", "", client, hosts or ("localhost",), is_forwarded))


@given(V4 | V6)
def test_only_loopback_is_near(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """A client is let in exactly if its address is one of this machine alone, IPv4 inside IPv6 included."""
    inside = getattr(address, "ipv4_mapped", None) or address
    assert (asked(str(address)) is None) == inside.is_loopback
    if address.version == 4:
        assert (asked(f"::ffff:{address}") is None) == address.is_loopback


@given(st.text())
def test_what_is_no_address_is_not_near(text: str) -> None:
    """Whatever a server gives for its client, only addresses of this machine are let in."""
    try:
        expected = ipaddress.ip_address(text).is_loopback
    except ValueError:
        expected = False
    assert (asked(text) is None) == expected


@given(V4 | V6, PORTS)
def test_addresses_as_hosts(address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> None:
    """A Host that is an address is ours exactly if it is this machine's own, with any port or none."""
    written = f"[{address}]" if address.version == 6 else str(address)
    inside = getattr(address, "ipv4_mapped", None) or address
    for host in (written, f"{written}:{port}"):
        assert (asked("127.0.0.1", host) is None) == inside.is_loopback


@given(st.text(max_size=30), st.sampled_from(["", ".", "@", "/", "\\", "%", "\0", " ", "\t", "#", ",", ":80:"]))
def test_names_around_our_own(text: str, between: str) -> None:
    """No name that merely begins or ends with one of ours, with whatever sign between them, is taken for it."""
    for own in ("localhost", "127.0.0.1", "[::1]"):
        for host in (f"{text}{between}{own}", f"{own}{between}{text}"):
            if asked("127.0.0.1", host) is None:
                assert is_plainly_ours(host), host


def is_plainly_ours(host: str) -> bool:
    """Tell by the grammar of RFC 3986, with an optional end of the root, whether a Host is this machine."""
    name, colon, port = host.rpartition(":") if not host.endswith("]") else (host, "", "")
    whole = host if host.count(":") > 1 and not host.startswith("[") else name
    name = whole if colon and (port.isdecimal() or not port) else host
    name = name.lower().removesuffix(".")
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


@pytest.mark.parametrize(
    "host", ["LOCALHOST", "Localhost.", "localhost:0", "127.1.2.3:99999", "[::1]", "::1", "[::1]:"]
)
def test_hosts_of_this_machine(host: str) -> None:
    """This machine's names are ours in any case, with the dot of the root and with any port."""
    assert asked("127.0.0.1", host) is None


@pytest.mark.parametrize(
    "hosts",
    [
        ("localhost", "localhost"),
        ("localhost", "evil.example"),
        ("evil.example",),
        ("localhost@evil.example",),
        ("localhost, evil.example",),
        ("0.0.0.0",),  # noqa: S104 - a name, which some systems lead here
        ("2130706433",),
        ("0x7f.1",),
        ("127.1",),
        ("[::1",),
        ("[::1]evil.example",),
        ("localhost:80:80",),
        ("[localhost]",),
        ("[127.0.0.1]",),
        ("localhost..",),
        ("localhost:\u0668",),
        ("localhost:eighty",),
        (" localhost",),
        ("",),
    ],
)
def test_hosts_elsewhere(hosts: tuple[str, ...]) -> None:
    """Two hosts, half an address, an address in another notation and what only looks like ours are refused."""
    assert "add it with DebugApp(hosts=[...])" in (asked("127.0.0.1", *hosts) or "")


def test_no_host_at_all() -> None:
    """A request that names no host is refused: HTTP/1.0, or a page elsewhere that could hide its name."""
    assert HERE.refusal(Request("GET", "", "127.0.0.1", (), is_forwarded=False)) is not None


def test_each_permission_is_for_itself() -> None:
    """Letting a network, a name or proxies in lets in nothing else; an empty list of networks lets nobody in."""
    near = make_access(["10.0.0.0/8"], ["Debug.Example.org.:80"], behind_proxy=False)
    assert asked("10.9.9.9", "debug.example.ORG:8080", access=near) is None
    assert asked("127.0.0.1", access=near) is not None
    assert asked("10.9.9.9", "example.org", access=near) is not None
    assert "behind_proxy" in (asked("10.9.9.9", is_forwarded=True, access=near) or "")
    proxied = make_access(LOOPBACK, (), behind_proxy=True)
    assert asked(is_forwarded=True, access=proxied) is None
    assert asked("10.9.9.9", is_forwarded=True, access=proxied) is not None
    assert asked(access=make_access((), (), behind_proxy=False)) is not None


# --------------------------------------------------------------------------- figures

KINDS: dict[str, Callable[[saferocks.Rdict], Any]] = {
    "iterator": lambda db: db.items(),
    "snapshot": lambda db: db.snapshot(),
    "write_batch": lambda db: db.write_batch(),
}


@settings(max_examples=20)
@given(st.lists(st.sampled_from(sorted(KINDS)), max_size=12))
def test_figures_add_up(names: list[str]) -> None:
    """Total, kinds, groups and databases are of one moment: they agree, whatever is open."""
    with tempfile.TemporaryDirectory() as path, saferocks.open(path) as db:
        opened = [KINDS[name](db).__enter__() for name in names]
        found = figures()
        for each in opened:
            each.__exit__(None, None, None)
    counts = {kind: count for kind, (count, _) in found.kinds.items()}
    assert counts == {"database": 1, **{name: names.count(name) for name in names}}
    assert found.total == sum(group.count for group in found.groups) == len(names) + 1
    assert [(each.path, each.handles) for each in found.databases] == [(path, len(names))]
    for kind, (_, oldest) in found.kinds.items():
        assert oldest == max(group.oldest for group in found.groups if group.kind == kind) >= 0


def test_figures_as_json(db: saferocks.Rdict) -> None:
    """What JSON has is what the figures have, with nothing that JSON lacks."""
    with db.items(label="mine"):
        found = figures()
        read = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert (read["total"], read["kinds"]["iterator"]["count"]) == (2, 1)
    assert read["groups"][0]["stack"] == list(found.groups[0].stack)
    assert read["databases"][0]["memory"]["memtables"] == found.databases[0].memory.memtables
    assert read["rss"] > 1 << 20
    assert not {"rss", "heap"} & set(read["databases"][0]["memory"])  # they are the process's, and told once


NOTHING = dict.fromkeys((field.name for field in dataclasses.fields(inspection.NativeMemory)), 0)


def test_kept_files() -> None:
    """What is kept is what there is beyond what is needed, never less than nothing, and not known when that is not."""
    assert Database("db", 0, None).kept_files is None
    for total, live, kept in ((10, 4, 6), (4, 10, 0), (0, 0, 0)):
        memory = inspection.NativeMemory(**{**NOTHING, "sst_total": total, "sst_live": live})
        assert Database("db", 0, memory).kept_files == kept


def test_a_database_that_a_finalizer_closes(db: saferocks.Rdict, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that goes while it is asked, or that refuses to answer, is shown without what it holds."""
    for error in (AttributeError("gone"), LockedError("busy", code=11)):

        def fail(*arguments: Any, error: Exception = error) -> Any:
            patch.setattr(db._record.owner, "closing", isinstance(error, AttributeError))
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(inspection, "native_memory", fail)
            assert figures().databases[0].memory is None
        assert figures().databases[0].memory is not None
        assert db._record.owner.lock.acquire(blocking=False)
        db._record.owner.lock.release()


def test_a_lock_is_waited_for_briefly(db: saferocks.Rdict, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under another thread's lock the figures go without that database, and leave the lock to its holder."""
    monkeypatch.setattr(_debug_figures, "_PATIENCE", 0.001)
    held, over = threading.Event(), threading.Event()

    def hold() -> None:
        with db._record.owner.lock:
            held.set()
            over.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        assert held.wait(30)
        assert figures().databases[0].memory is None
    finally:
        over.set()
        holder.join()
    assert figures().databases[0].memory is not None


class Impatient:
    """A lock that another thread keeps; notes for how long it was waited for."""

    def __init__(self, waits: list[float]) -> None:
        self.waits = waits

    def acquire(self, timeout: float) -> bool:
        self.waits.append(timeout)
        threading.Event().wait(timeout)
        return False


def test_all_locks_are_waited_for_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many databases are being closed at once, a page waits no longer than for one."""
    waits: list[float] = []
    with contextlib.ExitStack() as opened:
        for number in range(5):
            db = opened.enter_context(saferocks.open(tmp_path / str(number)))
            patch = opened.enter_context(monkeypatch.context())
            patch.setattr(db._record.owner, "lock", Impatient(waits))
        assert [database.memory for database in figures().databases] == [None] * 5
    assert (len(waits), sum(waits) <= _debug_figures._PATIENCE) == (5, True)


class Counted(list[Any]):
    """A list that counts how often it is gone through."""

    times = 0

    def __iter__(self) -> Iterator[Any]:
        Counted.times += 1
        return super().__iter__()


def test_more_databases_cost_no_more_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each handle is looked at equally often with one database and with many: there may be hundreds."""
    copy, looks = _registry.snapshot, []
    monkeypatch.setattr(_registry, "snapshot", lambda: Counted(copy()))
    with contextlib.ExitStack() as opened:
        for number in range(5):
            opened.enter_context(saferocks.open(tmp_path / str(number)))
            Counted.times = 0
            figures()
            looks.append(Counted.times)
    assert looks == [looks[0]] * 5


def test_the_registry_is_copied_once(db: saferocks.Rdict, monkeypatch: pytest.MonkeyPatch) -> None:
    """All figures come from one copy of the registry, so that they cannot disagree."""
    copies: list[int] = []
    copy = _registry.snapshot
    monkeypatch.setattr(_registry, "snapshot", lambda: (copies.append(1), copy())[1])
    figures()
    assert copies == [1]
