"""
Send numbered mail all the time, and knock on port 25 every 100 ms, until SIGTERM.

    client.py RECIPIENT SESSIONS OUTPUT [SECONDS between two of one session]

Each session writes a line per message into OUTPUT/sent and the knocking one a line per connection into
OUTPUT/knocks: when it began (Unix time), seconds that it took, what came of it, and the message's number.
``ok`` is a 250 after DATA, for a knock a 220; ``refused`` and ``dropped`` are connections that got no banner;
anything else is the reply, or the step at which the connection broke.
"""

import contextlib
import pathlib
import signal
import smtplib
import sys
import threading
import time

TIMEOUT = 60

recipient, sessions, output = sys.argv[1], int(sys.argv[2]), pathlib.Path(sys.argv[3])
pause = float(sys.argv[4]) if len(sys.argv) > 4 else 0.1
stopped = threading.Event()
writing = threading.Lock()


def connect():
    """A connection that has had its 220; else a text that says what was in its place."""
    try:
        client = smtplib.SMTP(timeout=TIMEOUT)
        code, text = client.connect("127.0.0.1", 25)
        return client if code == 220 else f"banner: {code} {text.decode()}"
    except ConnectionRefusedError:
        return "refused"
    except (OSError, smtplib.SMTPException):
        return "dropped"


def send(number):
    """Send a message; what came of it."""
    client = connect()
    if isinstance(client, str):
        return client
    text = f"X-Number: {number}\r\nSubject: number {number}\r\n\r\nhello\r\n"
    try:
        for step, argument in (
            (client.ehlo, "localhost"),
            (client.mail, "sender@example.org"),
            (client.rcpt, recipient),
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


def knock(_):
    """Connect, and leave after the banner."""
    client = connect()
    if isinstance(client, str):
        return client
    with contextlib.suppress(OSError, smtplib.SMTPException):
        client.quit()
    return "ok"


def repeat(action, session, name):
    """Do something again and again, a line for each time."""
    with open(output / name, "a", encoding="utf-8", buffering=1) as lines:
        while not stopped.is_set():
            number, began = f"{session}-{time.time_ns()}", time.time()
            outcome = action(number).replace("\n", " ").replace("\t", " ")
            with writing:
                lines.write(f"{began:.3f}\t{time.time() - began:.3f}\t{number}\t{outcome}\n")
            stopped.wait(max(0, began + pause - time.time()))


def main():
    """Start all sessions, and wait for the end."""
    output.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    jobs = [(knock, "knock", "knocks")] + [(send, str(number), "sent") for number in range(sessions)]
    threads = [threading.Thread(target=repeat, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


main()
