"""TODO subject (mta_firewall)."""

from salt.exceptions import SaltInvocationError

import _mta_firewall_firewalld
import _mta_firewall_iptables
import _mta_firewall_nftables
import _mta_firewall_ufw
import _mta_postfix_edit
from _mta_minion import Minion

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
# Backend: its functions, and the settings that they take. In the order in which ``auto`` looks for one: ufw and
# firewalld make their rules with iptables or nftables, so those come last.
BACKENDS = {
    "ufw": (_mta_firewall_ufw, ()),
    "firewalld": (_mta_firewall_firewalld, ("zones",)),
    "nftables": (_mta_firewall_nftables, ("nftables_file",)),
    "iptables": (_mta_firewall_iptables, ("rules_file", "rules_file_v6")),
}


def plan(minion: Minion, backend="auto", ports=PORTS, config_directory="/etc/postfix", **settings):
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
    """
    if backend not in ("auto", "none", *BACKENDS):
        raise SaltInvocationError(f"Firewall backend {backend!r}: there are auto, none, {', '.join(BACKENDS)}")
    numbers = _numbers(minion, ports, config_directory)
    if backend == "auto":
        backend = in_force(**settings)
    if backend == "none":
        return {"backend": "none", "changes": {}, "comment": None}
    planned = BACKENDS[backend][0].plan(numbers, **_own(backend, settings))
    return {"backend": backend, "changes": planned["changes"], "comment": "\n".join(planned["notes"]) or None}


def apply(minion: Minion, backend="auto", ports=PORTS, config_directory="/etc/postfix", **settings):
    """
    Open the ports, as far as :py:func:`plan` finds it necessary.

    Parameters as for :py:func:`plan`.

    Raises what :py:func:`plan` raises, with nothing changed; and ``CommandExecutionError``, with the files and
    the running rules as they were, when the rules cannot be loaded.
    """
    planned = plan(minion, backend, ports, config_directory, **settings)
    if planned["changes"]:
        backend = planned["backend"]
        numbers = _numbers(minion, ports, config_directory)
        BACKENDS[backend][0].apply(numbers, **_own(backend, settings))


def in_force(**settings):
    """
    Return the firewall that is in force, or ``none``. No process is started.

    settings
        ``rules_file``, ``rules_file_v6`` and ``nftables_file`` as for :py:func:`plan`.
    """
    for backend in BACKENDS:
        if BACKENDS[backend][0].in_force(**_own(backend, settings)):
            return backend
    return "none"


def plan_removal(**settings):
    """
    Return what has to change for nothing of this formula's to be left in any firewall; nothing is changed.

    settings
        ``rules_file``, ``rules_file_v6`` and ``nftables_file`` as for :py:func:`plan`.

    Returns ``{backend: {item: {"old": …, "new": …}}}`` of those that have something.
    """
    planned = {
        backend: BACKENDS[backend][0].plan([], **_own(backend, settings))["changes"] for backend in BACKENDS
    }
    return {backend: changes for backend, changes in planned.items() if changes}


def remove(**settings):
    """
    Take out of every firewall what this formula has put there.

    settings
        ``rules_file``, ``rules_file_v6`` and ``nftables_file`` as for :py:func:`plan`.
    """
    for backend in plan_removal(**settings):
        BACKENDS[backend][0].apply([], **_own(backend, settings))


def _own(backend, settings):
    """Return the settings that a backend takes."""
    return {name: settings.get(name, DEFAULTS[name]) for name in BACKENDS[backend][1]}


def _numbers(minion: Minion, ports, config_directory):
    """Return the ports as numbers, each once, in the order given."""
    wrong = [port for port in ports if port != LISTENERS and (type(port) is not int or not 0 < port < 65536)]
    if wrong:
        raise SaltInvocationError(f"Neither a port number nor {LISTENERS}: {', '.join(map(repr, wrong))}")
    found = []
    for port in ports:
        found += _mta_postfix_edit.ports(minion, config_directory) if port == LISTENERS else [port]
    return list(dict.fromkeys(found))
