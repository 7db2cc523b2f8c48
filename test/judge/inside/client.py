"""A client that sends a message as a real one would, with STARTTLS where it is offered, and tries again."""

import contextlib
import smtplib
import socket
import ssl
import time

PATIENCE = 15
PAUSE = 1.5
ATTEMPTS = 4
TEXT = """\
Received: from desk.example.net (desk.example.net [192.0.2.7]) by client.example.net (Postfix) with ESMTPSA id A1
\tfor <{recipient}>; Thu, 1 Jan 2026 10:00:00 +0000
Received: from [192.0.2.8] by desk.example.net with HTTP; Thu, 1 Jan 2026 09:59:59 +0000
From: Somebody <{sender}>
To: <{recipient}>
Date: Thu, 1 Jan 2026 10:00:00 +0000
Message-ID: <{token}@client.example.net>
Subject: {token}
MIME-Version: 1.0
Content-Type: text/plain; charset=utf-8

Good morning, this is {token}.
"""


def message(sender, recipient, token):
    """The text of a message."""
    return TEXT.format(sender=sender, recipient=recipient, token=token).replace("\n", "\r\n")


class Proxied(smtplib.SMTP):
    """An SMTP client behind a proxy that says for whom it speaks."""

    def _get_socket(self, host, port, timeout):
        connection = socket.create_connection((host, port), timeout)
        connection.sendall(b"PROXY TCP4 10.99.0.2 10.99.0.1 40000 25\r\n")
        return connection


def context(certificate=None):
    """How clients use TLS: they take every certificate, and show their own where they have one."""
    settings = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    settings.check_hostname, settings.verify_mode = False, ssl.CERT_NONE
    if certificate:
        settings.load_cert_chain(certificate)
    return settings


def converse(job):
    """One conversation; the reply that decided: ``[code, text]``."""
    host, port = job["host"], job["port"]
    tls, name = context(job.get("certificate")), job.get("helo", "client.example.net")
    if job.get("implicit"):
        client = smtplib.SMTP_SSL(host, port, name, timeout=PATIENCE, context=tls)
    else:
        client = (Proxied if job.get("proxy") else smtplib.SMTP)(host, port, name, timeout=PATIENCE)
    with contextlib.closing(client):
        code, text = client.ehlo()
        if code != 250:
            return [code, text.decode(errors="replace")]
        if client.has_extn("starttls") and not job.get("plain"):
            client.starttls(context=tls)
            client.ehlo()
        if job.get("user"):
            client.login(job["user"], job["password"])
        code, text = client.mail(job["sender"])
        if code == 250:
            code, text = client.rcpt(job["recipient"])
        if code in (250, 251):
            code, text = client.data(message(job["sender"], job["recipient"], job["token"]))
        with contextlib.suppress(smtplib.SMTPException, OSError):
            client.quit()
    return [code, text.decode(errors="replace")]


def attempt(job):
    """One try, and what came of it: ``{"ok", "reply", "final"}``."""
    try:
        code, text = converse(job)
    except smtplib.SMTPAuthenticationError as err:
        code, text = err.smtp_code, f"AUTH: {err.smtp_error.decode(errors='replace')}"
    except smtplib.SMTPResponseException as err:
        error = err.smtp_error
        code, text = err.smtp_code, error.decode(errors="replace") if isinstance(error, bytes) else str(error)
    except (smtplib.SMTPException, OSError, EOFError) as err:
        code, text = 0, f"{type(err).__name__}: {err}"
    return {"ok": code == 250, "reply": f"{code} {text}".replace("\n", " "), "final": code == 250 or code >= 500}


def send(job):
    """
    Send a message; ``{"ok", "reply", "seconds"}``.

    A temporary refusal and a lost connection are tried again, unless the job says ``once``.
    """
    began = time.monotonic()
    for number in range(1 if job.get("once") else ATTEMPTS):
        if number:
            time.sleep(PAUSE)
        outcome = attempt(job)
        if outcome["final"] or time.monotonic() - began > PATIENCE:
            break
    return {"ok": outcome["ok"], "reply": outcome["reply"], "seconds": round(time.monotonic() - began, 1)}
