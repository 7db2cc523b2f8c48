"""
Open the mail server's ports in the firewall that is in force on this host.

Which firewall that is, which ports they are, and what the backends have in common is here; each backend has a
module of its own: ``mta_firewall_iptables``, ``mta_firewall_nftables``, ``mta_firewall_ufw`` and
``mta_firewall_firewalld``. Each of them has ``in_force``, ``plan`` and ``apply``, keeps the rules of others as
they are, writes to the place from which the firewall starts at boot, and leaves file and running rules as they
were when the new ones do not load.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile

from salt.exceptions import CommandExecutionError, SaltInvocationError

# The how-to's: SMTP, POP3 and POP3S, IMAP and IMAPS.
PORTS = (25, 110, 995, 143, 993)
LISTENERS = "listeners"

# What the settings of the backends are where they are not given.
DEFAULTS = {
    "rules_file": "/etc/iptables.firewall.rules",
    "rules_file_v6": "/etc/ip6tables.firewall.rules",
    "nftables_file": "/etc/nftables.conf",
    "zones": [],
}
# Backend: the settings that its functions take. In the order in which ``auto`` looks for one: ufw and firewalld
# make their rules with iptables or nftables, so those come last.
BACKENDS = {
    "ufw": (),
    "firewalld": ("zones",),
    "nftables": ("nftables_file",),
    "iptables": ("rules_file", "rules_file_v6"),
}


def plan(backend="auto", ports=PORTS, config_directory="/etc/postfix", **settings):
    """
    Return what has to change for the ports to be open; nothing is changed.

    backend (str, default auto)
        ``ufw``, ``firewalld``, ``nftables``, ``iptables``; ``none``: no firewall; ``auto``: the first of these
        four that is in force, else ``none``.

    ports (list, default 25, 110, 995, 143, 993)
        TCP ports. The item ``listeners`` stands for those that Postfix offers to other hosts, as
        ``postconf.ports`` tells. With an empty list what an earlier call opened is closed again.

    config_directory (str, default /etc/postfix)
        For ``listeners``: where master.cf is.

    rules_file, rules_file_v6 (str, default /etc/iptables.firewall.rules, /etc/ip6tables.firewall.rules)
        For ``iptables``: files for iptables-restore(8) and ip6tables-restore(8); the second may be absent.

    nftables_file (str, default /etc/nftables.conf)
        For ``nftables``: what nftables.service loads at boot.

    zones (list of str, default: the default zone)
        For ``firewalld``: the zones in which the ports are open.

    Returns ``{"backend": …, "changes": {item: {"old": …, "new": …}}, "comment": text or None}``.

    Raises ``SaltInvocationError`` for an unknown backend and for what is not a port. Raises
    ``CommandExecutionError`` when the rules cannot be read, or the firewall refuses the new ones.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_firewall.plan nftables '[25, 993]'
    """
    if backend not in ("auto", "none", *BACKENDS):
        raise SaltInvocationError(f"Firewall backend {backend!r}: there are auto, none, {', '.join(BACKENDS)}")
    numbers = _numbers(ports, config_directory)
    if backend == "auto":
        backend = in_force(**settings)
    if backend == "none":
        return {"backend": "none", "changes": {}, "comment": None}
    planned = __salt__[f"mta_firewall_{backend}.plan"](numbers, **_own(backend, settings))
    return {"backend": backend, "changes": planned["changes"], "comment": "\n".join(planned["notes"]) or None}


def apply(backend="auto", ports=PORTS, config_directory="/etc/postfix", **settings):
    """
    Open the ports, as far as :py:func:`plan` finds it necessary.

    Parameters as for :py:func:`plan`.

    Raises what :py:func:`plan` raises, with nothing changed; and ``CommandExecutionError``, with the files and
    the running rules as they were, when the rules cannot be loaded.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_firewall.apply nftables '[25, 993]'
    """
    planned = plan(backend, ports, config_directory, **settings)
    if planned["changes"]:
        backend = planned["backend"]
        numbers = _numbers(ports, config_directory)
        __salt__[f"mta_firewall_{backend}.apply"](numbers, **_own(backend, settings))


def in_force(**settings):
    """
    Return the firewall that is in force, or ``none``. No process is started.

    settings
        ``rules_file``, ``rules_file_v6`` and ``nftables_file`` as for :py:func:`plan`.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_firewall.in_force
    """
    for backend in BACKENDS:
        if __salt__[f"mta_firewall_{backend}.in_force"](**_own(backend, settings)):
            return backend
    return "none"


def plan_removal(**settings):
    """
    Return what has to change for nothing of this formula's to be left in any firewall; nothing is changed.

    settings
        ``rules_file``, ``rules_file_v6`` and ``nftables_file`` as for :py:func:`plan`.

    Returns ``{backend: {item: {"old": …, "new": …}}}`` of those that have something.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_firewall.plan_removal
    """
    planned = {
        backend: __salt__[f"mta_firewall_{backend}.plan"]([], **_own(backend, settings))["changes"]
        for backend in BACKENDS
    }
    return {backend: changes for backend, changes in planned.items() if changes}


def remove(**settings):
    """
    Take out of every firewall what this formula has put there.

    settings
        ``rules_file``, ``rules_file_v6`` and ``nftables_file`` as for :py:func:`plan`.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_firewall.remove
    """
    for backend in plan_removal(**settings):
        __salt__[f"mta_firewall_{backend}.apply"]([], **_own(backend, settings))


def _own(backend, settings):
    """Return the settings that a backend takes."""
    return {name: settings.get(name, DEFAULTS[name]) for name in BACKENDS[backend]}


def _numbers(ports, config_directory):
    """Return the ports as numbers, each once, in the order given."""
    wrong = [port for port in ports if port != LISTENERS and (type(port) is not int or not 0 < port < 65536)]
    if wrong:
        raise SaltInvocationError(f"Neither a port number nor {LISTENERS}: {', '.join(map(repr, wrong))}")
    found = []
    for port in ports:
        found += __salt__["postconf.ports"](config_directory) if port == LISTENERS else [port]
    return list(dict.fromkeys(found))


# ------------------------------------------------------------- What backends share


def read(path):
    """
    Return the contents of a firewall's file, ``None`` when there is none.

    path (str)
        Absolute path. Bytes that are not UTF-8 become surrogates (``surrogateescape``).

    Raises ``CommandExecutionError`` when it is there and cannot be read.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_firewall.read /etc/nftables.conf
    """
    try:
        with open(path, "rb") as file:
            return file.read().decode("utf-8", "surrogateescape")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CommandExecutionError(f"{path} cannot be read: {error.strerror or error}") from error


def replace(path, text):
    """
    Replace the contents of a firewall's file at once, keeping its owner and mode; ``None`` removes it.

    path (str)
        Absolute path. A symbolic link stays one. A new file is root's, 0644.

    text (str)
        The contents; bytes that are not UTF-8 are surrogates (``surrogateescape``).

    Raises ``CommandExecutionError`` when it cannot be written; the old file is then still there.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_firewall.replace /etc/firewalld/services/mine.xml '<service/>'
    """
    path = os.path.realpath(path)
    temporary = None
    try:
        if text is None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
        descriptor, temporary = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=os.path.dirname(path))
        with open(descriptor, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            os.fchmod(file.fileno(), 0o644)
            with contextlib.suppress(FileNotFoundError):
                old = os.stat(path)
                os.fchown(file.fileno(), old.st_uid, old.st_gid)
                os.fchmod(file.fileno(), old.st_mode & 0o7777)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise CommandExecutionError(f"{path} cannot be written: {error.strerror or error}") from error


def run(argv, stdin=""):
    """
    Run a firewall's program and return what it printed. The search path of a daemon may lack sbin.

    argv (list of str)
        The program and its arguments.

    stdin (str, default empty)
        Its standard input.

    Raises ``CommandExecutionError`` when there is no such program, and with its own words when it fails.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_firewall.run '[nft, list, tables]'
    """
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    program = shutil.which(argv[0], path=path)
    if not program:
        raise CommandExecutionError(
            f"{argv[0]} is not installed: install the firewall that it belongs to, or set the backend to none"
        )
    done = subprocess.run(
        [program, *argv[1:]],
        input=stdin,
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
        env={**os.environ, "LC_ALL": "C", "PATH": path},
        check=False,
    )
    if done.returncode != 0:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise CommandExecutionError(f"{' '.join(argv)} failed: " + "\n".join(words))
    return done.stdout
