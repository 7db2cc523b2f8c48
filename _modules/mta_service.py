"""
Say truthfully whether Postfix and saslauthd run and start at boot, and start, stop, reload and enable them.

Sources: systemctl(1), update-rc.d(8), postfix(1).
"""

from salt.loader.dunder import __opts__  # noqa: F401

import _mta_guard

with _mta_guard.library(__file__):
    import _mta_services


def manager():
    """
    Return what starts services here: ``systemd`` when it is PID 1, else ``sysv``.

    Source: sd_booted(3).

    CLI Example:

    .. code-block:: bash

        salt '*' mta_service.manager
    """
    return _mta_services.manager()


def status(names):
    """
    Tell which services run, start at boot, and are installed, without starting a process.

    names (list)
        List of services: ``postfix``, ``saslauthd``.

    Returns ``{name: {"active": bool, "enabled": bool, "installed": bool}}``. ``active`` is whether the
    daemon's process is there, not what systemd believes.

    Raises ``SaltInvocationError`` for any other service.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_service.status '[postfix, saslauthd]'
    """
    return _mta_services.status(names)


def start(name):
    """
    Start a service, and see that its daemon runs. One that runs is left alone.

    name (str)
        ``postfix`` or ``saslauthd``.

    Raises ``CommandExecutionError`` with the output, and under systemd the service's last log lines.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_service.start postfix
    """
    return _mta_services.start(name)


def stop(name):
    """
    Stop a service, and see that its daemon is gone, also one that runs with settings from before a change.

    name (str)
        ``postfix`` or ``saslauthd``.

    Raises ``CommandExecutionError`` with the output, and under systemd the service's last log lines.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_service.stop postfix
    """
    return _mta_services.stop(name)


def restart(name):
    """
    Stop a service and start it. A Postfix that would not start again goes on running.

    name (str)
        ``postfix`` or ``saslauthd``.

    Raises ``CommandExecutionError`` as :func:`stop` and :func:`start` do, and for a Postfix that would not start.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_service.restart saslauthd
    """
    return _mta_services.restart(name)


def reload(name):
    """
    Have a running daemon take its settings anew; no connection is refused or dropped.

    name (str)
        ``postfix``. saslauthd reads its settings at its start only, so it is restarted.

    Raises ``CommandExecutionError`` when it does not run, or would not survive it.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_service.reload postfix
    """
    return _mta_services.reload(name)


def enable(name):
    """
    Have a service start at boot.

    name (str)
        ``postfix`` or ``saslauthd``.

    Raises ``CommandExecutionError`` when it would still not start.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_service.enable saslauthd
    """
    return _mta_services.enable(name)


def disable(name):
    """
    Keep a service from starting at boot.

    name (str)
        ``postfix`` or ``saslauthd``.

    Raises ``CommandExecutionError`` with the output.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_service.disable saslauthd
    """
    return _mta_services.disable(name)
