"""
Look at Postfix's mail queue, and hold, release, requeue, delete or flush the messages that a filter selects.

The same filters everywhere: ``mta_queue.list`` has them.

The queue may be of any length: postqueue(1) is read message by message, and what is kept is bounded by ``limit``.
A message is acted on as a whole, also for its other recipients. Messages come and go meanwhile: one that has left
is no error, and postqueue(1) may list one twice that changes queues. A short queue id can be reused by another
message (postconf(5): ``enable_long_queue_ids``).
"""

from salt.loader.dunder import __opts__  # noqa: F401

import _mta_guard

with _mta_guard.library(__file__):
    import _mta_queue

__func_alias__ = {"list_": "list"}


def summary(
    limit=20,
    queue=None,
    sender=None,
    recipient=None,
    domain=None,
    older_than=None,
    reason=None,
    queue_id=None,
):
    """
    Return how many messages wait, by queue, age, recipients' domain and reason.

    limit (int, default 20)
        How many domains and reasons to name, those with most messages first. The rest is ``(others)``.

    queue, sender, recipient, domain, older_than, reason, queue_id
        Only messages that meet all of these filters, which ``mta_queue.list`` has. Default: all messages.

    Returns ``messages``, ``recipients`` (those still to be reached), ``bytes``, ``oldest`` (seconds) and, each a
    mapping to the number of messages, ``queues``, ``ages``, ``domains`` and ``reasons``. A message counts once for
    each of its domains and reasons. Reasons are grouped: without IP addresses, mail addresses and queue ids.

    Raises ``SaltInvocationError`` for a bad filter, ``CommandExecutionError`` when postqueue(1) fails.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_queue.summary
        salt '*' mta_queue.summary queue=deferred domain=example.net older_than=3600
    """
    filters = _mta_queue.Filters(queue, sender, recipient, domain, older_than, reason, queue_id)
    return _mta_queue.summary(filters, limit)


def list_(
    limit=1000,
    queue=None,
    sender=None,
    recipient=None,
    domain=None,
    older_than=None,
    reason=None,
    queue_id=None,
):
    """
    Return messages in the queue, in the order in which postqueue(1) lists them.

    limit (int, default 1000)
        How many at most.

    queue (str or list)
        ``maildrop``, ``incoming``, ``active``, ``deferred`` or ``hold``.

    sender (str)
        Envelope sender, without regard to case; ``*`` stands for any text. ``<>``: the empty one, of bounces.

    recipient (str)
        Address of a recipient that the message still has to reach; as ``sender``.

    domain (str)
        Domain of a recipient; as ``sender``: ``example.com`` is not ``mail.example.com``, ``*.example.com`` is.

    older_than (int)
        Seconds since the message arrived, 1 or more.

    reason (str)
        Part of the text that says why a recipient was deferred, without regard to case.

    queue_id (str or list)
        Queue ids, as in the log.

    A message has to meet all filters that are given, and one recipient those about recipients. Default: all
    messages.

    Returns a list of ``id``, ``queue``, ``arrived`` (seconds since 1970), ``age`` (seconds), ``size`` (bytes),
    ``sender`` and ``recipients``: a list of ``address`` and ``reason`` (empty: not tried yet).

    Raises ``SaltInvocationError`` for a bad filter, ``CommandExecutionError`` when postqueue(1) fails.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_queue.list queue=hold
        salt '*' mta_queue.list reason='connection refused' limit=10
    """
    filters = _mta_queue.Filters(queue, sender, recipient, domain, older_than, reason, queue_id)
    return _mta_queue.list_(filters, limit)


def size(queue_directory=None):
    """
    Return how many files are in each queue, without a process: cheap enough to ask at every interval.

    queue_directory (str, default: what main.cf says)
        Where the queues are.

    Counts directory entries, not what they hold; so it has to run as root. ``deferred`` (as every queue in
    ``hash_queue_names``) has a level of directories with names of one character. Also counted is what no listing
    shows: messages in ``corrupt``.

    Returns the number of files by queue, and their ``total``, without ``corrupt``; ``None`` where there is no
    queue directory. Raises ``CommandExecutionError`` when one cannot be read.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_queue.size
    """
    return _mta_queue.size(queue_directory)


