"""
Read, check and change Postfix's ``main.cf`` and ``master.cf``.

Reading happens in process, by the rules of postconf(5) and master(5): a run that has nothing to change reads
two files and starts no program. A change is checked first in a private copy, by Postfix's own programs and
daemons, and rolled back when the server does not answer as it should. Values that Postfix takes for the same are
the same: a list such as ``mynetworks`` is compared item by item, whether commas or blanks separate them; the rest
is text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from salt.loader.dunder import __opts__  # noqa: F401

import _mta_guard

with _mta_guard.library(__file__):
    import _mta_apply
    import _mta_migration
    import _mta_minion
    import _mta_postfix_edit
    import _mta_postfix_stage
    import _mta_postfix_view
    import _mta_tables

__func_alias__ = {"set_": "set"}


def show(config_directory: str = _mta_postfix_view.CONFIG_DIRECTORY) -> dict[str, str]:
    """
    Return the parameters that main.cf sets, ``{name: value}``, read in process by the rules of postconf(5).

    config_directory
        Path, ``/etc/postfix``.

    Continuation lines are joined, the last of several settings of a name counts, ``$name`` is not expanded.
    Raises ``CommandExecutionError`` when there is no main.cf, and for a line that cannot be parsed, by its
    number.

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.show
    """
    return _mta_postfix_view.show(config_directory)


def get(parameter: str, config_directory: str = _mta_postfix_view.CONFIG_DIRECTORY) -> str | None:
    """
    Return the value of a parameter: the one in main.cf, else Postfix's default; ``None`` when it has neither.

    parameter
        Name.

    config_directory
        Path, ``/etc/postfix``.

    ``$name`` in it is not expanded. Raises ``CommandExecutionError`` as :func:`show` does, and when the
    default is needed and Postfix is not installed.

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.get smtpd_banner
    """
    return _mta_postfix_view.get(parameter, config_directory)


def set_(
    parameters: Mapping[str, Any],
    services: Mapping[str, Any] | None = None,
    config_directory: str = _mta_postfix_view.CONFIG_DIRECTORY,
) -> dict[str, Any]:
    """
    Set parameters, all by one process, and verify it by an SMTP check; rolled back when that fails.

    parameters
        Dictionary of names to text, number, boolean (``yes``/``no``), list (joined by commas) or ``None``, which
        takes the parameter out.

    services
        Dictionary of master.cf entries as for the state ``postconf.managed``. Default: none.

    config_directory
        Path, ``/etc/postfix``.

    Returns the changes, ``{name: {"old": …, "new": …}}``. Raises ``SaltInvocationError`` for an argument that
    cannot be, ``CommandExecutionError`` when Postfix does not work with them; nothing is changed then.

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.set parameters='{"home_mailbox": "Maildir/", "biff": false}'
    """
    return _mta_apply.set_(_mta_minion.Minion.of(globals()), parameters, services, config_directory)


def reset(
    parameters: str | Sequence[str], config_directory: str = _mta_postfix_view.CONFIG_DIRECTORY
) -> dict[str, Any]:
    """
    Take parameters out of main.cf, so that their defaults hold; otherwise as :func:`set_`.

    parameters
        List of names, or one name.

    config_directory
        Path, ``/etc/postfix``.

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.reset '[biff, relayhost]'
    """
    return _mta_apply.reset(_mta_minion.Minion.of(globals()), parameters, config_directory)


def services(config_directory: str = _mta_postfix_view.CONFIG_DIRECTORY) -> dict[str, dict[str, Any]]:
    """
    Return the entries of master.cf, read in process by the rules of master(5).

    config_directory
        Path, ``/etc/postfix``.

    Returns ``{"smtp/inet": {"private": "n", "unprivileged": "-", "chroot": "y", "wakeup": "-",
    "process_limit": "-", "command": "smtpd", "overrides": {parameter: value}, "arguments": [word]}}``. Raises
    ``CommandExecutionError`` when there is no master.cf, and for an entry that master(8) would refuse, by its
    line number.

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.services
    """
    return _mta_postfix_view.services(config_directory)


def differences(config_directory: str = _mta_postfix_view.CONFIG_DIRECTORY) -> dict[str, dict[str, Any]]:
    """
    Return in what main.cf and master.cf differ from the package's own, as pillar and ``postconf.managed`` take it.

    config_directory
        Path, ``/etc/postfix``.

    Returns ``{"parameters": …, "services": …, "left_out": {name: why}}``. What stands in the package's files with
    another value or not at all is there with this host's value; what only they have is ``None``. Left out is
    what ``postconf.managed`` could not be told. Reads files; starts no process. Raises
    ``CommandExecutionError`` as :func:`show` and :func:`services` do.

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.differences
    """
    return _mta_postfix_edit.differences(config_directory)


def export(
    config_directory: str = _mta_postfix_view.CONFIG_DIRECTORY,
    probe: bool = True,
    include: list[str] | str | None = None,
) -> str:
    """
    Return the pillar that describes the mail server of this host, as the text of an SLS file.

    config_directory
        Path, ``/etc/postfix``.

    probe
        Whether to hold the conversation of an apply with the running server. It leaves no mail behind. Where this
        server does not pass it, it is switched off in the pillar. Default ``True``.

    include
        Names of what is brought in although it is, or looks like, a secret: those that the comments give, such as
        ``parameters:smtpd_client_restrictions``, or their last part; a list, or a text with commas. Default: none.

    Applying that pillar changes nothing: it has ``profile: none``, in what main.cf and master.cf differ from the
    package's own, the aliases, and saslauthd where it is set up as this formula does it. Certificates and the
    firewall are left alone. Secrets, and what pillar cannot hold, are left out and named in its comments. Raises
    ``CommandExecutionError`` when main.cf or master.cf cannot be read, by the line.

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.export
    """
    names = include.split(",") if isinstance(include, str) else include or []
    return _mta_migration.export(_mta_minion.Minion.of(globals()), config_directory, probe, names)


def check(config_directory: str = _mta_postfix_view.CONFIG_DIRECTORY) -> list[str]:
    """
    Return what Postfix says against its configuration, a list of texts; empty when it says nothing.

    config_directory
        Path, ``/etc/postfix``.

    Asks ``postconf -n``, ``postconf -M``, ``postmap`` and ``postfix check``. They do not see everything: a
    bad network in ``mynetworks`` shows only in an SMTP check, see ``mta_probe.check``.

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.check
    """
    return _mta_postfix_stage.check(config_directory)


def listeners(config_directory: str = _mta_postfix_view.CONFIG_DIRECTORY) -> list[dict[str, Any]]:
    """
    Return what smtpd(8) and postscreen(8) listen on, and what a client may expect there; read in process.

    config_directory
        Path, ``/etc/postfix``.

    Each is a dictionary: ``service`` (``smtp/inet``), ``host``, ``port``, ``wrappermode``, ``starttls``,
    ``auth``, ``auth_before_tls`` (booleans), ``bars_users`` (the parameter by which nobody may send who has logged
    in, if there is one), ``login_maps`` (``smtpd_sender_login_maps``, where users may only send from what
    it gives him), ``certificate``, ``key`` (paths or ``None``), ``certificates``,
    ``keys`` (lists of paths: there may be one pair per type of key, or several chain files), ``sasl_type``,
    ``sasl_files`` (paths where the settings of libsasl may be, if clients log in by it), ``hostname``,
    ``may_hide`` (of AUTH and STARTTLS, what some clients are not shown), ``proxy`` (the protocol of the proxy that
    it asks for), ``hopcount_limit`` (number of ``Received:`` headers with which a message is refused). Empty
    without configuration.

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.listeners
    """
    return _mta_postfix_view.listeners(config_directory)


def ports(config_directory: str = _mta_postfix_view.CONFIG_DIRECTORY) -> list[int]:
    """
    Return the TCP ports on which smtpd(8) and postscreen(8) serve other hosts; read in process.

    config_directory
        Path, ``/etc/postfix``.

    Ports that are bound to the loopback interface only are left out. In a state run where ``postconf.managed`` has
    announced changes in test mode, it is what there will be after them. Empty without configuration.

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.ports
    """
    return _mta_postfix_edit.ports(_mta_minion.Minion.of(globals()), config_directory)


def lookup(table: str, key: str, config_directory: str = _mta_postfix_view.CONFIG_DIRECTORY) -> str | None:
    """
    Look a key up in a table, or in the tables of a parameter; see :py:func:`mta_map.lookup`.

    table
        ``type:path``, or a parameter such as ``virtual_alias_maps``.

    key
        Text, one line.

    config_directory
        Path, ``/etc/postfix``.

    Returns the value, or ``None``.

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.lookup virtual_alias_maps info@example.com
    """
    return _mta_tables.lookup(_mta_minion.Minion.of(globals()), table, key, config_directory)


def refused(
    parameters: Mapping[str, Any] | None = None,
    services: Mapping[str, Any] | None = None,
    config_directory: str = _mta_postfix_view.CONFIG_DIRECTORY,
) -> list[dict[str, Any]]:
    """
    Return what this Postfix would not know of new settings, before anything is changed.

    parameters, services
        Dictionaries as for ``postconf.managed``.

    config_directory
        Path, ``/etc/postfix``.

    Returns a list of ``{"parameter" or "service": name, "reason": text, "nearest": name or None}``.
    postconf(1) judges the merged configuration, so a name counts as known that is referred to as ``$name``,
    is a restriction class, or belongs to a service or a table. Without a process, and empty, when every name
    is in the files already, and when Postfix is not installed.

    CLI Example:

    .. code-block:: bash

        salt '*' postconf.refused parameters='{"smtpd_baner": "x"}'
    """
    return _mta_postfix_stage.refused(_mta_minion.Minion.of(globals()), parameters, services, config_directory)
