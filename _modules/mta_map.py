"""
Show Postfix's lookup tables, and look keys up in them as its daemons do.

The state ``mta_map.managed`` writes and compiles tables; these functions only read.
"""

from __future__ import annotations

from salt.loader.dunder import __opts__  # noqa: F401

import _mta_guard

with _mta_guard.library(__file__):
    import _mta_minion
    import _mta_tables


def default_type() -> str | None:
    """
    Return the type of a table that does not say its own: ``default_database_type`` of main.cf, or Postfix's.

    ``None`` while Postfix is not installed. Starts a process only when Postfix has changed since the last time.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_map.default_type
    """
    return _mta_tables.default_type(_mta_minion.Minion.of(globals()))


def show(path: str, kind: str) -> list[list[str]] | None:
    """
    Return the entries of a table's source, a list of ``[key, value]``; ``None`` when there is no such file.

    path
        Of the source.

    kind
        Type, which decides how a line is read. Settings (of ldap and so on) are ``[name, value]``.

    Raises ``CommandExecutionError`` when the file cannot be read, or is no UTF-8 text.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_map.show /etc/postfix/virtual hash
    """
    return _mta_tables.show(path, kind)


def lookup(table: str, key: str, config_directory: str = "/etc/postfix") -> str | None:
    """
    Look a key up in a table, as Postfix's daemons do.

    table
        ``type:path`` (any type of ``postconf -m``), or a parameter of main.cf that names tables, such as
        ``virtual_alias_maps``: they are asked in turn.

    key
        Text, one line.

    config_directory
        Path, ``/etc/postfix``.

    Returns the value, or ``None`` when there is no such key. Raises ``CommandExecutionError`` when a table cannot
    be read, or its server does not answer; ``SaltInvocationError`` for a key of more than one line.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_map.lookup hash:/etc/postfix/virtual info@example.com
        salt '*' mta_map.lookup virtual_alias_maps info@example.com
    """
    return _mta_tables.lookup(_mta_minion.Minion.of(globals()), table, key, config_directory)
