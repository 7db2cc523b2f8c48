"""
The formula's settings: defaults and pillar merged, and the whole pillar validated.

:func:`effective` is what SLS files render with; :func:`problems` is what the state ``mta_settings.valid`` reports
before anything on the host changes.
"""

import datetime

from salt.loader.dunder import __opts__  # noqa: F401

import _mta_guard

with _mta_guard.library(__file__):
    import _mta_minion
    import _mta_pillar
    import _mta_revision
    import _mta_settings
    import _mta_sls
    import _mta_valid


def revision():
    """
    Return the revision of the formula whose modules are loaded, 12 hexadecimal digits.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_settings.revision
    """
    return _mta_revision.REVISION


def effective(saltenv="base"):
    """
    Return the effective settings: defaults, operating system family, profile and pillar, without secrets.

    saltenv (str, default ``base``)
        The environment that holds the formula.

    Returns the pillar's keys with their effective values (``beacon`` also with what it looks at), ``short`` and
    ``domain`` (the host name's parts), ``pairs`` (of key and certificate, one or two), ``pairs_keep`` (files that
    they need), ``authority``, each pair's ``arguments``, ``conversation`` and ``saslauthd`` (what the states of
    ``mta_cert``, ``mta_probe`` and ``saslauthd`` are called with), ``main_cf`` (all parameters), ``of_profile``
    (names of those that the profile has), ``revert`` (names of all parameters and services that are asked for),
    ``family`` (what ``os_family.yaml`` says), ``families`` (the known ones), ``revision`` (of the formula) and
    ``synced`` (whether the loaded modules are those of the file server). In place of secrets are pillar paths
    (or ``None``):
    ``certificate.ca.passphrase_pillar``, ``certificate.ca.previous_passphrase_pillar``, ``verify.login_pillar``
    and the ``logins`` of a table of ``maps``; and in ``certificate.files`` in place of what is no path of a file.

    A pillar that :func:`problems` refuses is merged as far as it has the shape of the defaults, so that SLS
    files render and the refusal can be reported.

    Raises ``CommandExecutionError`` when the formula's files cannot be read.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_settings.effective
    """
    return _mta_settings.current(_mta_minion.Minion.of(globals()), saltenv)


def states(parts, revision, saltenv="base"):
    """
    Return the states of SLS files of the formula and of those that they include, for ``init.sls``.

    parts (list of str)
        Their names, without that of the formula.

    revision (str)
        Of the formula on the file server.

    saltenv (str, default ``base``)
        The environment that holds the formula.

    They are remembered while revision, pillar and the host's name are the same, for six hours at most. Empty where
    Salt has to render the files itself: the loaded modules are of another revision, or one of the files has no
    states.

    Raises ``CommandExecutionError`` when the formula's files cannot be read.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_settings.states '[sasl, aliases]' REVISION
    """
    now = datetime.datetime.now(datetime.timezone.utc)
    return _mta_sls.states(_mta_minion.Minion.of(globals()), parts, revision, saltenv, now)


def problems(key="postfix_mta", hostname=None, family=None, pillar=None, saltenv=None):
    """
    Return what is wrong with the pillar, one line for each problem, each beginning with the pillar path.

    key (str, default ``postfix_mta``)
        The pillar key that holds the settings.

    hostname (str, default: the grain ``fqdn``)
        The host name in force when the pillar has none.

    family (str, default: the grain ``os_family``)
        The operating system family.

    pillar (dict, default: the minion's)
        What the key holds, to be tried before it is put into pillar.

    saltenv (str, default: that of the last apply, or ``base``)
        The environment that holds the formula.

    A secret's value is never part of a line. Names of main.cf and master.cf are compared with this host's
    Postfix when nothing else is wrong with them. Raises ``CommandExecutionError`` when Postfix, or the formula's
    files, cannot be read.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_settings.problems
    """
    minion = _mta_minion.Minion.of(globals())
    if pillar is None:
        return _mta_valid.problems(minion, key, hostname, family, saltenv)
    return _mta_pillar.problems(minion, key, hostname, family, pillar, saltenv)
