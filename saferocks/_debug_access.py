"""Who may see the debug page: clients on this machine, who say so in their requests, unless told otherwise."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

LOOPBACK = ("127.0.0.0/8", "::1/128")
#: Headers that only a proxy sends: its client is somewhere else, whoever connects to us.
_FORWARDING = frozenset(
    {"cdn-loop", "cf-connecting-ip", "client-ip", "fastly-client-ip", "forwarded", "forwarded-for", "true-client-ip"}
    | {"via", "x-client-ip", "x-cluster-client-ip", "x-envoy-external-address", "x-original-forwarded-for", "x-real-ip"}
)
#: A name as browsers send it.
_NAME = re.compile(r"[a-z0-9._-]+")
#: An IPv6 address in brackets, or a name or an IPv4 address, and perhaps a port.
_HOST = re.compile(r"(?:\[([^\[\]]*:[^\[\]]*)\]|([^:\[\]]*))(?::[0-9]*)?")


@dataclass(frozen=True)
class Request:
    """A request, as ASGI and WSGI both can give it.

    Attributes:
        method: Its method.
        query: The part of its address after the question mark.
        client: The address of whoever connects, or None if the server does not know.
        hosts: Its Host headers, of which there is to be one.
        is_forwarded: Whether it came through a proxy.
    """

    method: str
    query: str
    client: str | None
    hosts: tuple[str, ...]
    is_forwarded: bool


@dataclass(frozen=True)
class Access:
    """Who is let in.

    Attributes:
        clients: The networks from which one may connect.
        hosts: The names under which the page may be asked for, besides this machine's own.
        behind_proxy: Whether requests through a proxy are let in; it decides then who its clients are.
    """

    clients: tuple[Network, ...]
    hosts: frozenset[str]
    behind_proxy: bool

    def refusal(self, request: Request) -> str | None:
        """Say why a request is refused, or return None."""
        if not request.client:  # a Unix socket has no addresses; only who trusts what is at its other end lets that in
            if not self.behind_proxy:
                return "the server does not tell who connects; behind a proxy, use DebugApp(behind_proxy=True)"
        elif not self._is_near(request.client):
            return "the debug page is for clients on this machine; let others in with DebugApp(clients=[...])"
        if request.is_forwarded and not self.behind_proxy:
            return "the request came through a proxy; let such in with DebugApp(behind_proxy=True)"
        if len(request.hosts) != 1 or not self._is_ours(request.hosts[0]):
            # A page elsewhere can have its own name resolve to this machine; the browser then sends that name.
            return "the Host of the request is no name of this machine; add it with DebugApp(hosts=[...])"
        return None

    def _is_near(self, client: str) -> bool:
        address = _address(client)
        return address is not None and any(address in network for network in self.clients)

    def _is_ours(self, host: str) -> bool:
        name = _name_in(host)
        address = _address(name)
        return name == "localhost" or name in self.hosts or (address is not None and address.is_loopback)


def is_forwarded(headers: Iterable[str], version: str) -> bool:
    """Tell whether a request came through a proxy, as far as it shows.

    Args:
        headers: The names of its headers, in small letters.
        version: That of HTTP. nginx asks in 1.0 unless told otherwise, with no header of its own; browsers never do.
    """
    return version == "1.0" or any(name in _FORWARDING or name.startswith("x-forwarded") for name in headers)


def make_access(clients: Iterable[str], hosts: Iterable[str], behind_proxy: bool) -> Access:
    """Check what a program says of who is let in.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If a network or a name is none.
    """
    networks = tuple(map(ipaddress.ip_network, _strings("clients", clients)))
    names = frozenset(map(_own_name, _strings("hosts", hosts)))
    if not isinstance(behind_proxy, bool):
        raise TypeError(f"behind_proxy is {behind_proxy!r}; give True or False")
    return Access(networks, names, behind_proxy)


def _strings(name: str, given: object) -> list[str]:
    found = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [None]
    strings = [each for each in found if isinstance(each, str)]
    if len(strings) != len(found):
        raise TypeError(f"{name} is {given!r}; give a list of strings")
    return strings


def _own_name(host: str) -> str:
    name = _name_in(host)
    if not _NAME.fullmatch(name) and _address(name) is None:
        raise ValueError(f'hosts has {host!r}, which is no name; give names as browsers send them: "debug.example.org"')
    return name


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, ipaddress.IPv6Address) else found


def _name_in(host: str) -> str:
    """Return the name or address in a Host header without its port; what is written otherwise is no name."""
    found = _HOST.fullmatch(host)
    if found is None:
        return host.lower() if _address(host) else ""
    return (found[1] or found[2]).lower().removesuffix(".")
