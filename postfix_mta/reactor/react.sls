#!py
"""
What the master does about an event; see docs/self-mending.md for the lines of its `reactor:` configuration.

Whom it is for is the id under which the event came, and only if that is a minion with an accepted key. Anybody who
has root on a minion can send events under another's id, and with any content. So nothing else of an event is used,
and what follows is no more than a hint: the minion looks at itself and decides (mta_reprovision.request). Events
of a minion within a few seconds of one that was handed on are dropped; the minion waits longer than that.
"""

import os
import re
import time

# Seconds: mta_reprovision has the first two. A start is looked after by a run of states of its own.
WINDOWS = {"request": 2, "all": 20, "start": 30}
ALL = ("postfix_mta/pillar_changed", "salt/netapi/hook/postfix_mta/pillar_changed")


def _is_minion(name):
    # __opts__, tag and data are what the renderer puts into this module.
    keys = os.path.join(__opts__["pki_dir"], "minions")
    return (
        isinstance(name, str)
        and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@-]*", name) is not None
        and os.path.isfile(os.path.join(keys, name))
    )


def _is_first(what, name):
    """Whether nothing was handed on for that minion within the window."""
    directory = os.path.join(__opts__["cachedir"], "postfix_mta", what)
    path = os.path.join(directory, name)
    try:
        if 0 <= time.time() - os.stat(path).st_mtime < WINDOWS[what]:
            return False
    except FileNotFoundError:
        os.makedirs(directory, exist_ok=True)
    with open(path, "w"):
        os.utime(path)
    return True


def _reaction(function, target, kind, **arguments):
    how = [{"tgt": target}, {"tgt_type": kind}, {"args": arguments}]
    job = {f"local.{function}": how}
    return {f"postfix_mta_{function}": job}


def run():
    """The reaction: none, or one job."""
    if tag in ALL:
        if not _is_first("all", "minions"):
            return {}
        return _reaction("mta_reprovision.request", "*", "glob", reason="pillar")
    name = data.get("id")
    if not _is_minion(name):
        return {}
    if tag == f"salt/minion/{name}/start":
        if not _is_first("start", name):
            return {}
        # Of the environment, where the master's configuration names one; else the minion's own.
        where = {key: value for key, value in (__opts__.get("postfix_mta") or {}).items() if key == "saltenv"}
        return _reaction("state.apply", [name], "list", mods="postfix_mta.started", queue=2, **where)
    if tag == f"salt/beacon/{name}/postfix_mta/" and data.get("state") != "end":
        reason = "beacon"
    elif tag == "postfix_mta/reprovision":
        reason = "reprovision"
    else:
        return {}
    if not _is_first("request", name):
        return {}
    return _reaction("mta_reprovision.request", [name], "list", reason=reason)
