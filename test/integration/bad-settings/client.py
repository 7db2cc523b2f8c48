"""
A client that connects every 100 ms: banner, EHLO, QUIT; runs on the host under test until it is ended.

Writes one line for each connection to the file that is its argument: when it began, when it ended (Unix time), and
``served`` or what went wrong.
"""

import socket
import sys
import time

INTERVAL = 0.1
PATIENCE = 1


def converse():
    """One conversation."""
    server = ("127.0.0.1", 25)
    with socket.create_connection(server, PATIENCE) as connection, connection.makefile("rwb") as stream:
        for command, code in ((b"", b"220"), (b"EHLO localhost\r\n", b"250"), (b"QUIT\r\n", b"221")):
            stream.write(command)
            stream.flush()
            line = stream.readline()
            while line[3:4] == b"-":
                line = stream.readline()
            if line[:3] != code:
                raise OSError(f"{line.decode().strip() or 'closed'} instead of {code.decode()}")


def main(path):
    """Connect again and again."""
    with open(path, "a", encoding="utf-8", buffering=1) as log:
        while True:
            began = time.time()
            try:
                converse()
                outcome = "served"
            except OSError as err:
                outcome = str(err)
            ended = time.time()
            log.write(f"{began:.3f} {ended:.3f} {outcome}\n")
            time.sleep(max(0, began + INTERVAL - ended))


if __name__ == "__main__":
    main(sys.argv[1])
