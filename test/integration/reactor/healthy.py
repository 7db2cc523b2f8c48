"""Tell what is wrong with this mail server, one line for each fault; nothing when it is healthy."""

import hashlib
import os
import smtplib
import socket
import ssl
import subprocess
import sys

CERTIFICATE = "/etc/ssl/certs/smtpd.crt"
KEY_FACTS = ("myhostname", "smtpd_tls_cert_file", "smtpd_sasl_auth_enable", "defer_transports")
LIMIT = int(sys.argv[1])


def run(*argv):
    return subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


def configuration():
    said = run("/usr/sbin/postconf", *KEY_FACTS).stdout
    known = "/root/configuration"
    if not os.path.exists(known):
        with open(known, "w") as file:
            file.write(said)
    with open(known) as file:
        return "" if file.read() == said and os.path.exists("/etc/postfix/main.cf") else said


def certificate():
    if run("openssl", "x509", "-noout", "-checkend", "864000", "-in", CERTIFICATE).returncode:
        return "is to be renewed"
    with open(CERTIFICATE) as file:
        on_disk = ssl.PEM_cert_to_DER_cert(file.read())
    with smtplib.SMTP("127.0.0.1", 25, timeout=5) as client:
        client.starttls(context=ssl._create_unverified_context())
        served = client.sock.getpeercert(binary_form=True)
    return "" if served == on_disk else f"another is served, {hashlib.sha256(served).hexdigest()}"


def saslauthd():
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect("/var/spool/postfix/var/run/saslauthd/mux")


def queue():
    waiting = len(run("/usr/sbin/postqueue", "-j").stdout.splitlines())
    return f"{waiting} messages" if waiting > LIMIT else ""


for look in (configuration, certificate, saslauthd, queue):
    try:
        wrong = look()
    except Exception as error:
        wrong = error
    if wrong:
        print(f"{look.__name__}: {wrong}")
