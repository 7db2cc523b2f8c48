"""
Have the mail server's ports open in the firewall.

.. code-block:: yaml

    The mail server's ports are open:
      mta_firewall.managed:
        - backend: auto
        - ports: [listeners, 110, 995, 143, 993]
"""

from salt.exceptions import CommandExecutionError, SaltInvocationError

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
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    args = {
        "backend": backend,
        "ports": list(ports),
        "config_directory": config_directory,
        "rules_file": rules_file,
        "rules_file_v6": rules_file_v6,
        "nftables_file": nftables_file,
        "zones": list(zones),
    }
    try:
        plan = __salt__["mta_firewall.plan"](**args)
        what = f"The rules of the firewall ({plan['backend']})"
        if plan["backend"] == "none":
            ret["comment"] = f"No firewall is managed: backend {backend}"
        elif not plan["changes"]:
            ret["comment"] = f"{what} are in the correct state"
        elif __opts__["test"]:
            ret.update(result=None, changes=plan["changes"], comment=f"{what} would have been changed")
        else:
            __salt__["mta_firewall.apply"](**args)
            ret.update(changes=plan["changes"], comment=f"{what} have been changed")
        if plan["comment"]:
            ret["comment"] += f"\n{plan['comment']}"
    except (CommandExecutionError, SaltInvocationError) as error:
        ret.update(result=False, comment=f"The firewall has been left as it was: {error}")
    return ret


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
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    args = {"rules_file": rules_file, "rules_file_v6": rules_file_v6, "nftables_file": nftables_file}
    try:
        plan = __salt__["mta_firewall.plan_removal"](**args)
        changes = {item: change for backend in plan.values() for item, change in backend.items()}
        what = f"Rules of this formula in the firewall ({', '.join(plan)})"
        if not plan:
            ret["comment"] = "No firewall has rules of this formula"
        elif __opts__["test"]:
            ret.update(result=None, changes=changes, comment=f"{what} would have been removed")
        else:
            __salt__["mta_firewall.remove"](**args)
            ret.update(changes=changes, comment=f"{what} have been removed")
    except (CommandExecutionError, SaltInvocationError) as error:
        ret.update(result=False, comment=f"The firewall has been left as it was: {error}")
    return ret
