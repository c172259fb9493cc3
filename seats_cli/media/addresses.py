"""Which network addresses a video may be fetched from."""

from __future__ import annotations

import ipaddress
import queue
import socket
import threading

from seats_cli.errors import MediaError

# IPv6 ranges that carry an IPv4 address in their last 32 bits (NAT64, RFC 6052 and 8215).
_TRANSLATED = (
    ipaddress.ip_network("64:ff9b::/96"),
    ipaddress.ip_network("64:ff9b:1::/48"),
)


def resolve(host: str, timeout_s: float) -> list[str]:
    """All addresses of a name.

    The system's resolver knows no time-out and cannot be interrupted, so it is asked from a
    thread of its own.

    Parameters
    ----------
    host : str
        A name or an address.
    timeout_s : float
        Seconds to wait.

    Returns
    -------
    list of str
        IPv4 and IPv6 addresses, at least one, in the system's order of preference.

    Raises
    ------
    MediaError
        If the name is not known or nobody answers in time.
    """
    results: queue.Queue[list[str] | Exception] = queue.Queue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            results.put([str(where[0]) for *_, where in found])
        except (OSError, UnicodeError) as error:
            results.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        result = results.get(timeout=timeout_s)
    except queue.Empty:
        raise MediaError(
            f"Looking up the name {host} took over {timeout_s:g} s; check the network."
        ) from None
    if isinstance(result, Exception) or not result:
        raise MediaError(f"The name {host} is not known; check the URL and the network.")
    return list(dict.fromkeys(result))


def check_public(host: str, addresses: list[str]) -> None:
    """Refuse names that lead into this machine or its network.

    Every address counts: a name with one public and one local address is a known trick.

    Raises
    ------
    MediaError
        If an address is private, loopback, link-local or otherwise not public.
    """
    for address in addresses:
        if not is_public(address):
            raise MediaError(
                f"{host} is an address of this machine or its own network; "
                "--allow-local-urls permits fetching from there."
            )


def is_public(address: str) -> bool:
    """Whether an IPv4 or IPv6 address belongs to the public internet."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if ip.is_multicast or not ip.is_global:
        return False
    return ip.version == 4 or all(map(_is_global, _embedded(ip)))


def _embedded(ip: ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """IPv4 addresses that an IPv6 address leads to."""
    found = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
    if any(ip in network for network in _TRANSLATED):
        found.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    return [one for one in found if one is not None]


def _is_global(ip: ipaddress.IPv4Address) -> bool:
    return ip.is_global and not ip.is_multicast
