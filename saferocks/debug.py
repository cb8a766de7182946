"""A page that shows what is open in a running process, and what that costs.

`app` is both an ASGI and a WSGI application, to be mounted where a program serves anything at all;
`serve` serves it on a port of its own. It shows the lines that opened handles and the paths of
databases, never keys or values, and can change nothing. Only clients on this machine see it unless
`DebugApp` is told otherwise.
"""

from __future__ import annotations

import functools
import json
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from saferocks import _debug_page
from saferocks._debug_access import LOOPBACK, Request, is_forwarded, make_access
from saferocks._debug_figures import figures
from saferocks._debug_server import DebugServer
from saferocks._dump import dump

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

__all__ = ["DebugApp", "DebugServer", "app", "serve"]

_HEADERS = (
    ("Content-Security-Policy", _debug_page.POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
)
_ASGI_ARGUMENTS = 3


class _Response:
    """What is sent back."""

    def __init__(self, status: int, kind: str, text: str, *extra: tuple[str, str]) -> None:
        self.status = status
        self.body = text.encode("utf-8", "backslashreplace")
        length = ("Content-Length", str(len(self.body)))
        self.headers = [("Content-Type", f"{kind}; charset=utf-8"), length, *_HEADERS, *extra]

    @classmethod
    def refusing(cls, status: int, text: str, *extra: tuple[str, str]) -> _Response:
        """Return a response that says in a line why there is no page."""
        return cls(status, "text/plain", f"{text}\n", *extra)


class DebugApp:
    """The debug page as an application, for ASGI and for WSGI servers; it answers on whatever path it is mounted.

    `?format=text` gives `saferocks.dump()`, `?format=json` all figures, anything else the page.

    Args:
        clients: Networks from which it may be seen, as `10.0.0.0/8`; this machine's own if left out.
        hosts: Names under which it may be asked for, besides `localhost` and addresses of this machine.
            A page on the internet can have its own name lead here, but not hide that name.
        behind_proxy: Answer requests that came through a proxy too, and those over a Unix socket; the proxy
            decides then who sees it.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If a network or a name is none.

    Example:
        >>> from saferocks import debug
        >>> inside = debug.DebugApp(clients=["10.0.0.0/8"], hosts=["debug.example.org"])
    """

    def __init__(
        self, *, clients: Iterable[str] = LOOPBACK, hosts: Iterable[str] = (), behind_proxy: bool = False
    ) -> None:
        self._access = make_access(clients, hosts, behind_proxy)

    def __call__(self, *arguments: Any) -> Any:
        """Answer a request of an ASGI server (scope, receive, send) or of a WSGI server (environ, start_response)."""
        if len(arguments) == _ASGI_ARGUMENTS:
            return self._asgi(*arguments)
        if len(arguments) == 1:  # ASGI before version 3, which servers take this for: it is no coroutine function
            return functools.partial(self._asgi, arguments[0])
        return self._wsgi(*arguments)

    def _wsgi(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        host = environ.get("HTTP_HOST")
        sent = [name[5:].lower().replace("_", "-") for name in environ if name.startswith("HTTP_")]
        version = environ.get("SERVER_PROTOCOL", "").removeprefix("HTTP/")
        request = Request(
            method=environ.get("REQUEST_METHOD", ""),
            query=environ.get("QUERY_STRING", ""),
            client=environ.get("REMOTE_ADDR"),
            hosts=() if host is None else (host,),
            is_forwarded=is_forwarded(sent, version),
        )
        response = self._respond(request)
        start_response(f"{response.status} {HTTPStatus(response.status).phrase}", response.headers)
        return [b"" if request.method == "HEAD" else response.body]

    async def _asgi(
        self,
        scope: dict[str, Any],
        receive: Callable[[], Awaitable[dict[str, Any]]],
        send: Callable[[dict[str, Any]], Awaitable[None]],
    ) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] == "http":
            request = _asgi_request(scope)
            response = self._respond(request)
            headers = [(name.lower().encode(), value.encode()) for name, value in response.headers]
            await send({"type": "http.response.start", "status": response.status, "headers": headers})
            body = b"" if request.method == "HEAD" else response.body
            await send({"type": "http.response.body", "body": body})
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            raise ValueError(f"the debug page knows no connection of type {scope['type']!r}")

    def _respond(self, request: Request) -> _Response:
        if request.method not in ("GET", "HEAD"):
            return _Response.refusing(405, "the debug page can only be read", ("Allow", "GET, HEAD"))
        refusal = self._access.refusal(request)
        if refusal is not None:
            return _Response.refusing(403, refusal)
        wanted = _wanted(request.query)
        if wanted not in _FORMATS:
            return _Response.refusing(400, f"there are the formats {', '.join(_FORMATS)}")
        kind, write = _FORMATS[wanted]
        return _Response(200, kind, write())


_FORMATS: dict[str, tuple[str, Callable[[], str]]] = {
    "html": ("text/html", lambda: _debug_page.render(figures())),
    "text": ("text/plain", dump),
    "json": ("application/json", lambda: json.dumps(figures().as_dict())),
}


def _wanted(query: str) -> str:
    """Return the format that a request asks for; what makes no sense is none that there is."""
    try:
        found = parse_qs(query, max_num_fields=100).get("format", ["html"])
    except ValueError:
        return ""
    return found[0] if len(found) == 1 else ""


def _asgi_request(scope: dict[str, Any]) -> Request:
    headers = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in scope["headers"]]
    client = scope.get("client")
    return Request(
        method=scope["method"],
        query=scope.get("query_string", b"").decode("latin-1"),
        client=client[0] if client else None,
        hosts=tuple(value for name, value in headers if name == "host"),
        is_forwarded=is_forwarded((name for name, _ in headers), scope.get("http_version", "")),
    )


async def _live(
    receive: Callable[[], Awaitable[dict[str, Any]]], send: Callable[[dict[str, Any]], Awaitable[None]]
) -> None:
    """Agree to a server's start and end, of which the page has nothing to do."""
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


#: The debug page for clients on this machine.
app = DebugApp()


def serve(port: int = 0, *, app: DebugApp = app) -> DebugServer:
    """Serve the debug page on a port of this machine's loopback, in a thread that ends with the process.

    Args:
        port: The port; 0 for any that is free, which the result tells.
        app: What to serve, if it is not the page for clients on this machine.

    Returns:
        The running server, a context manager with `url` and `close()`.

    Raises:
        PortForbiddenError: If this process may not have the port, as one below 1024 without a privilege.
        PortInUseError: If another server has the port.
        TypeError: If the port is no number, or the application none.
        ValueError: If it is out of range.

    Example:
        >>> from saferocks import debug
        >>> with debug.serve() as server:
        ...     server.url.startswith("http://127.0.0.1:")
        True
    """
    return DebugServer(app, port)
