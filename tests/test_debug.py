"""The debug page: who sees it, what it says, and under which servers."""

from __future__ import annotations

import asyncio
import errno
import gc
import html
import http.client
import io
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from wsgiref.validate import validator

import hypercorn.asyncio
import hypercorn.config
import pytest
import uvicorn

import saferocks
from saferocks import _debug_server, _groups, debug
from tests.systems import needs_fork, needs_limits, needs_signals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 30
HERE = __file__


class Answer:
    """What a server answered."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.text = response.read().decode()


def ask(port: int, path: str = "/", method: str = "GET", **headers: str) -> Answer:
    """Send a request to a server on this machine; `_` in names of headers stands for a hyphen."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=SECONDS)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        return Answer(connection.getresponse())
    finally:
        connection.close()


# --------------------------------------------------------------------------- servers


@contextmanager
def listening() -> Iterator[socket.socket]:
    """A socket that connections can be made to before anybody answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


@contextmanager
def under_uvicorn() -> Iterator[int]:
    """The page under uvicorn, an ASGI server."""
    server = uvicorn.Server(uvicorn.Config(debug.app, log_config=None, ws="none"))
    with listening() as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(SECONDS)


@contextmanager
def under_hypercorn() -> Iterator[int]:
    """The page under hypercorn, another one."""
    with listening() as listener:
        config = hypercorn.config.Config()
        config.bind = [f"fd://{listener.fileno()}"]
        config.accesslog = config.errorlog = None
        loop, over = asyncio.new_event_loop(), asyncio.Event()

        async def run() -> None:
            await hypercorn.asyncio.serve(debug.app, config, shutdown_trigger=over.wait)

        thread = threading.Thread(target=lambda: loop.run_until_complete(run()))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            loop.call_soon_threadsafe(over.set)
            thread.join(SECONDS)
            loop.close()
            listener.detach()  # the server has closed it


@contextmanager
def under_wsgiref() -> Iterator[int]:
    """The page under its own server, which is the standard library's for WSGI."""
    with debug.serve() as server:
        yield server.port


SERVERS = {"uvicorn": under_uvicorn, "hypercorn": under_hypercorn, "wsgiref": under_wsgiref}


@pytest.fixture(params=SERVERS)
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of a server in this process that serves the page."""
    with SERVERS[request.param]() as port:
        yield port


def test_the_page_under_a_server(port: int, db: saferocks.Rdict, path: str) -> None:
    """Every server gives the page with the line of an open handle, and the same as text and JSON."""
    with db.items(label="mine"):
        line = f"{HERE}:{sys._getframe().f_lineno - 1}"
        page = ask(port)
        assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
        assert f"<code>{line} in test_the_page_under_a_server</code>" in page.text
        text = ask(port, "/?format=text")
        assert text.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert text.text.startswith("saferocks: 2 open handles\n")
        assert line in text.text
        found = json.loads(ask(port, "/?format=json").text)
    (group,) = (group for group in found["groups"] if group["kind"] == "iterator")
    assert (group["opened_at"], group["count"], group["labels"], group["database"]) == (line, 1, ["mine"], path)
    assert found["kinds"]["iterator"]["count"] == 1
    assert (found["total"], found["pid"]) == (2, os.getpid())
    assert found["databases"][0]["memory"]["memtables"] > 0


def test_headers_and_methods(port: int) -> None:
    """Headers keep the page to itself; HEAD gives the same without a body, and nothing but GET and HEAD is taken."""
    page, head = ask(port), ask(port, method="HEAD")
    policy = page.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert page.headers["Cache-Control"] == "no-store"
    assert (head.status, head.text) == (200, "")
    assert int(head.headers["Content-Length"]) > 1000
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        refused = ask(port, method=method)
        assert (refused.status, refused.headers["Allow"]) == (405, "GET, HEAD")
    for query in ("?format=xml", "?format=text&format=json", "?" + "&".join(["a=1"] * 101)):
        assert ask(port, f"/{query}").status == 400, query


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "10.0.0.1"])
def test_a_name_that_was_made_to_lead_here(port: int, host: str) -> None:
    """A request for another name, as a page elsewhere sends after rebinding it to this machine, is refused."""
    answer = ask(port, Host=host)
    assert answer.status in (400, 403)  # some servers refuse an empty name themselves
    assert "open handle" not in answer.text


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:80", "127.0.0.1:8000", "127.1.2.3", "[::1]:8000", "localhost."]
)
def test_the_names_of_this_machine(port: int, host: str) -> None:
    """This machine's own names are answered, with any port: it may be that of a tunnel."""
    assert ask(port, Host=host).status == 200


