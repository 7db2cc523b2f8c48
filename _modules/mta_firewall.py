"""
Open the mail server's ports in the firewall that is in force on this host.

Which firewall that is, which ports they are, and what the backends have in common is here; each backend has a
module of its own: ``mta_firewall_iptables``, ``mta_firewall_nftables``, ``mta_firewall_ufw`` and
``mta_firewall_firewalld``. Each of them has ``in_force``, ``plan`` and ``apply``, keeps the rules of others as
they are, writes to the place from which the firewall starts at boot, and leaves file and running rules as they
were when the new ones do not load.
"""

import _mta_guard

with _mta_guard.library(__file__):
    import _mta_firewall
    from _mta_minion import Minion, refuse_job


def in_force(**settings):
    """
    Return the firewall that is in force, or ``none``. No process is started.

    settings
        ``rules_file``, ``rules_file_v6`` and ``nftables_file`` as for :py:func:`plan`.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_firewall.in_force
    """
    return _mta_firewall.in_force(**settings)


def plan(backend="auto", ports=_mta_firewall.PORTS, config_directory="/etc/postfix", **settings):
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

        salt '*' mta_firewall.plan backend=nftables ports='[25, 587]'
    """
    settings = {key: value for key, value in settings.items() if not key.startswith("__")}
    return _mta_firewall.plan(Minion.of(globals()), backend, ports, config_directory, **settings)


def apply(backend="auto", ports=_mta_firewall.PORTS, config_directory="/etc/postfix", **settings):
    """
    Open the ports, as far as :py:func:`plan` finds it necessary.

    Parameters as for :py:func:`plan`.

    Raises what :py:func:`plan` raises, with nothing changed; and ``CommandExecutionError``, with the files and
    the running rules as they were, when the rules cannot be loaded.
        For states: refused as a job.
    """
    refuse_job("mta_firewall.apply", {key: value for key, value in settings.items() if key.startswith("__")})
    _mta_firewall.apply(Minion.of(globals()), backend, ports, config_directory, **settings)


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
    return _mta_firewall.plan_removal(
        **{key: value for key, value in settings.items() if not key.startswith("__")}
    )


def remove(**settings):
    """
    Take out of every firewall what this formula has put there.

    settings
        ``rules_file``, ``rules_file_v6`` and ``nftables_file`` as for :py:func:`plan`.

    For states: refused as a job.
    """
    refuse_job("mta_firewall.remove", {key: value for key, value in settings.items() if key.startswith("__")})
    _mta_firewall.remove(**settings)
