"""
What mail servers use on their own host: milters, policy services and content filters, good ones and bad ones.

Each has a port of its own: MILTERS, POLICIES and FILTERS below.
"""

import smtplib
import socketserver
import struct
import threading
import time

from smtpserver import Server

# Port to what the milter does, by name of the method.
MILTERS = {
    8891: "good",
    8892: "reject",
    8893: "tempfail",
    8894: "hang",
    8895: "discard",
    8896: "quarantine",
    8897: "break_off",
    8898: "reject_spam",
}
GREYLIST_SECONDS = 1
# Port to what the policy service answers: a function of the request.
POLICIES = {
    10040: lambda request: "DUNNO",
    10041: lambda request: greylist(request),
    10042: lambda request: "REJECT not here",
    10043: lambda request: time.sleep(2) or "DUNNO",
    10044: lambda request: "\n\nHTTP/1.0 400 what?",
    10045: lambda request: None,
    10046: lambda request: "DEFER come again",
    10047: lambda request: "REJECT spam" if request.get("sender", "").startswith("spam@") else "DUNNO",
    10048: lambda request: time.sleep(3600),
    10049: lambda request: "PREPEND X-Policy: seen",
    10050: lambda request: "HOLD",
    10051: lambda request: "DISCARD",
    10052: lambda request: "FILTER smtp:[127.0.0.1]:9",
}
# Port to where the filter sends what it has got; None: it refuses; a text: the reply.
FILTERS = {
    10024: 10025,
    10026: "554 5.7.1 refused by the filter",
    10028: 25,
    10029: "250 2.0.0 taken, and forgotten",
    10030: "451 4.3.0 the filter has no memory left",
}
CONNECT, HELO, MAIL, RCPT, HEADER, END_OF_HEADERS, BODY, END = b"C", b"H", b"M", b"R", b"L", b"N", b"B", b"E"
WITHOUT_REPLY = (b"D", b"A")
# Milter protocol: what it may do (add headers, quarantine), and that it does not want to see the text.
ACTIONS, NO_BODY, VERSION = 0x01 | 0x20, 0x10, 6

seen = {}


def greylist(request):
    """Refuse the first try of a client, sender and recipient, and those that come too soon after it."""
    triplet = tuple(request.get(name) for name in ("client_address", "sender", "recipient"))
    first = seen.setdefault(triplet, time.monotonic())
    return "DUNNO" if time.monotonic() - first > GREYLIST_SECONDS else "DEFER_IF_PERMIT Greylisted"


class Milter(socketserver.StreamRequestHandler):
    """One connection of Postfix; what is done depends on the port."""

    def reply(self, command, data=b""):
        """Send one packet."""
        self.wfile.write(struct.pack("!I", len(data) + 1) + command + data)

    def handle(self):
        """Answer until Postfix leaves."""
        behaviour = getattr(self, MILTERS[self.server.server_address[1]])
        while head := self.rfile.read(4):
            packet = self.rfile.read(struct.unpack("!I", head)[0])
            command, data = packet[:1], packet[1:]
            if command == b"O":
                self.reply(b"O", struct.pack("!III", VERSION, ACTIONS, NO_BODY))
            elif command == b"Q" or (command not in WITHOUT_REPLY and behaviour(command, data) is False):
                return

    def good(self, command, data):
        """Take everything, with one more header."""
        if command == END:
            self.reply(b"h", b"X-Milter\0seen\0")
        self.reply(b"c")

    def reject(self, command, data):
        """Refuse every sender."""
        self.reply(b"r" if command == MAIL else b"c")

    def tempfail(self, command, data):
        """Put every recipient off."""
        self.reply(b"t" if command == RCPT else b"c")

    def hang(self, command, data):
        """Say nothing."""
        time.sleep(3600)

    def discard(self, command, data):
        """Let every message disappear."""
        self.reply(b"d" if command == END else b"c")

    def quarantine(self, command, data):
        """Put every message on hold."""
        if command == END:
            self.reply(b"q", b"looks odd\0")
        self.reply(b"c")

    def break_off(self, command, data):
        """Leave in the middle."""
        if command == MAIL:
            return False
        self.reply(b"c")
        return True

    def reject_spam(self, command, data):
        """Refuse one sender."""
        self.reply(b"r" if command == MAIL and data.startswith(b"<spam@") else b"c")


class Policy(socketserver.StreamRequestHandler):
    """One connection of Postfix; what is answered depends on the port."""

    def handle(self):
        """Answer until Postfix leaves."""
        request = {}
        for line in self.rfile:
            name, equals, value = line.decode(errors="replace").rstrip("\n").partition("=")
            if equals:
                request[name] = value
                continue
            action = POLICIES[self.server.server_address[1]](request)
            if action is None:
                return
            self.wfile.write(f"action={action}\n\n".encode())
            request = {}


class Listener(socketserver.ThreadingTCPServer):
    """A port."""

    allow_reuse_address = daemon_threads = True


def passing_on(where):
    """A function that does with a message what the filter does."""

    def take(sender, recipients, text):
        if isinstance(where, str):
            return where
        with smtplib.SMTP("127.0.0.1", where, "filter.example.com", timeout=30) as client:
            try:
                client.sendmail(sender, recipients, text)
            except smtplib.SMTPResponseException as err:
                # Whoever filters before the queue hands on what he is told.
                return f"{err.smtp_code} {err.smtp_error.decode()}"
            except smtplib.SMTPRecipientsRefused as err:
                code, reply = next(iter(err.recipients.values()))
                return f"{code} {reply.decode()}"
        return "250 2.0.0 passed on"

    return take


def main():
    """Serve for ever."""
    for ports, handler in ((MILTERS, Milter), (POLICIES, Policy)):
        for port in ports:
            server = Listener(("127.0.0.1", port), handler)
            threading.Thread(target=server.serve_forever, daemon=True).start()
    for port, where in FILTERS.items():
        Server(("127.0.0.1", port), passing_on(where))
    threading.Event().wait()


if __name__ == "__main__":
    main()
