"""Whether users may send as themselves: who owns their addresses by ``smtpd_sender_login_maps``, postconf(5)."""

from __future__ import annotations

import pwd
from collections.abc import Mapping, Sequence

from salt.exceptions import CommandExecutionError

import _mta_postfix_syntax
import _mta_table_syntax

# So many users are asked for, for so many seconds.
MOST_USERS = 100
SECONDS = 8
# Types of tables whose logins are a text to be read.
READ = ("inline", *_mta_table_syntax.SUFFIXES, "texthash", "regexp", "pcre")


def disowned(value: str, users: Sequence[str], domains: Sequence[str]) -> bool:
    """
    Tell whether no user has an address of his own, as far as tables say it.

    value
        Tables, as ``smtpd_sender_login_maps`` names them, expanded.

    users
        Names with which users log in, and in which of their domains they write (``domains``).

    Where tables have other logins than users of this host, or cannot be asked, nothing is told: ``False``.
    """
    asked = users[:MOST_USERS]
    addresses = [f"{name}@{domain}" for name in asked for domain in domains]
    found: dict[str, str] = {}
    try:
        for table in _mta_postfix_syntax.items_of(value):
            keys = [*addresses, *asked, *(f"@{domain}" for domain in domains)]
            answers, complains = _mta_table_syntax.looked_up(table, keys, SECONDS)
            if complains:
                return False
            # The first table that has an address counts.
            found = {**answers, **found}
    except CommandExecutionError:
        return False
    return bool(asked) and not _has_one(found, asked, domains) and not _is_for_others(value)


def _has_one(found: Mapping[str, str], users: Sequence[str], domains: Sequence[str]) -> bool:
    """Whether a user is among the owners of an address that is his by its name."""
    for name in users:
        for domain in domains:
            owners = found.get(f"{name}@{domain}") or found.get(name) or found.get(f"@{domain}") or ""
            logins = {owner.partition("@")[0] for owner in _mta_postfix_syntax.items_of(owners.lower())}
            if name.lower() in logins:
                return True
    return False


def _is_for_others(value: str) -> bool:
    """Whether a table has logins that are no users of this host, or does not show which it has."""
    known = {one.pw_name for one in pwd.getpwall()}
    for kind, path in _mta_postfix_syntax.tables("smtpd_sender_login_maps", value):
        if kind not in READ:
            return True
        text = _mta_table_syntax.source(kind, path)
        entries = _mta_table_syntax.parse(kind, "\n".join(_pairs(text)) if kind == "inline" else text)
        owners = {owner for _, logins, _ in entries for owner in _mta_postfix_syntax.items_of(logins)}
        if not {owner.partition("@")[0] for owner in owners} <= known:
            return True
    return False


def _pairs(text: str) -> list[str]:
    """The entries of an inline table, ``{ {key = value}, key=value }``, as lines of a table's source."""
    items = _mta_postfix_syntax.items_of(text.strip().removeprefix("{").removesuffix("}"))
    return [" ".join(item.strip("{ }").split("=", 1)) for item in items]
