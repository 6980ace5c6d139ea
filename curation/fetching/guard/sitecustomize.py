"""Keeps a downloader off private networks and within limits of size and time. Runs in another environment.

Python imports a module of this name at its start, also in the processes that a program starts. This folder is put on
the downloader's PYTHONPATH; its limits are in PAS_FETCH_GUARD as JSON:
    allow_private: whether addresses of private networks may be connected to
    allow: [host, port] pairs that may be in any case (the proxies of this machine)
    max_bytes, max_s: of one connection, redirects are further connections
    mark: a file made here, which shows that the guard is at work
Only the standard library of Python 3.8 and later is used.
"""

import ipaddress
import json
import os
import socket
import sys
import time
from typing import Any

# Ranges that carry an IPv4 address: NAT64 and 6to4 (its bits 16 to 48).
NAT64 = ipaddress.ip_network("64:ff9b::/96")
# All that is given out of IPv6. is_global lets more through: site-local fec0::/10, ::/96 and 64:ff9b:1::/48, which
# carry IPv4 addresses too.
UNICAST = ipaddress.ip_network("2000::/3")


def is_public(text: str) -> bool:
    """Whether an IP address is one of the public internet, also where it carries another one."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if address.version == 6:
        inner: Any = address.ipv4_mapped or address.sixtofour
        if inner is None and address.teredo is not None:
            inner = address.teredo[1]
        if inner is None and address in NAT64:
            inner = ipaddress.ip_address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if address not in UNICAST:
            return False
    return address.is_global and not address.is_multicast


def guard_connections(settings: Any) -> None:
    """Refuses connections to addresses that are not public, whatever name or redirect led to them."""
    allowed = {(host, int(port)) for host, port in settings["allow"]}

    def checked(sock: Any, address: Any) -> Any:
        """The address with its name resolved: what is checked is what is connected to."""
        if sock.family not in (socket.AF_INET, socket.AF_INET6) or tuple(address[:2]) in allowed:
            return address
        found = socket.getaddrinfo(address[0], address[1], sock.family, sock.type)[0][4]
        if not settings["allow_private"] and tuple(found[:2]) not in allowed and not is_public(str(found[0])):
            raise PermissionError(f"address of a private network refused: {address[0]}")
        return found

    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex
    guarded: Any = socket.socket
    guarded.connect = lambda sock, address: connect(sock, checked(sock, address))
    guarded.connect_ex = lambda sock, address: connect_ex(sock, checked(sock, address))


def guard_reading(settings: Any) -> None:
    """Ends a connection that sends more than max_bytes, or sends for longer than max_s."""
    readinto = socket.SocketIO.readinto

    def limited(stream: Any, buffer: Any) -> Any:
        now = time.monotonic()
        began = stream.__dict__.setdefault("_began", now)
        if now - began > settings["max_s"]:
            raise TimeoutError(f"slower than {settings['max_s']:g} s")
        count = readinto(stream, buffer)
        stream.__dict__["_bytes"] = stream.__dict__.get("_bytes", 0) + (count or 0)
        if stream.__dict__["_bytes"] > settings["max_bytes"]:
            raise OSError(f"larger than {settings['max_bytes']} bytes")
        return count

    guarded: Any = socket.SocketIO
    guarded.readinto = limited


def guard_schemes() -> None:
    """Only http and https: a redirect may name ftp."""
    import urllib.error
    import urllib.request

    def refuse(handler: Any, request: Any) -> Any:
        raise urllib.error.URLError(f"only http and https are fetched, not {request.full_url[:100]}")

    ftp: Any = urllib.request.FTPHandler
    file: Any = urllib.request.FileHandler
    ftp.ftp_open = file.file_open = refuse


def die_with_parent() -> None:
    """On Linux the system ends this process when the one that started it is gone, however it went."""
    if sys.platform.startswith("linux"):
        import ctypes
        import signal

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def install() -> None:
    """Reads the settings and sets the guards; without settings nothing is changed."""
    text = os.environ.get("PAS_FETCH_GUARD")
    if not text:
        return
    settings = json.loads(text)
    die_with_parent()
    guard_connections(settings)
    guard_reading(settings)
    guard_schemes()
    with open(settings["mark"], "a"):
        pass


try:
    install()
except BaseException:  # Python would go on without its guard
    import traceback

    traceback.print_exc()
    os._exit(70)
