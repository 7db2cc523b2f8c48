"""
Have the mail server's ports open in the firewall.

.. code-block:: yaml

    The mail server's ports are open:
      mta_firewall.managed:
        - backend: auto
        - ports: [25, 110, 995, 143, 993]
"""

from salt.exceptions import CommandExecutionError, SaltInvocationError

PORTS = (25, 110, 995, 143, 993)


def managed(name, backend="auto", ports=PORTS, rules_file="/etc/iptables.firewall.rules"):
    """
    Keep the ports open in a rules file for iptables-restore(8), and in the rules that run.

    name (str)
        Any name; it is not used.

    backend (str, default auto)
        ``iptables``: the rules file, which has to exist. ``none``: no firewall. ``auto``: ``iptables`` when
        the rules file exists, else ``none``.

    ports (list of int, default 25, 110, 995, 143, 993)
        TCP ports. Those that the file's rules open to everybody already are left to them.

    rules_file (str, default /etc/iptables.firewall.rules)
        The rules file.

    A file that does not pass ``iptables-restore --test``, or does not load, leaves the file and the running
    rules as they were.

    .. code-block:: yaml

        mail ports:
          mta_firewall.managed:
            - backend: iptables
    """
    return _reconcile(name, {"backend": backend, "ports": list(ports), "rules_file": rules_file})


def absent(name, rules_file="/etc/iptables.firewall.rules"):
    """
    Take out of a rules file what :py:func:`managed` put there, and load the rest where a firewall is running.

    name (str)
        Any name; it is not used.

    rules_file (str, default /etc/iptables.firewall.rules)
        The rules file; it may be absent.

    .. code-block:: yaml

        mail ports:
          mta_firewall.absent: []
    """
    return _reconcile(name, {"backend": "auto", "ports": [], "rules_file": rules_file})


def _reconcile(name, args):
    rules_file = args["rules_file"]
    ret = {"name": name, "result": True, "changes": {}, "comment": ""}
    try:
        plan = __salt__["mta_firewall.plan"](**args)
        if plan["backend"] == "none":
            ret["comment"] = f"No firewall is managed: backend {args['backend']}, rules file {rules_file}"
        elif not plan["changes"]:
            ret["comment"] = f"The firewall rules in {rules_file} are in the correct state"
        elif __opts__["test"]:
            ret["result"] = None
            ret["comment"] = f"The firewall rules in {rules_file} would have been changed"
            ret["changes"] = plan["changes"]
        else:
            __salt__["mta_firewall.apply"](**args)
            ret["comment"] = f"The firewall rules in {rules_file} have been changed"
            ret["changes"] = plan["changes"]
    except (CommandExecutionError, SaltInvocationError) as error:
        ret["result"] = False
        ret["comment"] = f"The firewall has been left as it was: {error}"
    return ret
