"""
Have the mail server's ports open in the firewall.

.. code-block:: yaml

    The mail server's ports are open:
      mta_firewall.managed:
        - backend: auto
        - ports: [listeners, 110, 995, 143, 993]
"""

from salt.loader.dunder import __opts__

PORTS = (25, 110, 995, 143, 993)


def managed(
    name,
    backend="auto",
    ports=PORTS,
    config_directory="/etc/postfix",
    rules_file="/etc/iptables.firewall.rules",
    rules_file_v6="/etc/ip6tables.firewall.rules",
    nftables_file="/etc/nftables.conf",
    zones=(),
):
    """
    Keep the ports open in the firewall, where it starts from at boot and in the rules that run.

    name (str)
        Any name; it is not used.

    backend (str, default auto)
        ``ufw``, ``firewalld``, ``nftables``, ``iptables``; ``none``: no firewall; ``auto``: the first of these
        that is in force (ufw is active; firewalld is running; nftables.service is enabled and its file filters
        incoming packets; the rules file is there), else ``none``.

    ports (list, default 25, 110, 995, 143, 993)
        TCP ports, and ``listeners`` for those that Postfix offers to other hosts. Those that other rules open to
        everybody already are left to them.

    config_directory (str, default /etc/postfix)
        For ``listeners``: where master.cf is.

    rules_file, rules_file_v6 (str, default /etc/iptables.firewall.rules, /etc/ip6tables.firewall.rules)
        For ``iptables``: the rules files. The first has to exist, the second may.

    nftables_file (str, default /etc/nftables.conf)
        For ``nftables``: what nftables.service loads.

    zones (list of str, default: the default zone)
        For ``firewalld``: where the ports are open.

    Rules that the firewall refuses, or that do not load, leave the files and the running rules as they were.

    .. code-block:: yaml

        mail ports:
          mta_firewall.managed:
            - backend: nftables
            - ports: [listeners]
    """
    arguments = {
        "backend": backend,
        "ports": list(ports),
        "config_directory": config_directory,
        "rules_file": rules_file,
        "rules_file_v6": rules_file_v6,
        "nftables_file": nftables_file,
        "zones": list(zones),
    }
    return __salt__["mta_apply.converge"](
        "mta_firewall.managed", name, arguments, __opts__["test"], "The firewall"
    )


def absent(
    name,
    rules_file="/etc/iptables.firewall.rules",
    rules_file_v6="/etc/ip6tables.firewall.rules",
    nftables_file="/etc/nftables.conf",
):
    """
    Take out of every firewall, in force or not, what :py:func:`managed` put there, and nothing else.

    name (str)
        Any name; it is not used.

    rules_file, rules_file_v6, nftables_file (str)
        As for :py:func:`managed`; they may be absent.

    .. code-block:: yaml

        mail ports:
          mta_firewall.absent: []
    """
    arguments = {"rules_file": rules_file, "rules_file_v6": rules_file_v6, "nftables_file": nftables_file}
    return __salt__["mta_apply.converge"]("mta_firewall.absent", name, arguments, __opts__["test"], "The firewall")
