"""HTTP(S) with address checks: no private hosts unless allowed, also behind redirects."""

from __future__ import annotations

import http.client
import ipaddress
import queue
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import SplitResult, quote, urlsplit

from seats_cli.errors import LocalAddressError, MediaError

_PORTS = {"http": 80, "https": 443}
_SAFE = "/%:@!$&'()*+,;=~?-._[]"  # what stands unquoted in a request; a % is taken as quoting
_HEADERS = {"User-Agent": "seats", "Accept": "*/*", "Accept-Encoding": "identity"}
_TRIES = 4  # of a name's addresses
# IPv6 ranges that carry an IPv4 address in their last 32 bits (NAT64, RFC 6052 and 8215).
_TRANSLATED = (
    ipaddress.ip_network("64:ff9b::/96"),
    ipaddress.ip_network("64:ff9b:1::/48"),
)


def resolve(host: str, timeout_s: float) -> list[str]:
    """All addresses of a name.

    The system's resolver has no time-out and cannot be interrupted, so it runs in a thread of
    its own, which is left behind if it takes too long.

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
        If the name is not known or the resolver does not answer in time.
    """
    results: queue.Queue[list[str] | Exception] = queue.Queue()

    def look_up() -> None:
        try:
            found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            results.put([str(where[0]) for *_, where in found])
        except (OSError, UnicodeError) as error:
            results.put(error)

    threading.Thread(target=look_up, daemon=True).start()
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
    LocalAddressError
        If an address is private, loopback, link-local or otherwise not public.
    """
    for address in addresses:
        if not is_public(address):
            raise LocalAddressError(
                f"{host} is an address of this machine or its own network; "
                "`allow_local_urls` permits fetching from there."
            )


def is_public(address: str) -> bool:
    """Whether an IPv4 or IPv6 address belongs to the public internet."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    reached: list[ipaddress.IPv4Address | ipaddress.IPv6Address | None] = [ip]
    if ip.version == 6:  # it may carry an IPv4 address, to which a gateway forwards
        reached += [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        if any(ip in network for network in _TRANSLATED):
            reached.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    return all(one.is_global and not one.is_multicast for one in reached if one is not None)


@dataclass(frozen=True)
class Timeouts:
    """Seconds to wait."""

    # For the address of a name or a connection, and for the next bytes.
    connect_s: float = 10.0
    silence_s: float = 30.0
    # Until the head of the response has arrived, and until all of it has.
    answer_s: float = 60.0
    total_s: float = 3600.0


@dataclass(frozen=True)
class Response:
    """A response whose head has arrived; the body is read from `head` too."""

    host: str
    head: http.client.HTTPResponse
    sock: socket.socket
    timeouts: Timeouts

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Bound the time of everything inside; its errors become a `MediaError`."""
        with _guarded(self.host, self.sock, self.timeouts, self.timeouts.total_s):
            yield


@contextmanager
def request(url: str, *, allow_local_urls: bool, timeouts: Timeouts) -> Iterator[Response]:
    """Send a GET request; redirects are not followed.

    A name is looked up once and the address that was checked is the one connected to, so
    that a name server cannot answer differently in between. Proxies are not used, because
    they would look names up themselves.

    Parameters
    ----------
    url : str
        ``http://`` or ``https://``.
    allow_local_urls : bool
        Whether addresses of this machine and its network are permitted.

    Raises
    ------
    MediaError
        If the URL is not fetched or there is no response.
    """
    parts = _parse(url)
    host = _ascii_host(parts.hostname or "")
    port = parts.port or _PORTS[parts.scheme]
    path = quote(parts.path or "/", safe=_SAFE)
    query = f"?{quote(parts.query, safe=_SAFE)}" if parts.query else ""
    sock = _connect(host, port, allow_local_urls, timeouts)
    kind: type[http.client.HTTPConnection] = http.client.HTTPConnection
    if parts.scheme == "https":
        kind = http.client.HTTPSConnection
        context = ssl.create_default_context()
        sock = context.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
    connection = kind(host, port)
    connection.sock = sock
    try:
        with _guarded(host, sock, timeouts, timeouts.answer_s):
            if isinstance(sock, ssl.SSLSocket):
                sock.do_handshake()
            connection.request("GET", path + query, headers=_HEADERS)
            response = connection.getresponse()
        with response:
            yield Response(host, response, sock, timeouts)
    finally:
        connection.close()
        sock.close()


@contextmanager
def _guarded(host: str, sock: socket.socket, timeouts: Timeouts, seconds: float) -> Iterator[None]:
    """Cut the connection after some seconds; errors inside become a `MediaError`.

    The socket's own time-out is about one read; a server that sends a byte now and then
    would never run into it.
    """
    late = threading.Event()

    def cut() -> None:
        late.set()
        with suppress(OSError):
            # Not SSLSocket's own, which would pull the state from under a running read.
            socket.socket.shutdown(sock, socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
        if late.is_set():
            raise TimeoutError
    except ssl.SSLCertVerificationError as error:
        raise MediaError(
            f"{host} cannot prove its identity ({error.verify_message}); nothing was fetched."
        ) from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        if late.is_set():
            raise MediaError(
                f"{host} is too slow: not done after {seconds:g} s; try again, or download the "
                "file yourself and pass it."
            ) from error
        raise MediaError(_failure(host, error, timeouts)) from error
    finally:
        timer.cancel()


def _failure(host: str, error: Exception, timeouts: Timeouts) -> str:
    if isinstance(error, TimeoutError):
        return f"{host} sent nothing for {timeouts.silence_s:g} s; try again later."
    if isinstance(error, OSError):
        reason = error.strerror or type(error).__name__
        return f"The connection to {host} failed ({reason}); try again."
    return f"{host} does not answer as a web server does; check the URL."


def _parse(url: str) -> SplitResult:
    shown = printable(url)
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise MediaError(f"This URL cannot be read: {shown}.") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise MediaError(f"Only http and https URLs can be fetched, not {shown}.")
    if parts.username is not None:
        raise MediaError(
            "A URL with a user name in it is not fetched; use another tool and a pipe: "
            "curl URL | seats ask - QUESTION."
        )
    return parts


def printable(text: str) -> str:
    """Text from outside, fit for a terminal: printable and short."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _ascii_host(host: str) -> str:
    try:
        return host if ":" in host else host.encode("idna").decode("ascii")
    except UnicodeError:
        raise MediaError(f"{printable(host)} is not the name of a server.") from None


def _connect(host: str, port: int, allow_local_urls: bool, timeouts: Timeouts) -> socket.socket:
    addresses = resolve(host, timeouts.connect_s)
    if not allow_local_urls:
        check_public(host, addresses)
    failure: OSError | None = None
    for address in addresses[:_TRIES]:
        try:
            sock = socket.create_connection((address, port), timeout=timeouts.connect_s)
        except OSError as error:
            failure = error
        else:
            sock.settimeout(timeouts.silence_s)
            return sock
    if isinstance(failure, TimeoutError):
        raise MediaError(f"{host} did not answer within {timeouts.connect_s:g} s; try again later.")
    raise MediaError(
        f"{host} cannot be reached ({getattr(failure, 'strerror', failure)}); check the URL "
        "and the network (proxies are not used)."
    ) from failure
