"""
Salt's programs, started in a host by a process that has Salt in memory: half of the second of CPU time that each
of them takes is for imports.

The process forks for each of them. What runs then has imported modules that every one of them imports, and nothing
else: configuration, grains, and everything that Salt's loaders load are its own.
"""

import json
import signal
import socket
import subprocess

# How a program of Salt is called, as its script does.
PROGRAMS = {"salt-call": "salt_call", "salt-run": "salt_run", "salt": "salt_main"}
PYTHON = "/opt/salt/bin/python3"
# Bytes of a command line that fit into one message.
LONGEST = 60_000

# Argument: the descriptor of a socket that says what to start, where its output goes, and who waits for its end.
SERVER = """
import contextlib, gc, importlib, json, os, signal, socket, sys
import salt.scripts, salt.cli.call, salt.cli.run, salt.cli.salt

# What they import later, when they have read their arguments. The last one fails where there is no git, and is
# imported anew then.
for name in ("salt.modules.cmdmod", "salt.modules.file", "salt.runner", "salt.state", "salt.template", "git"):
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
# Else the garbage collector of each of them would touch, and so copy, all the memory that it shares.
gc.freeze()

listener = socket.socket(fileno=int(sys.argv[1]))
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    data, descriptors, _, _ = socket.recv_fds(listener, 1 << 17, 3)
    if not data:
        os._exit(0)
    if not os.fork():
        break
    for descriptor in descriptors:
        os.close(descriptor)
signal.signal(signal.SIGCHLD, signal.SIG_DFL)
listener.close()
out, error, waiting = descriptors
program = os.fork()
if program:
    _, status = os.waitpid(program, 0)
    os.write(waiting, b"%d" % os.waitstatus_to_exitcode(status))
    os._exit(0)
os.close(waiting)
os.setsid()
for source, target in ((out, 1), (error, 2)):
    os.dup2(source, target)
    os.close(source)
function, name, *arguments = json.loads(data)
sys.argv = ["/usr/local/bin/" + name, *arguments]
sys.path[0] = "/usr/local/bin"
sys.exit(getattr(salt.scripts, function)())
"""


class Ready:
    """The process in a container that has Salt in memory. inside: the container's :class:`rig.inside.Inside`."""

    def __init__(self, inside):
        self.socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            self.process = subprocess.Popen(
                inside.command([PYTHON, "-c", SERVER, str(other.fileno())]),
                env=inside.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[other.fileno()],
            )

    def close(self):
        """End the process, also one that is stopped."""
        self.socket.close()
        self.process.kill()
        self.process.wait(10)

    def run(self, argv, stdout, stderr, timeout):
        """
        The exit code of a program (negative: by that signal) whose output goes to two files.

        OSError: the process is not there any more, or the command line is too long for it. TimeoutExpired: the
        program still runs after so many seconds.
        """
        message = json.dumps([PROGRAMS[argv[0]], *argv]).encode()
        if len(message) > LONGEST:
            raise OSError(f"{argv[0]}: {len(message)} bytes of arguments")
        mine, its = socket.socketpair()
        with mine:
            with its:
                descriptors = [stdout.fileno(), stderr.fileno(), its.fileno()]
                socket.send_fds(self.socket, [message], descriptors)
            mine.settimeout(timeout)
            try:
                # Nothing: it was killed with its host.
                return int(mine.recv(20) or -signal.SIGKILL)
            except socket.timeout as error:
                raise subprocess.TimeoutExpired(argv, timeout) from error
