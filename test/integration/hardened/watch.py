"""
Look at the arguments and the environment of every process all the time, until SIGTERM; then write to OUTPUT those
that hold one of WORDS.

    watch.py WORDS OUTPUT

The last line of OUTPUT counts the processes seen.
"""

import contextlib
import pathlib
import signal
import sys

words, output = map(pathlib.Path, sys.argv[1:])
wanted = words.read_bytes().split()
stopped = []
signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
seen, found = set(), set()
while not stopped:
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                text = (process / name).read_bytes()
                seen.add((process.name, text))
                found |= {text} if any(word in text for word in wanted) else set()
output.write_bytes(b"\n".join([*found, b"%d seen" % len({name for name, _ in seen})]))
