"""
What the last apply was: its result, the parts that it changed, and the main.cf and master.cf that it left.

Its end is an event for the master when it changed something or failed: ``postfix_mta/applied`` with ``result``
(whether every state of the formula succeeded), ``changed`` and ``failed`` (lists of parts, such as ``config``) and
``duration`` (seconds).
"""

from salt.loader.dunder import __opts__  # noqa: F401

import _mta_guard

with _mta_guard.library(__file__):
    import _mta_apply
    import _mta_last_apply
    import _mta_minion
    import _mta_transaction


def ended(results, config_directory="/etc/postfix", revision=None, saltenv=None):
    """
    Record how an apply ended; send the event when it changed something or failed.

    results (dict)
        Results of the run's states so far, by key. Of those that other SLS files have nothing is told.

    config_directory (str, default ``/etc/postfix``)
        Where main.cf and master.cf are. They are recorded as those of this apply when ``postconf.managed`` was
        part of it and succeeded.

    revision (str, default None)
        Of the formula.

    saltenv (str, default None)
        The environment that holds the formula; later applies, and what is asked in between, are in the same.

    Returns the record, as :func:`last` does. Where it cannot be written, the next apply writes it.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_apply.ended '{}'
    """
    minion = _mta_minion.Minion.of(globals())
    return _mta_apply.ended(minion, results, config_directory, revision, saltenv)


def last():
    """
    Tell what is known of the last apply; empty where there was none.

    Returns ``result`` (boolean), ``changed``, ``failed`` (lists of parts), ``reasons`` (of those that failed by
    themselves: part to the first line of why), ``duration`` (seconds), ``time`` (Unix time of its end),
    ``revision`` (of the formula), and ``files``: path of main.cf and master.cf to their SHA-256 after the last
    apply that looked after them.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_apply.last
    """
    return _mta_last_apply.last(_mta_minion.Minion.of(globals()))


def differing():
    """
    Return which of main.cf and master.cf are not what the last apply left, as a list of paths.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_apply.differing
    """
    return _mta_last_apply.differing(_mta_minion.Minion.of(globals()))


def participate(participant, name, arguments, transaction=None, test=False, subject=None, **job):
    """
    Plan one participant's part of an apply, and make its changes when there are any. For states.

    participant (str)
        Its state, such as ``postconf.managed``.

    name (str)
        The state's name.

    arguments (dict)
        What the participant is to be.

    transaction (str, default None)
        Name of the transaction whose closing state activates and verifies; ``None``: it is closed here.

    test (bool, default False)
        Only plan.

    subject (str, default: the name)
        What the comment calls the thing.

    Returns a state's result; refused as a job.
    """
    _mta_minion.refuse_job("mta_apply.participate", job)
    minion = _mta_minion.Minion.of(globals())
    return _mta_apply.participate(minion, participant, name, arguments, transaction, test, subject)


def converge(participant, name, arguments, test, subject, **job):
    """
    Plan what takes no part in the transaction, and make its changes when there are any. For states.

    Parameters and result as for :func:`participate`; refused as a job.
    """
    _mta_minion.refuse_job("mta_apply.converge", job)
    return _mta_apply.converge(_mta_minion.Minion.of(globals()), participant, name, arguments, test, subject)


def commit(services=None, verify=None, signed=None, **job):
    """
    Activate what the participants changed, hold the SMTP conversation, and commit or undo. For states.

    services (list, default None)
        Names of services that are enabled and run afterwards.

    verify (dict, default None)
        Arguments of ``mta_probe.check``; ``{"enabled": False}`` leaves the conversation out.

    signed (list, default None)
        Domains whose mail has to be signed by the signer.

    Returns ``{"result": bool, "comment": str, "transcript": [str]}``; refused as a job.
    """
    _mta_minion.refuse_job("mta_apply.commit", job)
    return _mta_apply.commit(_mta_minion.Minion.of(globals()), services, verify, signed)


def undo(reason, **job):
    """
    Undo the transaction that is open in this run. For states.

    reason (str)
        Why, as a sentence.

    Returns ``restored`` and ``failed`` (lists of paths), ``notes``, ``answers`` (whether the server answers as it
    did before) and ``comment``; refused as a job.
    """
    _mta_minion.refuse_job("mta_apply.undo", job)
    return _mta_transaction.undo(_mta_minion.Minion.of(globals()), reason)


def outlook(services=(), **job):
    """
    Tell what the state that closes the transaction will have to do. For states.

    services (list, default none)
        Names of services whose state it is to tell as well, as ``mta_service.status`` does.

    Returns ``{"services": {service: its state}, "changes": bool, "activate": {service: action}, "done": {service:
    the action as a participle}, "undone": a sentence or None, "members": {subject: changes}}``: in a real run what
    has been done, in test mode what has been announced; refused as a job.
    """
    _mta_minion.refuse_job("mta_apply.outlook", job)
    return _mta_transaction.outlook(_mta_minion.Minion.of(globals()), services)