def delete(
    queue=None,
    sender=None,
    recipient=None,
    domain=None,
    older_than=None,
    reason=None,
    queue_id=None,
    everything=False,
    test=False,
    limit=None,
):
    """
    Delete the messages that a filter selects; there is no way back.

    queue, sender, recipient, domain, older_than, reason, queue_id
        Which messages: those that meet all of these filters, which ``mta_queue.list`` has.

    everything (bool, default False)
        All messages. Without a filter and without this nothing is done.

    test (bool, default False)
        Only tell which messages it would be.

    limit (int, 1 or more; default: all that match)
        For how many of them at most, the oldest first: by the time of arrival, and of those of one second by the
        queue id.

    Returns ``action``, ``matched`` (how many messages match), ``done`` (for how many of them postsuper(1) did it;
    fewer when messages left the queue meanwhile; ``None`` with ``test``), ``comment`` (these numbers in a
    sentence), and ``messages``: the oldest of those that are meant, up to 100, as :func:`list` returns them.

    Raises ``SaltInvocationError`` without a filter and for a bad one, ``CommandExecutionError`` when postqueue(1)
    or postsuper(1) fails.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_queue.delete sender='*@spam.example' older_than=3600 test=True
        salt '*' mta_queue.delete sender='*@spam.example' limit=10
        salt '*' mta_queue.delete everything=True
    """
    filters = _mta_queue.Filters(queue, sender, recipient, domain, older_than, reason, queue_id)
    return _mta_queue.act("delete", filters, everything, test, limit)


def hold(
    queue=None,
    sender=None,
    recipient=None,
    domain=None,
    older_than=None,
    reason=None,
    queue_id=None,
    everything=False,
    test=False,
    limit=None,
):
    """
    Put the messages that a filter selects on hold: Postfix does not try to deliver them until they are released.

    queue, sender, recipient, domain, older_than, reason, queue_id, everything, test, limit
        As for :func:`delete`.

    Returns and raises as :func:`delete` does.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_queue.hold domain=example.net
    """
    filters = _mta_queue.Filters(queue, sender, recipient, domain, older_than, reason, queue_id)
    return _mta_queue.act("hold", filters, everything, test, limit)


def release(
    queue=None,
    sender=None,
    recipient=None,
    domain=None,
    older_than=None,
    reason=None,
    queue_id=None,
    everything=False,
    test=False,
    limit=None,
):
    """
    Release the messages on hold that a filter selects.

    queue, sender, recipient, domain, older_than, reason, queue_id, everything, test, limit
        As for :func:`delete`.

    Returns and raises as :func:`delete` does.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_queue.release everything=True
    """
    filters = _mta_queue.Filters(queue, sender, recipient, domain, older_than, reason, queue_id)
    return _mta_queue.act("release", filters, everything, test, limit)


def requeue(
    queue=None,
    sender=None,
    recipient=None,
    domain=None,
    older_than=None,
    reason=None,
    queue_id=None,
    everything=False,
    test=False,
    limit=None,
):
    """
    Queue the messages that a filter selects anew, under new ids: addresses are rewritten and routed once more.

    pickup(8) takes them up within a minute; until then they are in the queue ``maildrop``.

    queue, sender, recipient, domain, older_than, reason, queue_id, everything, test, limit
        As for :func:`delete`.

    Returns and raises as :func:`delete` does.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_queue.requeue reason='relay access denied'
    """
    filters = _mta_queue.Filters(queue, sender, recipient, domain, older_than, reason, queue_id)
    return _mta_queue.act("requeue", filters, everything, test, limit)


def flush(
    queue=None,
    sender=None,
    recipient=None,
    domain=None,
    older_than=None,
    reason=None,
    queue_id=None,
    everything=False,
    test=False,
    limit=None,
):
    """
    Try to deliver the deferred messages that a filter selects now.

    queue, sender, recipient, domain, older_than, reason, queue_id, everything, test, limit
        As for :func:`delete`.

    Returns and raises as :func:`delete` does; ``done`` is for how many messages Postfix was asked to. Each
    selected message takes a process of some 10 ms (``postqueue -i``); everything, without a limit, takes one
    (``postqueue -f``).

    CLI Example:

    .. code-block:: bash

        salt '*' mta_queue.flush domain=example.net
        salt '*' mta_queue.flush everything=True
    """
    filters = _mta_queue.Filters(queue, sender, recipient, domain, older_than, reason, queue_id)
    return _mta_queue.act("flush", filters, everything, test, limit)