PROXIES = ["Forwarded", "Via", "X_Forwarded_For", "X_Forwarded_Host", "X_Forwarded_Proto", "X_Forwarded", "X_Real_IP"]
PROXIES += ["X_Client_IP", "CF_Connecting_IP", "True_Client_IP", "X_Original_Forwarded_For", "CDN_Loop"]


@pytest.mark.parametrize("name", PROXIES)
def test_a_proxy_on_this_machine(port: int, name: str) -> None:
    """What came through a proxy is refused, whose client may be anybody, even if it says that it is not."""
    assert ask(port, **{name: "127.0.0.1"}).status == 403


def test_a_proxy_that_says_nothing(port: int) -> None:
    """HTTP/1.0, in which nginx asks with no header of its own unless it is told otherwise, is taken for a proxy's."""
    with socket.create_connection(("127.0.0.1", port), SECONDS) as nginx:
        nginx.sendall(b"GET / HTTP/1.0\r\nHost: 127.0.0.1:%d\r\nConnection: close\r\n\r\n" % port)
        answer = b"".join(iter(lambda: nginx.recv(65536), b"")).decode()
    assert answer.split()[1] == "403"
    assert "came through a proxy" in answer
    assert wsgi(debug.DebugApp(behind_proxy=True), SERVER_PROTOCOL="HTTP/1.0")[0] == "200 OK"


GUNICORN = """
import saferocks
from saferocks import debug

db = saferocks.open("db").__enter__()
items = db.items(label="mine").__enter__()

def app(environ, start_response):
    return debug.app(environ, start_response)
"""


