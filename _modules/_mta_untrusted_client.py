"""TODO subject (mta_probe)."""

import contextlib
import errno
import os
import socket
import struct

# TEST-NET-1 (RFC 5737) and the documentation prefix (RFC 3849): nobody's addresses, in nobody's mynetworks.
STRANGERS = {socket.AF_INET: "192.0.2.25", socket.AF_INET6: "2001:db8::25"}
RTM_NEWROUTE, RTM_DELROUTE = 24, 25
NLM_F_REQUEST, NLM_F_ACK, NLM_F_CREATE = 0x1, 0x4, 0x400
RT_TABLE_LOCAL, RTPROT_BOOT, RT_SCOPE_HOST, RTN_LOCAL = 255, 3, 254, 2
RTA_DST, RTA_OIF = 1, 4


def address_family(host):
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _local_route(add, address):
    """
    Add or delete ``ip route … local ADDRESS dev lo``; return the errno (rtnetlink(7)).

    It makes the address usable on this host without giving it to an interface, so that
    ``mynetworks_style = host`` does not trust it.
    """
    family = address_family(address)
    packed = socket.inet_pton(family, address)
    route = struct.pack(
        "=BBBBBBBBI", family, len(packed) * 8, 0, 0, RT_TABLE_LOCAL, RTPROT_BOOT, RT_SCOPE_HOST, RTN_LOCAL, 0
    )
    route += struct.pack("=HH", 4 + len(packed), RTA_DST) + packed
    route += struct.pack("=HHi", 8, RTA_OIF, socket.if_nametoindex("lo"))
    kind = RTM_NEWROUTE if add else RTM_DELROUTE
    flags = NLM_F_REQUEST | NLM_F_ACK | (NLM_F_CREATE if add else 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(2)
        netlink.send(struct.pack("=IHHII", 16 + len(route), kind, flags, 1, 0) + route)
        return -struct.unpack_from("=i", netlink.recv(4096), 16)[0]


def own_address(family):
    """The address from which this host speaks to others; ``None`` without one. Nothing is sent."""
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect((STRANGERS[family], 25))
        except OSError:
            return None
        address = sock.getsockname()[0]
    return None if address == "::1" or address.startswith("127.") else address


@contextlib.contextmanager
def stranger(family):
    """The address of a stranger, usable meanwhile. Raises ``OSError`` where it cannot be had."""
    address = STRANGERS[family]
    code = _local_route(True, address)
    if code not in (0, errno.EEXIST):
        raise OSError(code, os.strerror(code))
    try:
        yield address
    finally:
        _local_route(False, address)
