"""
Keep the table of logins at smarthosts: ``smtp_sasl_password_maps``, of the type ``texthash``.

Nobody but root reads it (smtp(8) does so before it gives up root's rights), and it has no compiled form. Only
pillar paths come in as arguments; user names and passwords are looked up here, and shown nowhere.
"""

import os
import pwd
import stat

from salt.exceptions import CommandExecutionError, SaltInvocationError

HEADER = "# From the Salt pillar postfix_mta:relay; changes in this file are undone.\n"
MODE, OWNER = "0600", "root"
RELOAD = {"postfix": "reload"}


def _line(key, username, password):
    """A line of the table, checked to be read as what it is (postmap(1), SASL_README)."""
    value = f"{username}:{password}"
    if not key.isprintable() or not key or " " in key or key.startswith("#"):
        raise SaltInvocationError(f"{key!r} is no address and no host that a login can be for")
    if ":" in username or value != value.strip() or any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise SaltInvocationError(
            f"The login for {key} cannot be written to a table: no colon in the user name, no blank at the"
            " beginning or end, no control characters"
        )
    return f"{key} {value}\n"


def _text(logins):
    """The whole table, with the secrets."""
    lines = []
    for key, path in (logins or {}).items():
        found = [__salt__["mta_secret.get"](f"{path}:{name}") for name in ("username", "password")]
        if None in found:
            raise SaltInvocationError(f"Pillar {path} has no username and password")
        lines.append(_line(key, *found))
    return HEADER + "".join(lines)


def _read(path):
    """The file's text; ``None`` when there is none."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape", newline="") as handle:
            return handle.read()
    except FileNotFoundError:
        return None
    except OSError as err:
        raise CommandExecutionError(f"Cannot read {path}: {err.strerror}") from err


def _entries(text):
    """Keys to values of a table."""
    lines = (line.split(None, 1) for line in (text or "").splitlines() if not line.startswith("#"))
    return {line[0]: line[-1] for line in lines if line}


def _differences(old, new):
    """What differs between two texts, by key, without a value; ``contents`` for comments and order."""
    before, after = _entries(old), _entries(new)
    changes = {
        key: {"old": "(hidden)" if key in before else None, "new": "(hidden, changed)" if key in after else None}
        for key in {**before, **after}
        if before.get(key) != after.get(key)
    }
    return changes or {"contents": {"old": "(hidden)", "new": "(hidden, changed)"}}


def _access(path):
    """Mode and owner of a file."""
    status = os.stat(path)
    try:
        owner = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        owner = str(status.st_uid)
    return {"mode": f"{stat.S_IMODE(status.st_mode):04o}", "owner": owner}


def plan(name, logins=None):
    """
    Tell what :func:`apply` would change; no process is started.

    name (str)
        Path of the table.

    logins (dict, default: none, which removes the table)
        Lookup keys (``[host]:port``, a sender's address, or ``@domain``) to the pillar paths of sections with
        ``username`` and ``password``.

    Returns ``{"changes": …, "activate": …}``, without values. Raises ``SaltInvocationError`` for a login that is
    not there or cannot be written, ``CommandExecutionError`` when the file cannot be read.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_relay.plan /etc/postfix/relay_passwords '{"[smtp.example.net]:587": "postfix_mta:relay"}'
    """
    old, new = _read(name), _text(logins) if logins else None
    changes = {} if old == new else _differences(old, new)
    if old is not None and new is not None:
        wanted = {"mode": MODE, "owner": OWNER}
        changes.update(
            {item: {"old": is_, "new": wanted[item]} for item, is_ in _access(name).items() if is_ != wanted[item]}
        )
    return {"changes": changes, "activate": RELOAD if changes else {}}


def apply(name, logins=None):
    """
    Write the table, or remove it, as part of the transaction.

    name, logins
        As for :func:`plan`.

    Raises as :func:`plan` does, and ``CommandExecutionError`` when the file cannot be written.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_relay.apply /etc/postfix/relay_passwords '{"[smtp.example.net]:587": "postfix_mta:relay"}'
    """
    if logins:
        __salt__["mta_transaction.write"](
            name, _text(logins), user=OWNER, group="root", mode=MODE, activate=RELOAD
        )
    else:
        __salt__["mta_transaction.remove"](name, activate=RELOAD)
