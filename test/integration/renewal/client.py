"""
Make TLS connections to port 25 all the time, in a process for each kind of client, until SIGTERM.

    client.py OUTPUT CA_FILE KIND…

A kind is ``any``, or the one kind of certificate that this client takes: ``aRSA``, ``aECDSA`` (ciphers(1)). Each
verifies chain and host name as Python does by default, and writes a line per connection into OUTPUT/KIND: when it
began (Unix time), and the SHA-256 of the certificate, or what went wrong. A server that has a key which does not
belong to its certificate cannot finish a handshake.
"""

import hashlib
import multiprocessing
import pathlib
import signal
import smtplib
import ssl
import sys
import time

HOST = "mail.example.com"


def connect(ca_file, kind):
    """The certificate that one connection shows, or what went wrong."""
    context = ssl.create_default_context(cafile=ca_file)
    if kind != "any":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(kind)
    try:
        with smtplib.SMTP("127.0.0.1", 25, timeout=60) as client:
            client._host = HOST
            client.starttls(context=context)
            certificate = client.sock.getpeercert(binary_form=True)
    except ConnectionRefusedError:
        return "refused"
    except (OSError, smtplib.SMTPException) as error:
        return f"failed: {error!r}"
    return hashlib.sha256(certificate).hexdigest()


def repeat(output, ca_file, kind):
    """Connect again and again, a line for each time."""
    stopped = []
    signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
    with open(output / kind, "a", encoding="utf-8", buffering=1) as lines:
        while not stopped:
            began = time.time()
            lines.write(f"{began:.3f} {connect(ca_file, kind)}\n")
            time.sleep(0.02)


def main():
    """Start all processes, and end them with this one."""
    output, ca_file = pathlib.Path(sys.argv[1]), sys.argv[2]
    output.mkdir(parents=True, exist_ok=True)
    jobs = [multiprocessing.Process(target=repeat, args=(output, ca_file, kind)) for kind in sys.argv[3:]]
    for job in jobs:
        job.start()
    signal.signal(signal.SIGTERM, lambda *_: [job.terminate() for job in jobs])
    for job in jobs:
        job.join()


main()
