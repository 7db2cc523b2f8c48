"""Secrets from pillar, or from where an sdb URI in pillar leads; no error shows one."""

from __future__ import annotations

from typing import Any

from salt.exceptions import CommandExecutionError, SaltInvocationError
from salt.utils.data import traverse_dict_and_list

from _mta_minion import Minion

LONGEST = 1023  # bytes; what OpenSSL takes for a passphrase


def get(minion: Minion, path: str | None, longest: int = LONGEST, one_line: bool = True) -> str | None:
    """
    Return the secret that pillar has at ``path``, or that the ``sdb://`` URI there leads to.

    path
        Pillar path, such as ``postfix_mta:verify:login:password``. Empty or ``None``: there is no secret.

    longest
        How many bytes it may have.

    one_line
        Whether a line break is refused. Files and vaults often have one at the end of a password.

    ``None``: pillar has nothing there. Raises ``CommandExecutionError`` when an sdb URI leads to nothing, and
    ``SaltInvocationError`` when what is there is no such text of 1 to ``longest`` bytes. Neither shows the value.
    """
    # pillar.get of Salt 3008 gives execution modules '**********' instead of the values.
    value = traverse_dict_and_list(minion.pillar, path, None) if path else None
    return None if value is None or path is None else resolve(minion, value, path, longest, one_line)


def resolve(minion: Minion, value: Any, path: str, longest: int = LONGEST, one_line: bool = True) -> str:
    """
    Return the secret that a value is, or that its ``sdb://`` URI leads to.

    For pillar with keys that a pillar path cannot hold, with a colon in them.

    value
        What pillar has.

    path
        Where, for messages.

    longest, one_line
        As for :func:`get`.

    Raises as :func:`get` does.
    """
    if isinstance(value, str) and value.startswith("sdb://"):
        uri, value = value, minion.functions["sdb.get"](value)
        if not value or value == uri:  # without such a profile Salt returns the URI itself
            raise CommandExecutionError(f"The sdb URI in pillar {path} leads to nothing")
    if not isinstance(value, str) or not _is_utf_8(value) or not 1 <= len(value.encode()) <= longest:
        raise SaltInvocationError(f"Pillar {path} must be a text of 1 to {longest} bytes: quote it")
    if one_line and ("\n" in value or "\r" in value):
        raise SaltInvocationError(f"The secret of pillar {path} has a line break; it must be one line")
    return value


def _is_utf_8(text: str) -> bool:
    """Whether a text can be encoded: an error that says where it cannot would have it in its arguments."""
    return not any(0xD800 <= ord(character) <= 0xDFFF for character in text)
