"""
Hold SMTP conversations as a client of any kind. What to say comes as JSON on standard input, a list of them; what
was heard goes as JSON to standard output.

    {"source": "198.51.100.1", "host": "172.17.0.2", "port": 25, "send": ["EHLO a.example\\r\\n"]}

Each may also have ``tls`` (``starttls``, after an EHLO, or ``implicit``), ``early`` (text that is sent before the
greeting), ``linger`` (seconds to wait for more at the end) and ``repeat`` (how often all of it is held). Texts are
latin-1, and sent as they are; ``@PATH`` stands for what is in a file. A reply is waited for after each text, also
after an empty one. All are held at the same time. The answer is a list of lists of replies: the greeting first,
``null`` where the connection was closed; and at the end a list of what came without being asked for.
"""

import concurrent.futures
import json
import socket
import ssl
import sys

SECONDS = 40


def reply(reader):
    """One reply, its lines joined; ``None`` when there is none."""
    lines = []
    try:
        while line := reader.readline():
            lines.append(line.decode("latin-1").rstrip("\r\n"))
            if line[3:4] != b"-":
                return "\n".join(lines)
    except OSError as error:
        return None if isinstance(error, ConnectionError) else f"({error})"
    return None


def data(text):
    """The bytes of a text, or of the file that it names."""
    if text.startswith("@"):
        with open(text[1:], "rb") as handle:
            return handle.read()
    return text.encode("latin-1")


def secure(connection):
    """TLS over a connection, with whatever certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(connection)


def converse(one):
    """The replies of one conversation."""
    address, source = (one["host"], one["port"]), (one["source"], 0)
    try:
        connection = socket.create_connection(address, SECONDS, source)
        connection.sendall(data(one.get("early", "")))
        if one.get("tls") == "implicit":
            connection = secure(connection)
        heard = [reply(connection.makefile("rb"))]
        if one.get("tls") == "starttls" and str(heard[0]).startswith("220"):
            for text in ("EHLO client.example\r\n", "STARTTLS\r\n"):
                connection.sendall(text.encode())
                reply(connection.makefile("rb", buffering=0))
            connection = secure(connection)
    except OSError as error:
        return [f"({error})"]
    reader = connection.makefile("rb")
    for text in one["send"]:
        try:
            connection.sendall(data(text))
        except OSError:
            heard.append(None)
            break
        heard.append(reply(reader))
        if heard[-1] is None:
            break
    extra = []
    if "linger" in one and heard[-1] is not None:
        connection.settimeout(one["linger"])
        while (more := reply(reader)) and not more.startswith("("):
            extra.append(more)
    heard.append(extra)
    connection.close()
    return heard


def main():
    """Hold all conversations."""
    asked = [one for one in json.load(sys.stdin) for _ in range(one.get("repeat", 1))]
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        json.dump(list(pool.map(converse, asked)), sys.stdout)


main()
