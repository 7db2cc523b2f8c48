"""
Install the mail server's packages; debconf answers and the system mail name are given before that.

On the Debian family nothing is started while everything is installed, and an installation is simulated first: it
is refused when it would remove anything but a competing mail transport agent. Other families use Salt's ``pkg``
module.
"""

from salt.loader.dunder import __opts__  # noqa: F401

import _mta_guard

with _mta_guard.library(__file__):
    import _mta_minion
    import _mta_package


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
    return _mta_package.versions(_mta_minion.Minion.of(globals()), names)


def problems(names):
    """
    Return why packages cannot be installed; nothing is changed.

    names (list of str)
        Names of the packages to be installed.

    Returns a list of reasons, empty when the installation can go ahead. A package that apt does not know yet
    is no reason: an apply refreshes its lists first. Only the Debian family gets reasons.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_package.problems '[postfix]'
    """
    return _mta_package.problems(_mta_minion.Minion.of(globals()), names)


def converge(packages, answers, mailname, mailname_file, test, idle=None, **job):
    """
    Install the packages that are missing, and keep the system mail name. For states.

    packages, answers, mailname, mailname_file, idle
        As for the state ``mta_package.installed``.

    test (bool)
        Only tell.

    Returns ``result``, ``changes`` and ``comment`` of the state; refused as a job.
    """
    _mta_minion.refuse_job("mta_package.converge", job)
    return _mta_package.converge(
        _mta_minion.Minion.of(globals()), packages, answers, mailname, mailname_file, test, idle
    )
