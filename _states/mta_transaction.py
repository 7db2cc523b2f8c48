"""
Open and close the transaction in which an apply changes a mail server.

The states between the two take part when they name the transaction:

.. code-block:: yaml

    resolved:
      mta_transaction.recovered:
        - name: postfix_mta

    aliases:
      mta_aliases.managed:
        - name: /etc/aliases
        - aliases: {root: alice}
        - transaction: postfix_mta
        - require:
          - mta_transaction: resolved
        - require_in:
          - mta_transaction: verified

    verified:
      mta_transaction.committed:
        - name: postfix_mta
        - services: [saslauthd, postfix]
"""

from salt.exceptions import CommandExecutionError
from salt.loader.dunder import __opts__
from salt.state import STATE_INTERNAL_KEYWORDS


def recovered(name):
    """
    Resolve what an interrupted apply left behind, before anything else is looked at.

    name
        The transaction's name, as the participants give it.
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": "No interrupted apply was left behind."}
    left = __salt__["mta_transaction.pending"](_participants(name))
    recovered = None
    try:
        if not __opts__["test"]:
            recovered = __salt__["mta_transaction.recover"]()
        elif left is not None and not __salt__["mta_transaction.under_way"]():
            recovered = {"restored": left, "failed": [], "notes": []}
    except CommandExecutionError as err:
        ret.update(result=False, comment=str(err))
        return ret
    if recovered is None:
        if left is not None:
            ret["comment"] = "Another apply was under way, and nothing was left behind."
        return ret
    change = {"old": "from an interrupted apply", "new": "as before it"}
    ret["changes"] = {path: change for path in recovered["restored"] or [name]}
    if __opts__["test"]:
        ret.update(result=None, comment="An interrupted apply would be undone.")
        return ret
    part = " in part only" if recovered["failed"] else ""
    ret["comment"] = "\n".join([f"An interrupted apply has been undone{part}.", *recovered["notes"]])
    return ret


def _participants(transaction):
    """The states of this run that take part in a transaction, each as its function and its arguments."""
    # Salt sets it for the call of a state, and not for others.
    chunks = [chunk for chunk in globals().get("__lowstate__") or () if chunk.get("transaction") == transaction]
    return [
        (
            __states__[f"{chunk['state']}.{chunk['fun']}"],
            {key: value for key, value in chunk.items() if key not in STATE_INTERNAL_KEYWORDS},
        )
        for chunk in chunks
    ]


def committed(name, services=None, verify=None, signed=None, follows_mta_sts=False):
    """
    Activate what the participants changed, verify it by a live SMTP conversation, and commit or undo it.

    name
        The transaction's name, as the participants give it.

    services
        List of services that are to be enabled and running, in the order in which they start. Default: none.

    verify
        Arguments of ``mta_probe.check`` (``hostname``, ``ca_file``, ``capabilities``, ``login_pillar``, ``skip``,
        ``timeout`` in seconds), and ``enabled: false`` to leave the conversation out. Default: what main.cf
        and master.cf promise has to work.

    signed
        List of domains: a message of each goes through the signer, and has to be signed by its key. Default: none.

    follows_mta_sts
        Whether the daemon of ``mta_sts.managed`` is to be enabled and running as well. Default: false.
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": "Nothing had to be activated."}
    own = [*(["postfix-mta-signer"] if signed else []), *(["postfix-mta-sts"] if follows_mta_sts else [])]
    services = [*own, *(services or [])]
    try:
        outlook = __salt__["mta_apply.outlook"](services)
        if outlook["undone"]:
            ret.update(result=False, comment=outlook["undone"])
            return ret
        status = outlook["services"]
        for service in services:
            if __opts__["test"] and service == "postfix" and not status[service]["installed"]:
                continue  # its package, which an earlier state brings, enables and starts it
            is_so = {key: status[service][key] for key in ("enabled", "active")}
            if not all(is_so.values()):
                ret["changes"][service] = {"old": is_so, "new": {"enabled": True, "active": True}}
        for service, done in outlook["done"].items():
            ret["changes"].setdefault(service, {"old": "with its former settings", "new": done})
        if not ret["changes"] and not outlook["changes"]:
            return ret
        if __opts__["test"]:
            ret.update(
                result=None if ret["changes"] else True,
                comment="The services would be activated, and verified by a live SMTP conversation.",
            )
            return ret
        outcome = __salt__["mta_apply.commit"](services=services, verify=verify, signed=signed)
        ret["comment"] = outcome["comment"]
        if not outcome["result"]:
            ret.update(result=False, changes={})
    except CommandExecutionError as err:
        undone = __salt__["mta_apply.undo"](str(err))
        comment = "\n".join(filter(None, [str(err), undone["comment"]]))
        ret.update(result=False, changes={}, comment=comment)
    except BaseException as err:
        if not __opts__["test"]:
            __salt__["mta_apply.undo"](repr(err))
        raise
    return ret


def restored(name):
    """
    Restore what participants ever changed, to what was there before the first apply, as one transaction.

    name
        The transaction's name, as the participants gave it.

    The services that did not run before the first apply are stopped and disabled. Mail, packages and what others
    changed elsewhere stay. So does, and the comment names it, what is not as the last apply that changed it left
    it, in contents, owner or mode, with what a main.cf or master.cf that stays needs; and an authority with its
    private key. Where somebody else has set something in main.cf, master.cf or /etc/aliases, what this formula has
    set in it is as before, and the rest stays. What was kept of what stays is kept on.
    """
    authority = __salt__["mta_fleet_ca.only_signs"]()
    if authority:
        comment = f"This minion only signs for a fleet: {' and '.join(authority.values())} stay as they are."
        return {"name": name, "changes": {}, "result": True, "comment": comment}
    return __salt__["mta_apply.participate"](
        "mta_transaction.restored", name, {}, None, __opts__["test"], "This host's mail server"
    )