@needs_fork
def test_the_page_under_gunicorn(tmp_path: Path) -> None:
    """Under gunicorn, in a process of its own, the page shows what is open in there."""
    (tmp_path / "served.py").write_text(GUNICORN)
    child = subprocess.Popen(
        [sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:0", "--no-control-socket", "served:app"]
        if "--no-control-socket" in gunicorn_help()
        else [sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:0", "served:app"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stderr is not None
    try:
        seen = []
        for line in child.stderr:
            seen.append(line)
            found = re.search(r"Listening at: http://127.0.0.1:(\d+)", line)
            if found:
                break
        assert seen, "gunicorn said nothing"
        assert found is not None, seen
        answer = ask(int(found[1]))
        assert answer.status == 200
        assert re.search(r"served\.py:6 in &lt;module&gt;", answer.text)
    finally:
        child.send_signal(signal.SIGTERM)
        child.communicate(timeout=SECONDS)


def gunicorn_help() -> str:
    """Return the options that this gunicorn has."""
    done = subprocess.run([sys.executable, "-m", "gunicorn", "--help"], capture_output=True, text=True, check=True)
    return done.stdout


# --------------------------------------------------------------------------- one request, by hand


def wsgi(app: debug.DebugApp, **environ: str) -> tuple[str, str]:
    """Ask as a WSGI server would, checked against the standard; returns status and body."""
    status: list[str] = []

    def start_response(given: str, headers: Any, exc_info: Any = None) -> Callable[[bytes], object]:
        status.append(given)
        return lambda data: None

    complete = {
        "REQUEST_METHOD": "GET",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/",
        "QUERY_STRING": "",
        "SERVER_NAME": "x",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "HTTP_HOST": "localhost",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        **environ,
    }
    answer = validator(app)({name: value for name, value in complete.items() if value != "none"}, start_response)
    try:
        body = b"".join(answer).decode()
    finally:
        answer.close()
    return status[0], body


@pytest.mark.parametrize("address", ["", "none"])
def test_clients_without_an_address(address: str) -> None:
    """Who connects from nobody knows where, as over a Unix socket, is refused unless a proxy is trusted."""
    status, body = wsgi(debug.app, REMOTE_ADDR=address)
    assert status.startswith("403")
    assert "behind_proxy=True" in body
    assert wsgi(debug.DebugApp(behind_proxy=True), REMOTE_ADDR=address, HTTP_VIA="proxy")[0] == "200 OK"
    anywhere = debug.DebugApp(clients=["0.0.0.0/0", "::/0"])
    assert wsgi(anywhere, REMOTE_ADDR=address)[0].startswith("403")


@pytest.mark.parametrize("address", ["10.0.0.9", "192.168.1.1", "::2", "128.0.0.1", "not an address"])
def test_clients_elsewhere(address: str) -> None:
    """Who connects from elsewhere is refused."""
    status, body = wsgi(debug.app, REMOTE_ADDR=address)
    assert status.startswith("403")
    assert "clients=[...]" in body


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
def test_clients_here(address: str) -> None:
    """Who connects from this machine, in whatever notation, is answered."""
    assert wsgi(debug.app, REMOTE_ADDR=address)[0] == "200 OK"


def test_others_are_let_in_when_told() -> None:
    """Networks, names and proxies that a program names are let in, each alone and nothing else."""
    near = debug.DebugApp(clients=["10.0.0.0/8"], hosts=["Debug.example.org:8000"])
    assert wsgi(near, REMOTE_ADDR="10.1.2.3", HTTP_HOST="debug.example.org")[0] == "200 OK"
    assert wsgi(near, REMOTE_ADDR="127.0.0.1")[0].startswith("403")
    assert wsgi(near, REMOTE_ADDR="10.1.2.3", HTTP_HOST="other.example.org")[0].startswith("403")
    assert wsgi(near, REMOTE_ADDR="10.1.2.3", HTTP_VIA="proxy")[0].startswith("403")
    assert wsgi(debug.DebugApp(behind_proxy=True), HTTP_VIA="proxy")[0] == "200 OK"
    assert wsgi(debug.app, HTTP_HOST="none")[0].startswith("403")


def test_bad_arguments() -> None:
    """Networks that are none and arguments of a wrong type are refused when the application is made."""
    for arguments, error in (
        ({"clients": "127.0.0.1"}, TypeError),
        ({"hosts": "localhost"}, TypeError),
        ({"behind_proxy": "yes"}, TypeError),
        ({"clients": ["10.0.0.1/8"]}, ValueError),
        ({"clients": ["here"]}, ValueError),
        ({"hosts": [""]}, ValueError),
        ({"hosts": ["fine.example", "[broken"]}, ValueError),
        ({"hosts": ["*"]}, ValueError),
        ({"hosts": ["*.example.org"]}, ValueError),
        ({"hosts": ["debug.example.org/path"]}, ValueError),
        ({"hosts": ["b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example"]}, ValueError),
        ({"hosts": [5]}, TypeError),
        ({"clients": [5]}, TypeError),
        ({"clients": None}, TypeError),
    ):
        with pytest.raises(error, match=r"has host bits|'here'|which is no name|give a list of strings|give True"):
            debug.DebugApp(**arguments)


def asgi(scope: dict[str, Any], *received: dict[str, Any], double: bool = False) -> list[dict[str, Any]]:
    """Ask as an ASGI server would; returns what it was sent."""
    sent: list[dict[str, Any]] = []
    pending = list(received)

    async def receive() -> dict[str, Any]:
        return pending.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(debug.app(scope)(receive, send) if double else debug.app(scope, receive, send))
    return sent


HTTP = {"type": "http", "method": "GET", "query_string": b"format=text", "client": ("127.0.0.1", 1), "headers": []}


def test_asgi_messages() -> None:
    """Starts, ends and web sockets are answered as ASGI has it, in its older form too, and other things refused."""
    sent = asgi({"type": "lifespan"}, {"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})
    assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert asgi({"type": "websocket"}, {"type": "websocket.connect"}) == [{"type": "websocket.close", "code": 1008}]
    host = {**HTTP, "headers": [(b"host", b"localhost")]}
    for double in (False, True):
        start, body = asgi(host, double=double)
        assert start["status"] == 200
        assert body["body"].startswith(b"saferocks: ")
    twice = {**HTTP, "headers": [(b"host", b"localhost"), (b"host", b"evil.example")]}
    assert asgi(twice)[0]["status"] == 403
    assert asgi({**host, "client": None})[0]["status"] == 403  # a Unix socket: nobody knows who
    with pytest.raises(ValueError, match="mystery"):
        asgi({"type": "mystery"})


# --------------------------------------------------------------------------- what it shows


def test_nothing_is_markup(tmp_path: Path) -> None:
    """Labels, paths and lines of programs that hold markup or control characters come out as text."""
    nasty = "<script>alert(1)</script>\x1b[2J\"'&\u202e"
    program = compile("def open_it(db, label):\n    return db.items(label=label)\n", '<img src=x onerror="1">', "exec")
    names: dict[str, Any] = {}
    exec(program, names)  # noqa: S102 - a program whose file name is markup
    with saferocks.open(str(tmp_path / "<b>db&amp;")) as db, names["open_it"](db, nasty):
        page, text = wsgi(debug.app)[1], wsgi(debug.app, QUERY_STRING="format=text")[1]
        found = json.loads(wsgi(debug.app, QUERY_STRING="format=json")[1])
    assert page.count("<script>") == 1
    assert "<img" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\x1b[2J&quot;&#x27;&amp;\\u202e" in page
    assert all(line.isprintable() for line in (*page.splitlines(), *text.splitlines()))
    assert nasty in [label for group in found["groups"] for label in group["labels"]]


def test_long_labels_and_paths(tmp_path: Path) -> None:
    """Of a label and a path of any length the page shows the ends, and more where one points; JSON has it whole."""
    label, path = f"begins {'x' * 1_000_000} ends", str(tmp_path / ("/".join(["long" * 50] * 3) + "/<last>"))
    with saferocks.open(path) as db, db.items(label=label):
        page = wsgi(debug.app)[1]
        found = json.loads(wsgi(debug.app, QUERY_STRING="format=json")[1])
    (shown,) = re.findall(r">\[(begins [^<]*)\]<", page)
    assert re.fullmatch(r"begins x+\.\.\.x+ ends", shown)
    assert len(shown) <= 80
    titles = re.findall(r'title="([^"]*)"', page)
    assert [80 < len(title) <= 1000 for title in titles if title.startswith("begins ")] == [True]
    assert html.unescape(titles[-1]) == path
    assert page.count("/&lt;last&gt;</td>") == 3
    assert len(page) < 50_000
    assert label in [each for group in found["groups"] for each in group["labels"]]


def test_neither_keys_nor_values(db: saferocks.Rdict) -> None:
    """What a database holds is shown nowhere, open batches and bounds of scans included."""
    db[b"secret-key"] = b"secret-value"
    with db.items(prefix=b"secret-key") as items, db.write_batch() as batch:
        batch[b"secret-key"] = b"secret-value"
        list(items)
        everything = "".join(wsgi(debug.app, QUERY_STRING=f"format={kind}")[1] for kind in ("html", "text", "json"))
    assert "secret" not in everything


def test_the_page_keeps_nothing_open(path: str) -> None:
    """While pages are asked for all the time, databases close and reopen, and no page fails."""
    stop, failures = threading.Event(), []

    def look() -> None:
        while not stop.is_set():
            status = wsgi(debug.app)[0]
            if status != "200 OK":
                failures.append(status)

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(30):
            with saferocks.open(path) as db, db.items(), db.snapshot():
                db[b"k"] = b"v"
    finally:
        stop.set()
        for thread in threads:
            thread.join(SECONDS)
    assert failures == []


def test_a_database_that_is_being_closed(db: saferocks.Rdict) -> None:
    """A page does not wait for a close: what that database holds is then not known."""
    lock, held, over = db._record.owner.lock, threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            over.wait(SECONDS)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(SECONDS)
    try:
        found = json.loads(wsgi(debug.app, QUERY_STRING="format=json")[1])
        assert found["databases"][0]["memory"] is None
        assert wsgi(debug.app)[0] == "200 OK"
    finally:
        over.set()
        thread.join()
    assert json.loads(wsgi(debug.app, QUERY_STRING="format=json")[1])["databases"][0]["memory"] is not None


def test_a_page_uses_no_unentered_database(path: str) -> None:
    """Looking at a database that nobody has entered yet is no use of it: no policy is applied, and none warns."""
    scope = saferocks.open(path)
    found = json.loads(wsgi(debug.app, QUERY_STRING="format=json")[1])
    assert found["databases"][0]["memory"]["memtables"] > 0
    with scope as db:
        db[b"k"] = b"v"


def test_pinned_bytes_are_shown(db: saferocks.Rdict) -> None:
    """A flushed memtable that an iterator keeps is among what is kept by open handles."""
    for number in range(1000):
        db[b"%04d" % number] = b"v" * 1000
    with db.iter():
        db.flush()
        page = wsgi(debug.app)[1]
        curves = json.loads(re.search(r'data-figures="([^"]*)"', page)[1].replace("&quot;", '"'))
        assert curves["kept"]["memtables"] > 1_000_000
        assert curves["counts"] == {"database": 1, "iterator": 1}
        assert set(curves["ages"]) == {"iterator"}


def test_many_lines(db: saferocks.Rdict, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page is bounded however many lines have opened something, says what it leaves out, and the text has all."""
    monkeypatch.setattr("saferocks._debug_figures.MOST_GROUPS", 5)
    opened = []
    for number in range(20):
        names: dict[str, Any] = {}
        exec(compile("def open_it(db):\n    return db.keys()\n", f"file{number}.py", "exec"), names)  # noqa: S102 - as templates do
        opened.append(names["open_it"](db).__enter__())
    try:
        page = wsgi(debug.app)[1]
        assert len(re.findall(r'<td class="place">', page)) == 5
        assert "16 more lines are left out" in page
        assert wsgi(debug.app, QUERY_STRING="format=text")[1].count("1 iterator") == 20
    finally:
        for each in opened:
            each.__exit__(None, None, None)


def test_a_hundred_thousand_handles_format_one_line(db: saferocks.Rdict, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many handles a line has open, it is written out once."""
    formatted: list[object] = []
    describe = _groups._group
    monkeypatch.setattr(_groups, "_group", lambda *rest: (formatted.append(rest), describe(*rest))[1])
    opened = [db.write_batch() for _ in range(5000)]
    for each in opened:
        each.__enter__()
    try:
        assert "5000 write_batch" in saferocks.dump()
        assert len(formatted) == 2
    finally:
        for each in opened:
            each.__exit__(None, None, None)
        del opened, each
        gc.collect()


# --------------------------------------------------------------------------- serve


def test_serve_and_stop() -> None:
    """A server answers until it is closed, gives its port back, and its thread ends; closing twice is no error."""
    with debug.serve() as server:
        assert ask(server.port).status == 200
        assert (server.url, "closed" in repr(server)) == (f"http://127.0.0.1:{server.port}/", False)
        threads = [thread for thread in threading.enumerate() if thread.name == "saferocks-debug"]
        assert [thread.daemon for thread in threads] == [True]
    server.close()
    assert not threads[0].is_alive()
    with pytest.raises(ConnectionRefusedError):
        ask(server.port)
    with debug.serve(server.port) as again:
        assert ask(again.port).status == 200


def test_a_port_in_use() -> None:
    """A port that another server has is a typed error that says what to do, and starts nothing."""
    threads = threading.active_count()
    with listening() as listener:
        taken = listener.getsockname()[1]
        with pytest.raises(saferocks.PortInUseError, match=f"port {taken} of 127.0.0.1 is in use; give another one"):
            debug.serve(taken)
    with debug.serve() as server, pytest.raises(saferocks.PortInUseError):
        debug.serve(server.port)
    assert threading.active_count() == threads


def test_a_port_that_the_process_may_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that the system refuses, as a low one without a privilege, is a typed error that says what to do."""
    sockets: list[socket.socket] = []

    def refuse(server: _debug_server._Server) -> None:
        sockets.append(server.socket)
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(_debug_server._Server, "server_bind", refuse)
    with pytest.raises(
        saferocks.PortForbiddenError, match=r"port 80 of 127\.0\.0\.1 needs a privilege .*; give a higher"
    ):
        debug.serve(80)
    assert [each.fileno() for each in sockets] == [-1]


def test_a_server_without_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started the program is told so, and the port is free again."""
    with listening() as listener:
        port = listener.getsockname()[1]

    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="can't start new thread"):
        patched.setattr(threading.Thread, "start", fail)
        debug.serve(port)
    with debug.serve(port) as server:
        assert ask(server.port).status == 200


@pytest.mark.parametrize(
    ("port", "error"), [("80", TypeError), (True, TypeError), (-1, ValueError), (65536, ValueError)]
)
def test_a_port_that_is_none(port: Any, error: type[Exception]) -> None:
    """What is no port is refused."""
    with pytest.raises(error, match="port is"):
        debug.serve(port)


def test_what_is_no_application() -> None:
    """What cannot answer is refused at once, and not at each request."""
    threads = threading.active_count()
    with pytest.raises(TypeError, match="app is 'localhost'; give a DebugApp"):
        debug.serve(app="localhost")
    assert threading.active_count() == threads


def test_the_server_listens_on_loopback_only() -> None:
    """No other address of this machine answers."""
    with debug.serve() as server:
        assert server._server.socket.getsockname()[0] == "127.0.0.1"


def test_a_client_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that connects and sends nothing holds nobody up, and is dropped after a while."""
    monkeypatch.setattr(_debug_server._Handler, "timeout", 0.2)
    with debug.serve() as server, socket.create_connection(("127.0.0.1", server.port), SECONDS) as silent:
        assert ask(server.port).status == 200
        assert silent.recv(1) == b""


def test_a_client_that_says_little_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends a byte now and then is dropped as soon as one that sends nothing."""
    monkeypatch.setattr(_debug_server._Handler, "timeout", 0.5)
    with debug.serve() as server, socket.create_connection(("127.0.0.1", server.port), 0.1) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nX-Long: ")
        for _ in range(10 * SECONDS):
            try:
                slow.sendall(b"x")
                assert slow.recv(1) == b""
            except TimeoutError:
                continue
            except ConnectionError:  # it was dropped before the last byte came
                pass
            break
        else:
            pytest.fail("it was not dropped")


def test_a_client_that_takes_no_answer(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """A client that does not take its answer is dropped after a while, without a word to the program."""
    monkeypatch.setattr(_debug_server._Handler, "timeout", 0.2)
    monkeypatch.setattr(_debug_server, "_MOST_AT_ONCE", 1)

    def long(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"x" * (50_000_000 if environ["PATH_INFO"] == "/long" else 1)]

    with debug.serve(app=long) as server, socket.create_connection(("127.0.0.1", server.port), SECONDS) as full:
        full.sendall(b"GET /long HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert full.recv(1) == b"H"
        assert ask(server.port, "/").text == "x"
    assert capfd.readouterr() == ("", "")


def test_a_request_that_is_read_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that came in time is answered, also if the program was too busy to read it in time."""
    times = iter([0.0])
    monkeypatch.setattr(_debug_server, "monotonic", lambda: next(times, 1e9))
    read = _debug_server._Incoming.readinto

    def read_late(incoming: _debug_server._Incoming, buffer: Any) -> int:
        select.select([incoming._connection], [], [], SECONDS)  # until it has come
        return read(incoming, buffer)

    monkeypatch.setattr(_debug_server._Incoming, "readinto", read_late)
    with debug.serve() as server:
        assert ask(server.port).status == 200


def test_requests_beyond_those_at_once_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many requests are answered at once, each by a thread; the others wait, and are answered afterwards."""
    monkeypatch.setattr(_debug_server, "_MOST_AT_ONCE", 2)
    refused, over = threading.Event(), threading.Event()
    accept, inside, seen = _debug_server._Server.get_request, threading.Semaphore(0), []

    def get_request(server: _debug_server._Server) -> Any:
        try:
            return accept(server)
        except BlockingIOError:
            refused.set()
            raise

    def slow(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        seen.append(environ["REMOTE_ADDR"])
        inside.release()
        over.wait(SECONDS)
        answer: list[bytes] = debug.app(environ, start_response)
        return answer

    monkeypatch.setattr(_debug_server._Server, "get_request", get_request)
    found: list[int] = []
    with debug.serve(app=slow) as server:
        clients = [threading.Thread(target=lambda: found.append(ask(server.port).status)) for _ in range(5)]
        for client in clients:
            client.start()
        assert refused.wait(SECONDS)
        assert inside.acquire(timeout=SECONDS)
        assert inside.acquire(timeout=SECONDS)
        assert len(seen) == 2
        over.set()
        for client in clients:
            client.join(SECONDS)
    assert found == [200] * 5


def test_a_place_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever becomes of a request, the next one has its place."""
    monkeypatch.setattr(_debug_server, "_MOST_AT_ONCE", 1)
    with debug.serve() as server:
        for sent in (b"", b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /" + b"x" * 70_000):
            with socket.create_connection(("127.0.0.1", server.port), SECONDS) as rude:
                rude.sendall(sent)
                rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            assert ask(server.port).status == 200
        with monkeypatch.context() as patched:
            failed = threading.Event()
            patched.setattr(_debug_server._Server, "process_request", lambda *_: failed.set() or 1 / 0)
            with socket.create_connection(("127.0.0.1", server.port), SECONDS) as dropped:
                assert dropped.recv(1) == b""
            assert failed.is_set()
        assert ask(server.port).status == 200


OUT_OF_DESCRIPTORS = """
import os, resource, socket, threading
from saferocks import _debug_server, debug
from urllib.request import urlopen

tried, accept = threading.Semaphore(0), _debug_server.WSGIServer.get_request
breaths = []

def get_request(self):
    try:
        return accept(self)
    finally:
        tried.release()

_debug_server.WSGIServer.get_request = get_request
_debug_server.time = type("Clock", (), {"sleep": breaths.append})
with debug.serve() as server:
    client = socket.socket()
    rest = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    try:
        while True:
            rest.append(os.dup(0))
    except OSError:
        pass
    client.connect(("127.0.0.1", server.port))
    for _ in range(3):
        tried.acquire()
    for each in rest:
        os.close(each)
    client.close()
    print(len(breaths) >= 2, set(breaths), urlopen(server.url).status)
"""


@needs_limits
def test_a_program_without_descriptors(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """A server that cannot accept for want of descriptors takes a breath each time, and serves again later."""
    done = run_python(OUT_OF_DESCRIPTORS)
    assert (done.returncode, done.stdout, done.stderr) == (0, "True {0.1} 200\n", "")


def test_the_server_writes_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """Requests, refusals and clients that go away leave stdout and stderr to the program."""
    with debug.serve() as server:
        ask(server.port)
        ask(server.port, method="POST")
        with socket.create_connection(("127.0.0.1", server.port), SECONDS) as rude:
            rude.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        with socket.create_connection(("127.0.0.1", server.port), SECONDS) as rude:
            rude.sendall(b"nonsense\r\n\r\n")
            rude.recv(1000)
    assert capfd.readouterr() == ("", "")


CLOSED_AMID_A_CLOSE = """
import faulthandler, signal, sys
faulthandler.dump_traceback_later(20, exit=True)
from saferocks import debug
server = debug.serve()
shut_down = server._server.shutdown
def interrupted():
    server._server.shutdown = shut_down
    signal.raise_signal(signal.SIGUSR1)
    shut_down()
def handle(number, frame):
    if sys.argv[1] == "interrupt":
        raise KeyboardInterrupt
    server.close()
signal.signal(signal.SIGUSR1, handle)
server._server.shutdown = interrupted
try:
    server.close()
    print("closed")
except KeyboardInterrupt:
    print("interrupted")
    server.close()
with debug.serve(server.port):
    print("the port is free")
"""


@needs_signals
@pytest.mark.parametrize(("what", "told"), [("close", "closed"), ("interrupt", "interrupted")])
def test_a_signal_amid_a_close(
    run_python: Callable[..., subprocess.CompletedProcess[str]], what: str, told: str
) -> None:
    """A signal handler may close a server that is being closed, and one that an interrupt ended is done anew."""
    done = run_python(CLOSED_AMID_A_CLOSE, what)
    assert (done.returncode, done.stdout.splitlines()) == (0, [told, "the port is free"]), done.stderr


FORKED = """
import os, sys
from saferocks import debug
server = debug.serve()
child = os.fork()
if child == 0:
    server.close()
    os.close(1)  # so that the parent's end is seen
    os.read(0, 1)  # until the parent has done
    os._exit(0)
server.close()
with debug.serve(server.port):
    print("the port is free")
"""
FORKED_WITHOUT_A_NAME = """
import os, sys
from saferocks import debug
port = debug.serve().port  # and nobody refers to the server
reading, writing = os.pipe()
if os.fork():
    os.read(reading, 1)
    os.execv(sys.executable, [sys.executable, "-c", f"import os; os.write(1, b'{port}\\\\n'); os.read(0, 1)"])
os.write(writing, b".")
os.close(1)
os.read(0, 1)
"""


@needs_fork
def test_a_forked_child_gives_up_the_port(tmp_path: Path) -> None:
    """A child that lives on after a fork does not keep the parent's port."""
    assert _run_forked(FORKED, tmp_path) == (0, "the port is free\n")


@needs_fork
def test_a_forked_child_gives_up_the_port_of_a_server_without_a_name(tmp_path: Path) -> None:
    """Neither does it keep that of a server to which the program has kept no reference."""
    told: list[str] = []

    def bind(line: str) -> None:
        with debug.serve(int(line)):
            told.append("the port is free")

    assert _run_forked(FORKED_WITHOUT_A_NAME, tmp_path, bind)[0] == 0
    assert told == ["the port is free"]


def _run_forked(program: str, folder: Path, meanwhile: Callable[[str], None] = lambda line: None) -> tuple[int, str]:
    """Run a program until it has written a line, do something meanwhile, and let it and its children end."""
    reading, writing = os.pipe()
    try:
        return _run_reading(program, folder, meanwhile, reading, writing)
    finally:
        os.close(reading)


def _run_reading(
    program: str, folder: Path, meanwhile: Callable[[str], None], reading: int, writing: int
) -> tuple[int, str]:
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program],
        stdin=reading,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=folder,
    )
    assert child.stdout is not None
    line = child.stdout.readline()
    try:
        meanwhile(line)
    finally:
        os.close(writing)
    child.stdout.close()
    return child.wait(SECONDS), line


def test_a_program_ends_while_it_serves(run_python: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    """A program that never closes its server ends all the same, with its own status and without a word."""
    done = run_python("import sys\nfrom saferocks import debug\ndebug.serve()\nsys.exit(3)\n", flags=("-X", "dev"))
    assert (done.returncode, done.stdout) == (3, "")
    assert "Traceback" not in done.stderr


def test_requests_at_once() -> None:
    """Many clients at once all get the page."""
    found: list[int] = []
    with debug.serve() as server:
        threads = [threading.Thread(target=lambda: found.append(ask(server.port).status)) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(SECONDS)
    assert found == [200] * 20
