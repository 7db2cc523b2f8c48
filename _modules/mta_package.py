"""
Install the mail server's packages; debconf answers and the system mail name are given before that.

On the Debian family the dpkg database is read in process, nothing is started while everything is installed,
and an installation is simulated first: it is refused when it would remove anything but a competing mail
transport agent. Other families use Salt's ``pkg`` module.
"""

import _mta_guard

with _mta_guard.library(__file__):
    import _mta_package
    from _mta_minion import Minion


def versions(names):
    """
    Return the installed version of packages.

    names (list of str)
        Package names.

    Returns ``{name: version}``, with ``None`` for a package that is not installed completely: absent, removed
    with its configuration left behind, or unpacked but not configured. The Debian family's answer comes from
    dpkg's database (dpkg(1)), other families' from ``pkg.version``.

    Raises ``CommandExecutionError`` when the database cannot be read.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_package.versions '[postfix, sasl2-bin]'
    """
    return _mta_package.versions(Minion.of(globals()), names)


def problems(names):
    """
    Return why packages cannot be installed; nothing is changed.

    names (list of str)
        Names of the packages to be installed.

    Returns a list of reasons, empty when the installation can go ahead. A package that apt does not know yet
    is no reason: :py:func:`install` refreshes them first. Only the Debian family gets reasons.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_package.problems '[postfix]'
    """
    return _mta_package.problems(Minion.of(globals()), names)


def install(names, answers=None, lock_timeout=120):
    """
    Install packages without asking anything.

    names (list of str)
        Names of the packages to be installed.

    answers (dict, default None)
        debconf answers by package, ``{package: {question: [type, value]}}``. Those of a package in ``names``
        that was never installed are given to debconf before apt runs, the others are left out
        (debconf-set-selections(1)).

    lock_timeout (int, seconds, default 120)
        How long to wait for another package manager.

    Raises ``SaltInvocationError`` for an answer that debconf's format cannot hold. Raises
    ``CommandExecutionError``, with nothing changed, when apt would remove a package that is not a competing
    mail transport agent, when the packages are not found, or when another package manager keeps the lock; and
    when the installation fails.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_package.install '[postfix]' '{postfix: {postfix/mailname: [string, mail.example.com]}}'
    """
    return _mta_package.install(Minion.of(globals()), names, answers, lock_timeout)


def mail_name(path):
    """
    Return the system mail name: what the file holds, ``None`` when it is not there (mailname(5)).

    path (str)
        Usually ``/etc/mailname``.

    Raises ``CommandExecutionError`` when the file cannot be read.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_package.mail_name /etc/mailname
    """
    return _mta_package.mail_name(path)


def set_mail_name(path, name):
    """
    Write the system mail name to its file, at once and readable by all (mailname(5)).

    path (str)
        Usually ``/etc/mailname``. Of a symbolic link, the file that it leads to is written.

    name (str)
        A fully qualified domain name.

    Raises ``CommandExecutionError`` when the file cannot be written.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_package.set_mail_name /etc/mailname mail.example.com
    """
    return _mta_package.set_mail_name(path, name)
