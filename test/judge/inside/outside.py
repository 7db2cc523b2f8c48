"""
The world around the mail server, in a network of its own: strangers who send mail, hosts that get mail, and DNS.

    outside.py DIRECTORY

10.99.0.2 sends, and answers DNS; 10.99.0.3 is the MX of example.net; 10.99.0.4 is a smarthost that demands a login
at ports 587 and 465, and none at 25. Orders come as lines of JSON through the socket DIRECTORY/outside.
"""

import concurrent.futures
import contextlib
import ipaddress
import json
import pathlib
import socket
import socketserver
import ssl
import sys
import threading

import client
from smtpserver import Server

HOST, STRANGER, SINK, SMARTHOST = "10.99.0.1", "10.99.0.2", "10.99.0.3", "10.99.0.4"
LOGIN = ("relayuser", "not-in any#log")

ADDRESSES = {
    "mail.example.com": HOST,
    "client.example.net": STRANGER,
    "dns.example.net": STRANGER,
    "mx.example.net": SINK,
    "smarthost.example.net": SMARTHOST,
    # On a list of senders of spam.
    "2.0.0.127.bl.example.net": "127.0.0.2",
    "99.113.0.203.bl.example.net": "127.0.0.2",
}
# Lists that have everybody: one that nobody keeps any more, one that does not answer open resolvers.
EVERYBODY = {".gone.example.net": "127.0.0.2", ".open.example.net": "127.255.255.254"}
EXCHANGERS = {
    "example.net": "mx.example.net",
    "example.biz": "mx.example.net",
    "example.com": "mail.example.com",
    "mail.example.com": "mail.example.com",
    "example.org": "mail.example.com",
    "example.info": "mail.example.com",
}
A, NS, CNAME, SOA, PTR, MX, AAAA = 1, 2, 5, 6, 12, 15, 28


def encode(name):
    """A name as DNS sends it."""
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label) + b"\0"


def records(name, kind):
    """``(whether the name exists, [data of its records])``."""
    name = name.lower()
    if name.endswith(".in-addr.arpa"):
        address = ".".join(reversed(name.split(".")[:4]))
        owner = next((one for one, where in ADDRESSES.items() if where == address), None)
        return owner is not None, [encode(owner)] if owner and kind == PTR else []
    lists = [address for end, address in EVERYBODY.items() if name.endswith(end)]
    address = ADDRESSES.get(name) or (lists[0] if lists else None)
    if kind == A and address:
        return True, [ipaddress.ip_address(address).packed]
    if kind == MX and name in EXCHANGERS:
        return True, [b"\0\12" + encode(EXCHANGERS[name])]
    return bool(address) or name in EXCHANGERS or name == "", []


def answer(query):
    """The DNS message that answers one."""
    labels, place = [], 12
    while length := query[place]:
        labels.append(query[place + 1 : place + 1 + length].decode(errors="replace"))
        place += 1 + length
    kind = int.from_bytes(query[place + 1 : place + 3], "big")
    question = query[12 : place + 5]
    exists, found = records(".".join(labels), kind)
    flags = b"\x85\x80" if exists else b"\x85\x83"
    counts = (1, len(found), 0, 0)
    head = query[:2] + flags + b"".join(number.to_bytes(2, "big") for number in counts)
    body = b"".join(
        b"\xc0\x0c" + kind.to_bytes(2, "big") + b"\0\1\0\0\0\x3c" + len(data).to_bytes(2, "big") + data
        for data in found
    )
    return head + question + body


def serve_names():
    """Answer DNS by UDP for ever."""
    door = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    door.bind((STRANGER, 53))
    while True:
        query, peer = door.recvfrom(2000)
        with contextlib.suppress(IndexError, OSError):
            door.sendto(answer(query), peer)


class Mail:
    """What the hosts outside have got."""

    def __init__(self):
        self.messages = []

    def taker(self, host):
        """A function that takes mail for one of the hosts."""

        def take(sender, recipients, text):
            self.messages.append(
                {
                    "host": host,
                    "sender": sender,
                    "recipients": recipients,
                    "text": text.decode(errors="replace"),
                }
            )
            return "250 2.0.0 taken"

        return take


class Orders(socketserver.StreamRequestHandler):
    """One connection of the worker: a line of JSON for each order, and for each answer."""

    def handle(self):
        for line in self.rfile:
            order = json.loads(line)
            if "send" in order:
                with concurrent.futures.ThreadPoolExecutor(16) as pool:
                    result = list(pool.map(client.send, order["send"]))
            elif order.get("forget"):
                self.server.mail.messages.clear()
                result = True
            else:
                result = self.server.mail.messages
            self.wfile.write(json.dumps(result).encode() + b"\n")


class Door(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Where orders come."""

    daemon_threads = True


def main(directory):
    """Serve for ever."""
    directory = pathlib.Path(directory)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(directory / "smarthost.pem")
    threading.Thread(target=serve_names, daemon=True).start()
    mail = Mail()
    Server((SINK, 25), mail.taker("sink"), tls=tls)
    smarthost = mail.taker("smarthost")
    Server((SMARTHOST, 25), smarthost, tls=tls)
    Server((SMARTHOST, 587), smarthost, tls=tls, login=LOGIN)
    Server((SMARTHOST, 465), smarthost, tls=tls, implicit=True, login=LOGIN)
    # A smarthost of another time: no TLS, no login.
    Server((SMARTHOST, 2525), smarthost)
    path = directory / "outside"
    path.unlink(missing_ok=True)
    with Door(str(path), Orders) as door:
        door.mail = mail
        door.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
