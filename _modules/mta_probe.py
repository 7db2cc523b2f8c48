"""
Hold SMTP conversations with the live server and tell whether it answers as its configuration promises.

No conversation leaves mail behind, except :func:`deliver`, whose purpose it is. Passwords and what AUTH sends are
shown as ``****``.
"""

from salt.loader.dunder import __opts__  # noqa: F401

import _mta_guard

with _mta_guard.library(__file__):
    import _mta_audit
    import _mta_judge
    import _mta_minion
    import _mta_smtp


def converse(
    host="127.0.0.1",
    port=25,
    wrappermode=False,
    starttls=True,
    auth=None,
    login_pillar=None,
    mechanism="PLAIN",
    ca_file=None,
    certificate=None,
    hostname=None,
    sender="",
    recipient=None,
    source=None,
    timeout=_mta_smtp.CONVERSATION_TIMEOUT,
    patience=0,
):
    """
    Hold one SMTP conversation: banner, EHLO, STARTTLS when offered, EHLO again, what is asked for, QUIT.

    host, port
        Where the server listens. Default ``127.0.0.1``, 25.

    wrappermode
        The server begins with TLS (RFC 8314), as on port 465. Default ``False``.

    starttls
        Use STARTTLS when it is offered. Default ``True``.

    auth
        ``challenge``: AUTH PLAIN as a user that does not exist, which has to give 535. It costs the delay
        that PAM adds to a failure, 2 to 3 s. Default ``None``: no AUTH.

    login_pillar
        Pillar path of a ``username`` and a ``password`` to log in with. Default ``None``: no login.

    mechanism
        ``PLAIN`` or ``LOGIN``, for the login. Default ``PLAIN``.

    ca_file
        CA certificates (PEM) that the chain has to verify against. Default ``None``: not verified.

    certificate
        PEM file in which the certificate served has to be. Default ``None``.

    hostname
        The name that the certificate has to be for. Default ``None``: any.

    sender, recipient
        With a recipient (address, or list of them), MAIL, RCPT and RSET are tried too. Default: the null
        sender, no recipient.

    source
        Local address to speak from. Default: the system's choice.

    timeout
        Seconds after which the conversation is broken off. Default 10.

    patience
        Seconds for which a server that refuses the connection, or closes it before the banner, is tried
        again. Default 0.

    Returns a dictionary: ``host``, ``port``, ``connected``, ``timed_out`` (step), ``banner``, ``ehlo``,
    ``ehlo_tls`` (lists of lines), ``tls`` (``version``, ``cipher``, ``fingerprint``: SHA-256 in hex,
    ``verified``, ``error``; ``None`` without TLS), ``auth``, ``envelopes``, ``problems`` (list of ``step``,
    ``reply``, ``text``) and ``transcript`` (list of lines, without secrets).

    Raises ``SaltInvocationError`` for a bad argument. Sources: RFC 5321, RFC 3207, RFC 4954.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_probe.converse 127.0.0.1 587 recipient=postmaster@mail.example.com
    """
    return _mta_smtp.converse(
        host,
        port,
        wrappermode,
        starttls,
        auth,
        _mta_judge.login_of(_mta_minion.Minion.of(globals()), login_pillar),
        mechanism,
        ca_file,
        certificate,
        hostname,
        sender,
        recipient,
        source,
        timeout,
        patience,
    )


def deliver(
    recipient, sender="", host="127.0.0.1", port=25, subject="Probe", timeout=_mta_smtp.CONVERSATION_TIMEOUT
):
    """
    Hand a short message to the server, for a real delivery.

    recipient
        Mail address.

    sender
        Mail address. Default: the null sender, so that nothing bounces.

    host, port
        Where the server listens. Default ``127.0.0.1``, 25.

    subject
        Subject of the message. Default ``Probe``.

    timeout
        Seconds. Default 10.

    Returns a dictionary: ``accepted``, ``message_id``, ``reply`` (the last one), ``problems``,
    ``transcript``. Raises ``SaltInvocationError`` for a bad address or subject.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_probe.deliver postmaster@mail.example.com
    """
    return _mta_smtp.deliver(recipient, sender, host, port, subject, timeout)


