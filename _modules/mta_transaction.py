"""
The transaction in which an apply changes the mail server's files: what a killed one has left, and its roll back.

An apply first saves what was there in its journal, then replaces each file atomically, activates the daemons,
and holds an SMTP conversation with the live server. Then it is committed by one rename, or every saved file is
restored and the daemons are brought back. An undo tries every file; what it could not restore, and what somebody
else had edited meanwhile, is kept and reported.

A run that is killed leaves its journal, which :func:`recover` resolves at the next apply, if not the next boot
has done so. An exclusive ``flock(2)`` keeps a second run out, and tells a live journal from a left-over one.
"""

from salt.loader.dunder import __opts__  # noqa: F401

import _mta_guard

with _mta_guard.library(__file__):
    import _mta_apply
    import _mta_minion
    import _mta_transaction


def pending(ahead=()):
    """
    Begin a new run: forget what an earlier one in this process did, and tell whether one left a journal.

    ahead (list, default none)
        The states that take part in its transaction, each as its function and its arguments: for states.

    Returns the list of the paths in the journal, or ``None`` when there is nothing to resolve.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_transaction.pending
    """
    return _mta_transaction.pending(_mta_minion.Minion.of(globals()), ahead)


def under_way():
    """
    Tell whether another apply holds the lock at this moment: a journal is then not a left-over one.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_transaction.under_way
    """
    return _mta_transaction.under_way(_mta_minion.Minion.of(globals()))


def recover():
    """
    Undo an interrupted transaction: put the saved files back and bring the daemons to them.

    Every file is tried. What cannot be restored is set aside, and does not stand in a later apply's way.

    Returns a dictionary: ``restored`` (list of paths that are as they were before), ``failed`` (list of those
    that are not), ``notes`` (sentences on these, and on what others had edited meanwhile); ``None`` when there was
    nothing to resolve. Raises ``CommandExecutionError`` when another run holds the lock for two minutes, or the
    journal cannot be removed.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_transaction.recover
    """
    return _mta_transaction.recover(_mta_minion.Minion.of(globals()))


def roll_back(commit=None, test=False):
    """
    Roll back what the last apply changed, as one transaction that is verified: the mail server's files, and what
    commands have changed, such as the membership of ``postfix`` in the group ``sasl``.

    commit (float or dict, default None)
        Unix time: the commit that is meant, as ``mta_status.report`` tells it, or a dictionary of minion id to it.
        Another one is an error. Default: the last.

    test (bool, default False)
        Only tell.

    Packages, firewall, ``/etc/mailname`` and the trust store stay; so do directories that were made, and a
    certificate authority with its private key, which the comment names. As long as pillar has what was rolled
    back, the next apply makes it again. A file that has been changed since is not overwritten: nothing is rolled
    back then, nor when another apply changes something while this one waits for it to end. A private key that the
    apply has encrypted stays encrypted.

    Returns a state's result: ``result``, ``changes``, ``comment``.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_transaction.roll_back test=True
    """
    return _mta_apply.roll_back(_mta_minion.Minion.of(globals()), commit, test)
