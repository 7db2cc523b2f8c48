"""
A client outside mynetworks: an address of nobody's, from which this host may speak for a while.

The address is a route in this host's local table, not one of an interface's addresses: ``mynetworks_style = host``
does not trust it. Checks that run at the same time share it: each holds the address's lock (in common) while it
uses it, and whoever leaves last removes the route. What a check that was killed has left, the next one removes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator

from salt.exceptions import CommandExecutionError

import _mta_system

# TEST-NET-1 (RFC 5737) and the documentation prefix (RFC 3849): nobody's addresses, in nobody's mynetworks.
ADDRESSES = {socket.AF_INET: "192.0.2.25", socket.AF_INET6: "2001:db8::25"}
SECONDS = 5


def address_family(host: str) -> socket.AddressFamily:
    """Return the family of an address in digits."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def own_address(family: socket.AddressFamily) -> str | None:
    """Return the address from which this host speaks to others; ``None`` without one. Nothing is sent."""
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((ADDRESSES[family], 25))
        except OSError:
            return None
        address: str = sock.getsockname()[0]
    return None if address == "::1" or address.startswith("127.") else address


def _route(action: str, address: str) -> None:
    """``replace`` or ``del`` the local route of an address; see ip-route(8)."""
    if not _mta_system.find_program("ip"):
        raise CommandExecutionError("there is no program ip (package iproute2)")
    family = "-6" if address_family(address) == socket.AF_INET6 else "-4"
    route = ["local", address, "dev", "lo", "table", "local"]
    _mta_system.run(["ip", family, "route", action, *route], timeout=SECONDS)


@contextlib.contextmanager
def foreign_address(family: socket.AddressFamily, folder: str) -> Iterator[str]:
    """
    Return an address outside mynetworks, which can be used in this context.

    folder
        Path of the directory for the lock; it is made when it is not there.

    Raises ``CommandExecutionError`` where it cannot be had, such as without the right to change routes.
    """
    address = ADDRESSES[family]
    path = os.path.join(folder, f"untrusted_client.{address}.lock")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        handle = open(path, "a")  # noqa: SIM115 - held while the address is used
    except OSError as error:
        raise CommandExecutionError(f"Cannot write {path}: {error.strerror or error}") from error
    with handle:
        fcntl.flock(handle, fcntl.LOCK_SH)
        _route("replace", address)
        try:
            yield address
        finally:
            # Who comes now waits until the route is gone, and makes it anew.
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                with contextlib.suppress(CommandExecutionError):
                    _route("del", address)