def stale(certificates=None, timeout=_mta_smtp.CONVERSATION_TIMEOUT):
    """
    Return the listeners that serve another certificate than the one on disk.

    That is so when the file was replaced and Postfix was not reloaded: an smtpd(8) reads it when it starts.

    certificates
        List of paths: only listeners that have one of these files. Default: all listeners with TLS.

    timeout
        Seconds for each listener, default 10.

    Returns a list such as ``["127.0.0.1:25"]``; ``None`` when no such listener began TLS, so that nothing is
    known. A file that cannot be read is none that is served. Raises ``CommandExecutionError`` when the
    configuration cannot be read.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_probe.stale
    """
    return _mta_judge.stale(certificates, timeout)


def audit(timeout=120):
    """
    Tell what is weak about the server: its configuration, its files, and what it says to a client.

    timeout
        Seconds for all conversations. Default 120.

    Returns a dictionary: ``notes``, what could not be looked at; and ``findings``, the worst first, each with

    - ``name``: what is weak, and where that is of one listener or file: ``auth-in-clear 127.0.0.1:25``
    - ``severity``: ``high`` (somebody can read, send or pretend what he must not), ``medium`` (a defence is
      missing that a server on the internet needs), ``low`` (it tells or does more than it has to)
    - ``reason``: why, in one sentence
    - ``pillar``: the line below ``postfix_mta`` that mends it; or what to do where no setting does

    Nothing is changed; it takes some seconds, and some processes.

    Raises ``CommandExecutionError`` when Postfix is not installed, or its configuration cannot be read.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_probe.audit
    """
    return _mta_audit.audit(_mta_minion.Minion.of(globals()), timeout)


def check(
    listeners=None,
    hostname=None,
    ca_file=None,
    capabilities=(),
    login_pillar=None,
    auth="offered",
    envelope=False,
    untrusted_client=False,
    timeout=30,
    patience=0,
    skip=(),
):
    """
    Tell whether every listener of the server answers as its configuration promises.

    listeners
        List as :func:`postconf.listeners` returns it, which is the default.

    hostname
        FQDN in the banner, in the answer to EHLO and in the certificate. Default: each listener's
        ``myhostname``.

    ca_file
        CA certificates (PEM) that the chain served has to verify against. Default ``None``: not verified.

    capabilities
        What EHLO has to show on some listener, before or under TLS, e.g.
        ``["PIPELINING", "AUTH PLAIN LOGIN"]``. Default: nothing more than what the configuration promises.

    login_pillar
        Pillar path of a ``username`` and a ``password`` (may be an ``sdb://`` address) that have to get in by
        PLAIN and by LOGIN, in clear where that is offered and under TLS. Default ``None``; nothing there: no
        login.

    auth
        ``offered``: EHLO is enough. ``challenge``: a login as a user that does not exist has to give 535,
        which costs 2 to 3 s. Default ``offered``.

    envelope
        Also MAIL, RCPT to the postmaster and to a user that does not exist, and a message that cleanup(8) has
        to refuse after having looked up everything, for its ``Received:`` headers. Nothing is queued. Default
        ``False``.

    untrusted_client
        Also MAIL and RCPT as a client outside mynetworks, whose mail to others has to be refused. It needs the
        right to change routes, and ``ip`` (package iproute2); without them a note says so. Default ``False``.

    timeout
        Seconds for one listener's whole conversation; for each login, and for each as an untrusted client, as many
        again. Default 30.

    patience
        Seconds for which a listener that refuses the connection is tried again before that. Default 0.

    skip
        List of services as master.cf and the pillar's ``services`` name them, such as ``smtps/inet``: their
        listeners are not judged, which a note says. Default: none.

    Returns a dictionary: ``answers``, ``listening`` (whether any listener accepted a connection), ``speaking``
    (those of ``listeners`` that answered EHLO), ``problems``, ``logins`` (those of them that only the login has),
    ``doubts`` (what is a problem where it was otherwise before), ``reached`` (where delivery is tried: steps of
    mail for virtual and relayed domains, each with what keeps it from going on, empty: nothing), ``older`` (what
    would be a problem, had this run of states not found it before it changed anything), ``notes``, ``transcript``
    (lists of lines) and ``conversations`` (see :func:`converse`).

    Raises ``SaltInvocationError`` for a bad argument, ``CommandExecutionError`` when the configuration cannot
    be read.

    CLI Example:

    .. code-block:: bash

        salt '*' mta_probe.check hostname=mail.example.com ca_file=/etc/ssl/certs/cacert.pem
    """
    return _mta_judge.check(
        _mta_minion.Minion.of(globals()),
        listeners,
        hostname,
        ca_file,
        capabilities,
        login_pillar,
        auth,
        envelope,
        untrusted_client,
        timeout,
        patience,
        skip,
    )
