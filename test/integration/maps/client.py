"""
Look keys up in tables all the time, until SIGTERM; write what was not the answer of some time to OUTPUT.

    client.py EXPECTED OUTPUT

EXPECTED is a JSON file: ``{table: [[key, [answers]]]}``; an answer is a text, or null for none. It is read again
before each round. The last line of OUTPUT counts the lookups. A table named ``smtpd`` is asked with RCPT TO at
port 25, as a client of the server would; its answers are reply codes.
"""

import json
import signal
import smtplib
import subprocess
import sys

expected, output = sys.argv[1:]
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))


def look_up(table, key):
    """The value, ``None``, or what went wrong."""
    if table == "smtpd":
        try:
            with smtplib.SMTP("127.0.0.1", 25, timeout=30) as client:
                client.ehlo("localhost")
                client.mail("sender@example.org")
                return str(client.rcpt(key)[0])
        except (OSError, smtplib.SMTPException) as error:
            return f"smtpd: {error}"
    done = subprocess.run(["postmap", "-q", key, table], capture_output=True, text=True, check=False)
    if done.stderr:
        return f"error: {done.stderr.strip()}"
    return done.stdout.rstrip("\n") if done.returncode == 0 else None


count = 0
with open(output, "w", encoding="utf-8", buffering=1) as lines:
    while not stopped:
        with open(expected, encoding="utf-8") as handle:
            rounds = json.load(handle)
        for table, questions in rounds.items():
            for key, answers in questions:
                answer = look_up(table, key)
                count += 1
                if answer not in answers:
                    lines.write(f"wrong: {table} {key}: {answer!r}, not one of {answers!r}\n")
    lines.write(f"lookups: {count}\n")
