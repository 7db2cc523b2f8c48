"""Tell which firewall is in force on this host; the state ``mta_firewall.managed`` opens ports in it."""

from salt.loader.dunder import __opts__  # noqa: F401

import _mta_guard

with _mta_guard.library(__file__):
    import _mta_firewall


def in_force(
    rules_file=_mta_firewall.DEFAULTS["rules_file"], nftables_file=_mta_firewall.DEFAULTS["nftables_file"]
):
    """
    Return the firewall that is in force, or ``none``. No process is started.

    rules_file (str, default /etc/iptables.firewall.rules)
        A file for iptables-restore(8): where it is, ``iptables`` is in force.

    nftables_file (str, default /etc/nftables.conf)
        What nftables.service loads at boot: where that is enabled, and the file filters incoming packets,
        ``nftables`` is in force.

    Returns ``ufw``, ``firewalld``, ``nftables``, ``iptables`` (the first of these) or ``none``. Raises
    ``CommandExecutionError`` when a file cannot be read.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_firewall.in_force
    """
    return _mta_firewall.in_force(rules_file=rules_file, nftables_file=nftables_file)
