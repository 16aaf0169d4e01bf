"""Where the server may be sent to by a caller: public addresses over TLS, and what the operator allows by name."""

import ipaddress
import socket
from collections.abc import Collection
from urllib.parse import SplitResult, urlsplit

from sotediffusion.types import UserError

_LONGEST = 2000  # characters
_INNER = tuple(  # public to the eye, but a way round to IPv4 addresses that may not be
    ipaddress.ip_network(network) for network in ("64:ff9b::/32", "2002::/16", "2001::/32", "::/96", "::ffff:0:0/96", "fec0::/10")
)


def check_url(url: str, allowed: Collection[str] = (), field: str = "webhook") -> SplitResult:
    """The parts of a URL that may be called, as far as can be told without asking for its address.

    https to any host that is no private address; the hosts in `allowed`, each `host` or `host:port`, also by http and at any
    address. UserError, under the name `field`, for every other.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    plain = len(url) <= _LONGEST and url.isascii() and all("!" <= character <= "~" for character in url)
    if not plain or not host or parts.username is not None or parts.scheme not in ("https", "http"):
        raise UserError(field, f"{url[:80]!r} is no address to call; give https://host/path, in ASCII and without a password")
    if not allowed_by_name(parts, allowed) and (parts.scheme != "https" or port == 0 or _is_inner(host)):
        raise UserError(field, f"{parts.scheme}://{parts.netloc[:80]} is not called; give https://host/path at a public address")
    return parts


def allowed_by_name(parts: SplitResult, allowed: Collection[str]) -> bool:
    return parts.hostname in allowed or f"{parts.hostname}:{parts.port or _port(parts)}" in allowed


def resolve(parts: SplitResult, allowed: Collection[str] = ()) -> tuple[str, int]:
    """The address and port to connect to, to be used as they are: a name asked for twice may answer differently.

    A name of which any address is not public is refused whole. Raises OSError, PermissionError among them.
    """
    port = parts.port or _port(parts)
    found = [str(entry[4][0]) for entry in socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)]
    if not allowed_by_name(parts, allowed):
        inner = [address for address in found if not is_public(address)]
        if inner:
            raise PermissionError(f"{parts.hostname} has an address that is not public")
    return found[0], port


def is_public(address: str) -> bool:
    """Whether an address is one of the open internet: not private, local, shared, reserved, multicast or a tunnel to such."""
    ip = ipaddress.ip_address(address)
    tunnel = any(ip.version == network.version and ip in network for network in _INNER)
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified or tunnel)


def _is_inner(host: str) -> bool:
    try:
        return not is_public(host)
    except ValueError:  # a name
        name = host.rstrip(".")
        return name == "localhost" or name.endswith((".localhost", ".local", ".internal"))


def _port(parts: SplitResult) -> int:
    return 443 if parts.scheme == "https" else 80
