"""
Keep Postfix's lookup tables: their source files by the rules of postmap(1), and their compiled forms.

- Indexed types are compiled by postmap(1) in a private directory and renamed into place, so that a daemon has the
  old table or the new one, whole. It finds out by itself: the file that it has open has no name any more
  (dict_changed_name(3)).
- Types that are read as text (``texthash``, ``pcre``, ``regexp``, ``cidr``) are tried by postmap(1) before they
  are switched.
- Of ``ldap``, ``mysql``, ``pgsql``, ``sqlite``, ``memcache`` and ``mongodb`` the source is a file of settings,
  ``name = value``.

Comments in a source file, and the order of its entries, stay; entries that nobody asked for go.

Whether a compiled form is what its source gives is known by digests kept in ``/var/lib/postfix_mta/maps.json``.
Where they do not match, and only there, the source is compiled and compared: postmap(1) gives the same bytes for
the same source, but for an identifier in the header of Berkeley DB files and the time that postalias(1) puts in.
"""

import _mta_guard

with _mta_guard.library(__file__):
    import _mta_tables
    from _mta_minion import Minion


def default_type():
    """
    Return the type of a table that does not say its own: ``default_database_type`` of main.cf, or Postfix's.

    ``None`` while Postfix is not installed. Starts a process only when Postfix has changed since the last time.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_map.default_type
    """
    return _mta_tables.default_type(Minion.of(globals()))


def show(path, kind):
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


def lookup(table, key, config_directory="/etc/postfix"):
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
    return _mta_tables.lookup(Minion.of(globals()), table, key, config_directory)
