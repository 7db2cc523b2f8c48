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
