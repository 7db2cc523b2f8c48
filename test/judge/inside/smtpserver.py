"""A small SMTP server that hands what it gets to a function; for sinks, smarthosts and content filters."""

import base64
import contextlib
import socket
import threading


class Session:
    """One conversation with a client."""

    def __init__(self, server, connection):
        self.server = server
        self.connection = connection
        self.stream = connection.makefile("rwb")
        self.encrypted = server.implicit
        self.user = None
        self.sender, self.recipients = None, []

    def say(self, text):
        """Send a reply."""
        self.stream.write(text.encode() + b"\r\n")
        self.stream.flush()

    def ask(self, challenge):
        """Send a challenge of AUTH; the decoded answer."""
        self.say(f"334 {base64.b64encode(challenge).decode()}")
        return base64.b64decode(self.stream.readline().strip())

    def start_tls(self):
        """Continue under TLS."""
        self.say("220 go ahead")
        self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
        self.stream = self.connection.makefile("rwb")
        self.encrypted = True

    def log_in(self, words):
        """AUTH PLAIN or LOGIN."""
        mechanism, initial = words[0].upper(), words[1] if len(words) > 1 else None
        if mechanism == "PLAIN":
            answer = base64.b64decode(initial) if initial else self.ask(b"")
            _, user, password = answer.split(b"\0")
        else:
            user = base64.b64decode(initial) if initial else self.ask(b"Username:")
            password = self.ask(b"Password:")
        if (user.decode(), password.decode()) == self.server.login:
            self.user = user.decode()
            self.say("235 2.7.0 welcome")
        else:
            self.say("535 5.7.8 authentication failed")

    def greet(self):
        """What EHLO is answered."""
        lines = ["sink", "PIPELINING", "SIZE 50000000", "8BITMIME", "ENHANCEDSTATUSCODES"]
        if self.server.tls and not self.encrypted:
            lines.append("STARTTLS")
        if self.server.login and (self.encrypted or not self.server.tls):
            lines.append("AUTH PLAIN LOGIN")
        for line in lines[:-1]:
            self.say(f"250-{line}")
        self.say(f"250 {lines[-1]}")

    def serve(self):
        """Talk until the client leaves."""
        self.say("220 sink ESMTP")
        while line := self.stream.readline():
            verb, _, rest = line.decode(errors="replace").strip().partition(" ")
            verb = verb.upper()
            if verb in ("EHLO", "LHLO", "HELO"):
                self.greet()
            elif verb == "STARTTLS" and self.server.tls and not self.encrypted:
                self.start_tls()
            elif verb == "AUTH" and self.server.login:
                self.log_in(rest.split())
            elif verb == "MAIL":
                if self.server.login and self.user is None:
                    self.say("530 5.7.0 log in first")
                    continue
                self.sender, self.recipients = rest.partition("<")[2].partition(">")[0], []
                self.say("250 2.1.0 ok")
            elif verb == "RCPT":
                self.recipients.append(rest.partition("<")[2].partition(">")[0])
                self.say("250 2.1.5 ok")
            elif verb == "DATA":
                self.say("354 go on")
                lines = iter(self.stream.readline, b".\r\n")
                text = b"".join(one[1:] if one.startswith(b"..") else one for one in lines)
                self.say(self.server.deliver(self.sender, self.recipients, text))
            elif verb == "QUIT":
                self.say("221 2.0.0 bye")
                return
            else:
                self.say("250 2.0.0 ok")


class Server:
    """
    Listens at ``address`` (host, port).

    deliver: function of sender, recipients and message (bytes) that returns the reply. tls: an SSL context; with
    ``implicit`` TLS from the first byte. login: user name and password that are demanded.
    """

    def __init__(self, address, deliver, tls=None, implicit=False, login=None):
        self.deliver, self.tls, self.implicit, self.login = deliver, tls, implicit, login
        self.listener = socket.create_server(address, backlog=50)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        """Serve every client in a thread of its own."""
        while True:
            connection = self.listener.accept()[0]
            threading.Thread(target=self.talk, args=[connection], daemon=True).start()

    def talk(self, connection):
        """One client."""
        connection.settimeout(60)
        with contextlib.suppress(OSError, ValueError):
            if self.implicit:
                connection = self.tls.wrap_socket(connection, server_side=True)
            with connection:
                Session(self, connection).serve()
