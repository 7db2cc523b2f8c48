"""
Say truthfully whether Postfix and saslauthd run and start at boot, and start, stop, reload and enable them.

systemd is not asked what it believes: on Debian 11 and 12 it believes that saslauthd runs when the init
script did nothing (``START=no``), and its ``postfix.service`` there is a wrapper that is always up.
:func:`status` reads PID files, ``/proc`` and the links that start a service at boot, so it costs no process,
and is the same with and without systemd as PID 1.

Sources: systemctl(1), systemd-sysv-generator(8), update-rc.d(8), postfix(1), proc(5).
"""

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

    names
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

    name
        ``postfix`` or ``saslauthd``.

    Raises ``CommandExecutionError`` with the output, and under systemd the service's last log lines.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_service.start postfix
    """
    return _mta_services.start(name)


def stop(name, for_good=True):
    """
    Stop a service, and see that its daemon is gone, also one that runs with settings from before a change.

    name
        ``postfix`` or ``saslauthd``.

    for_good
        ``False``: it is to be started again, so a Postfix that would not start goes on running. Default ``True``.

    Raises ``CommandExecutionError`` with the output, and under systemd the service's last log lines; and for a
    Postfix that goes on running.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_service.stop postfix
    """
    return _mta_services.stop(name, for_good)


def restart(name):
    """
    Stop a service and start it. A Postfix that would not start again goes on running.

    name
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

    name
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

    name
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

    name
        ``postfix`` or ``saslauthd``.

    Raises ``CommandExecutionError`` with the output.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_service.disable saslauthd
    """
    return _mta_services.disable(name)


def daemon_reload():
    """
    Have systemd read its unit files anew; nothing where it does not run. The units of saslauthd's front end with
    their files: systemd would keep them, and forget what belongs to them.

    Raises ``CommandExecutionError`` with the output.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_service.daemon_reload
    """
    return _mta_services.daemon_reload()
