"""From where files may be fetched: rows come from anywhere, and must not make this machine ask what only it can reach.

Without a list, files come from every host with a public address. With one (``input.file_hosts``), they come from the hosts in it
and from no others, and these may have private addresses as well. Pure: what is checked are the addresses that a name was
resolved to, by whoever is about to connect to them.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from ..core import redacted

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_LABEL = r"[^\s\x00-\x1f/?#@:\[\]\\*%]+"
_NAME = re.compile(rf"(\*\.)?{_LABEL}")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_WANTED = (
    "a host such as 'files.example.com', '*.example.com', '10.0.0.7:8000' or '10.0.0.0/8', or '*' for all public ones"
)


class _Entry(NamedTuple):
    """One of the list: a ``name``, or all that end so, or a ``network``; at any port, or at that."""

    name: str = ""
    is_suffix: bool = False
    network: _Network | None = None
    port: int | None = None

    def has(self, host: str, address: _Address | None, port: int) -> bool:
        if self.port not in (None, port):
            return False
        if self.network is not None:
            return address is not None and address in self.network
        return host.endswith("." + self.name) if self.is_suffix else host == self.name


class FileHosts:
    """Decides where a file may be fetched from. ``listed`` are the entries of ``input.file_hosts``, ``None`` if there is none.

    :raises ValueError: if an entry is none, with a sentence.
    """

    def __init__(self, listed: Sequence[str] | None = None) -> None:
        self._allows_public = listed is None or "*" in listed
        self._entries = [_entry(each) for each in listed or () if each != "*"]

    def refusal(self, host: str, port: int) -> str | None:
        """What is wrong with a host, as far as its name alone tells: a sentence that does not name the file."""
        name, address = _plain(host), address_of(host)
        if any(each.has(name, address, port) for each in self._entries):
            return None
        if not self._allows_public:
            # A network of the list may have the address of the name, which is not known before it is looked up.
            may_be = address is None and any(each.network is not None for each in self._entries)
            return None if may_be else _unlisted(host)
        is_local = name == "localhost" or name.endswith(".localhost")
        return _private(host, host) if is_local or (address is not None and not is_public(address)) else None

    def refusal_of_address(self, host: str, address: str, port: int) -> str | None:
        """The same, of an address that the host has: of one to connect to."""
        found, is_named = address_of(address), self._is_named(_plain(host), port)
        if found is None:
            return f"is at {host}, whose address {address} cannot be read"
        if any(each.has("", found, port) for each in self._entries if each.network is not None):
            return None
        if not (self._allows_public or is_named):
            return _unlisted(host)
        if is_public(found):
            return None
        return _private(host, address) if _is_no_servers(found) or not is_named else None

    def _is_named(self, name: str, port: int) -> bool:
        return any(each.has(name, None, port) for each in self._entries)


def _unlisted(host: str) -> str:
    return f"is at {host}, which is none of the hosts that input.file_hosts names; add it there to fetch files from it"


def _private(host: str, address: str) -> str:
    which = f"at {host}" if address == host else f"at {host}, whose address is {address}"
    if (found := address_of(address)) is not None and _is_no_servers(found):
        return f"is {which}: no public address, nor one that a server of files has; nothing is fetched from there"
    return (
        f"is {which}: no public address, and nothing is fetched from such ones unless input.file_hosts names the host "
        f'(file_hosts = ["{host}"] under [input], "*" beside it for all public ones)'
    )


def _is_no_servers(address: _Address) -> bool:
    """The addresses of cloud metadata are link-local: a name alone never leads there, and nobody is told how to allow it."""
    return address.is_link_local or address.is_multicast or address.is_unspecified


def fault_in(listed: Sequence[str]) -> str | None:
    """What is wrong with a list of hosts."""
    try:
        FileHosts(listed)
    except ValueError as error:
        return str(error)
    return None


def _entry(text: str) -> _Entry:
    fault = ValueError(f"{text!r:.100} is no host: each must be {_WANTED}")
    if "/" in text:
        try:
            return _Entry(network=ipaddress.ip_network(text, strict=False))
        except ValueError:
            raise fault from None
    host, port = text, None
    if (found := re.fullmatch(r"(\[[^\]]+\]|[^:]+):([0-9]{1,5})", text)) is not None:
        host, port = found[1], int(found[2])
    if (address := address_of(host)) is not None:
        return _Entry(network=ipaddress.ip_network(address), port=port)
    if not _NAME.fullmatch(host) or port == 0 or (port or 0) > 65_535:
        raise fault
    return _Entry(_plain(host.removeprefix("*.")), host.startswith("*."), port=port)


def _plain(host: str) -> str:
    """A name as it is compared."""
    name = host.rstrip(".").lower()
    try:
        return name if name.isascii() else name.encode("idna").decode()
    except UnicodeError:
        return name


def address_of(text: str) -> _Address | None:
    """The address that a text is, if it is one and no name."""
    try:
        found = ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def is_public(address: _Address) -> bool:
    """Whether everybody reaches the same under this address. One that stands for another is judged by that."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not (address.is_multicast or address.is_reserved)


def shown(url: str) -> str:
    """A URL for people, without user, password and keys."""
    return redacted(url)


def fault_of_url(url: str) -> str | None:
    """What is wrong with an address that a file is to be fetched from, whatever its host: a sentence that does not name it."""
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_one = False
    if not is_one or not url.isprintable() or " " in url:
        return "is no address that a file can be fetched from (http:// or https://)"
    return None


def host_of(url: str) -> tuple[str, int]:
    """Host and port of a URL without faults."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
