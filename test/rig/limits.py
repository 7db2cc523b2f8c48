"""What the kernel allows one user, where all hosts under test together need more."""

import contextlib
import pathlib

# inotify(7): a host with systemd and a bus has seven instances, and root of all hosts is one user. Without one of
# them systemd does not learn that a unit has ended: a host neither comes up nor shuts down, and nothing says why.
INSTANCES = pathlib.Path("/proc/sys/fs/inotify/max_user_instances")
ENOUGH = 1024


@contextlib.contextmanager
def raised(path=INSTANCES, enough=ENOUGH, still_needed=lambda: False):
    """
    A context in which a limit is at least ``enough``; what it was before is written back at the end.

    Where it may not be written it stays as it is. still_needed: asked at the end, whether another run needs it.
    """
    before = None
    # Not our machine's kernel, or not for us to change: a few hosts have enough.
    with contextlib.suppress(OSError):
        text = path.read_text(encoding="ascii")
        if int(text) < enough:
            path.write_text(str(enough), encoding="ascii")
            before = text
    try:
        yield
    finally:
        if before is not None and not still_needed():
            path.write_text(before, encoding="ascii")
