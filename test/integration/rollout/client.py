"""
Send numbered mail to many servers all the time, until SIGTERM.

    client.py OUTPUT NAME=ADDRESS...

Each message is a line of OUTPUT: when it began (Unix time), seconds that it took, the server's name, the message's
number, and what came of it: ``ok`` is a 250 after DATA; ``refused`` and ``dropped`` are connections that got no
banner; anything else is the reply, or the step at which the connection broke.
"""

import contextlib
import signal
import smtplib
import sys
import threading
import time

PAUSE = 0.25
TIMEOUT = 60

output, servers = sys.argv[1], dict(word.split("=") for word in sys.argv[2:])
stopped = threading.Event()


def send(name, address, number):
    """Send a message; what came of it."""
    client = smtplib.SMTP(timeout=TIMEOUT)
    try:
        code, _ = client.connect(address, 25)
    except ConnectionRefusedError:
        return "refused"
    except (OSError, smtplib.SMTPException):
        return "dropped"
    if code != 220:
        return f"banner: {code}"
    text = f"X-Number: {number}\r\nSubject: number {number}\r\n\r\nhello\r\n"
    try:
        for step, argument in (
            (client.ehlo, "client.example.org"),
            (client.mail, "sender@example.org"),
            (client.rcpt, f"alice@{name}"),
            (client.data, text),
        ):
            code, reply = step(argument)
            if code != 250:
                return f"{step.__name__}: {code} {reply.decode()}"
    except (OSError, smtplib.SMTPException) as error:
        return f"{step.__name__}: {error}"
    finally:
        # The message is the server's already, whatever becomes of the connection.
        with contextlib.suppress(OSError, smtplib.SMTPException):
            client.quit()
    return "ok"


def repeat(name, address, lines):
    """Send to one server again and again, a line for each message."""
    count = 0
    while not stopped.is_set():
        number, began = f"{name}-{count}", time.time()
        outcome = send(name, address, number).replace("\n", " ").replace("\t", " ")
        lines.write(f"{began:.3f}\t{time.time() - began:.3f}\t{name}\t{number}\t{outcome}\n")
        count += 1
        stopped.wait(max(0, began + PAUSE - time.time()))


def main():
    """Start a session for each server, and wait for the end."""
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    with open(output, "a", encoding="utf-8", buffering=1) as lines:
        threads = [threading.Thread(target=repeat, args=(*server, lines)) for server in servers.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


main()
