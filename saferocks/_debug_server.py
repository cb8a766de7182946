"""A server for the debug page alone: one daemon thread, loopback, and a thread for each request, of which so many."""

from __future__ import annotations

import errno
import io
import os
import socket
import threading
import time
from socketserver import ThreadingMixIn
from time import monotonic
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from saferocks.errors import PortForbiddenError, PortInUseError, SaferocksError

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

_HOST = "127.0.0.1"
_HIGHEST_PORT = 65535
#: Seconds that a client may take over its request, and again over the answer.
_PATIENCE = 10.0
#: Requests that are answered at once, each by a thread; further ones wait until they are accepted.
_MOST_AT_ONCE = 32
_NO_DESCRIPTOR = frozenset({errno.EMFILE, errno.ENFILE})
#: Seconds to leave the processor to a program that has used up its descriptors.
_BREATH = 0.1


class _Incoming(io.RawIOBase):
    """What a client sends within the timeout of its socket, all in all: that begins anew with each byte."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._seconds = connection.gettimeout() or 0.0
        self._until = monotonic() + self._seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        # In the end without waiting: what came in time may be read late, where the program was busy.
        self._connection.settimeout(max(0.0, self._until - monotonic()))
        try:
            return self._connection.recv_into(buffer)
        finally:
            self._connection.settimeout(self._seconds)  # for the answer


class _Outgoing(io.BufferedIOBase):
    """What is sent to a client, which has a time to take it; one that does not is one that has gone away."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        try:
            self._connection.sendall(data)
        except TimeoutError as error:
            raise ConnectionAbortedError("the client takes too long over its answer") from error
        return len(data)


class _Handler(WSGIRequestHandler):
    timeout = _PATIENCE

    def setup(self) -> None:
        """Have a time for the request, however it comes, and for the answer."""
        super().setup()
        self.rfile.close()
        self.wfile = _Outgoing(self.connection)
        self.rfile = io.BufferedReader(_Incoming(self.connection))

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name in http.server
        """Write nothing on stderr, which is the program's."""

    def address_string(self) -> str:
        """Return the client's address, and ask no name server for it."""
        return str(self.client_address[0])


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_port = False  # two servers on one port would share its requests
    request_queue_size = 128  # socketserver's 5 has the sixth browser tab wait for a second

    def __init__(self, *arguments: Any) -> None:
        #: Taken by each connection that is accepted, and given back once it is shut down.
        self._places = threading.BoundedSemaphore(_MOST_AT_ONCE)
        super().__init__(*arguments)

    def get_request(self) -> tuple[Any, Any]:
        """Accept a connection; what cannot be had for it, a place or a descriptor, is tried anew after a while."""
        if not self._places.acquire(timeout=_BREATH):
            raise BlockingIOError("as many requests are being answered as may be at once")
        try:
            return super().get_request()
        except BaseException as error:
            self._places.release()
            if isinstance(error, OSError) and error.errno in _NO_DESCRIPTOR:
                time.sleep(_BREATH)
            raise

    def shutdown_request(self, request: Any) -> None:
        """End a connection; socketserver does so once for each that it has accepted."""
        try:
            super().shutdown_request(request)
        finally:
            self._places.release()

    def server_bind(self) -> None:
        """Bind, and ask no name server for our own name."""
        # On Windows SO_REUSEADDR would let a second server take a port that another has.
        option: int = getattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_REUSEADDR)
        self.socket.setsockopt(socket.SOL_SOCKET, option, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = _HOST, self.server_address[1]
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that has gone away."""


#: Those that are not closed: each serves on also when nobody refers to it.
_servers: set[DebugServer] = set()


class DebugServer:
    """A running server of the debug page; made by `saferocks.debug.serve`.

    Attributes:
        port: The port it listens on.
        url: The address of the page.
    """

    def __init__(self, application: Callable[..., Any], port: int) -> None:
        if isinstance(port, bool) or not isinstance(port, int):
            raise TypeError(f"port is {port!r}; give a number, 0 for any free one")
        if not 0 <= port <= _HIGHEST_PORT:
            raise ValueError(f"port is {port}; give one from 1 to {_HIGHEST_PORT}, or 0 for any free one")
        if not callable(application):
            raise TypeError(f"app is {application!r}; give a DebugApp")
        self._server = _listening(port)
        self._server.set_app(application)
        self.port: int = self._server.server_port
        self.url = f"http://{_HOST}:{self.port}/"
        self._closing = threading.RLock()  # a signal handler may close it in the midst of a close
        self._closed = False
        self._process = os.getpid()
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="saferocks-debug", daemon=True
        )
        try:
            self._thread.start()
        except BaseException:  # there can be no more threads
            self._server.server_close()
            raise
        _servers.add(self)

    def close(self) -> None:
        """Stop serving, and give the port back; twice is no error, and waits for the first."""
        with self._closing:
            if not self._closed:  # nor if an interrupt has ended a close: each step may be taken again
                if self._process == os.getpid():  # a forked child has no such thread to wait for
                    self._server.shutdown()
                    self._thread.join()
                self._server.server_close()
                _servers.discard(self)
                self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<saferocks debug page at {self.url}{', closed' if self._closed else ''}>"


#: What is told of a port that the system refuses.
_REFUSALS: dict[int | None, tuple[type[SaferocksError], str]] = {
    errno.EADDRINUSE: (PortInUseError, "is in use; give another one"),
    errno.EACCES: (
        PortForbiddenError,
        "needs a privilege that this process has not, as those below 1024 do; give a higher one",
    ),
}


def _listening(port: int) -> _Server:
    try:
        return _Server((_HOST, port), _Handler)
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        refusal, what = _REFUSALS[error.errno]
    raise refusal(f"port {port} of {_HOST} {what}, or 0 for any that is free")


def _close_in_child() -> None:
    """Give up, in a forked child, the parent's port: it would stay taken for as long as the child lives."""
    for server in list(_servers):
        server._closing = threading.RLock()
        server._closed = True
        server._server.socket.close()
    _servers.clear()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_close_in_child)
