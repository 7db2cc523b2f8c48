r"""
Certificates from one authority for a fleet: the mail minion keeps its key, a CA minion signs.

A mail minion publishes a certificate request through the master (Salt's peer interface) to the CA minion, whose
:func:`issue` answers with a certificate. Of the request only the public key is used. The names, and everything
else in the certificate, are in a signing policy as Salt's ``x509`` module has them, and a policy is for the
minions that it names: whoever has root on a mail minion gets certificates for its own names and no other.

**On the master**, in ``/etc/salt/master.d/postfix_mta_peer.conf`` (then restart it):

.. code-block:: yaml

    peer:
      mail\d+\.example\.com$:               # the mail minions, a regular expression from the id's start on
        - ca.example.com:                   # the CA minion, and no other one
          - mta_fleet_ca\.(issue|certificate)$

Both ``$`` matter, and nothing of ``x509`` has to be permitted. Leave the master's ``minimum_auth_version`` at 3,
its default: before that a minion could give itself another one's id.

**On the CA minion** the pillar says who may have which names, and ``state.apply postfix_mta.fleet_ca`` makes the
authority (``certificate.ca``: its paths, days and passphrase):

.. code-block:: yaml

    postfix_mta:
      certificate:
        fleet:
          minions:
            mail1.example.com: [mail1.example.com, smtp.example.com]
            mail2.example.com: []           # its id is its only name

A change there is in force after ``salt ca.example.com saltutil.refresh_pillar``. Each entry is a signing policy
with the minion's id as its name. Policies of your own (``x509_signing_policies`` in the CA minion's pillar or
configuration) are used too when they have ``minions``, as a glob; a mail minion names one with
``certificate.fleet.policy``.

**On Salt 3006** the CA minion needs ``features: {x509_v2: true}`` in its configuration, and a restart after that.

**On the mail minions** (each request keeps two of the master's ``worker_threads`` busy for a moment, so a large
fleet's first apply should go in batches, ``salt --batch-size 10 …``):

.. code-block:: yaml

    postfix_mta:
      certificate:
        source: fleet_ca
        fleet:
          ca_minion: ca.example.com
"""

from salt.loader.dunder import __opts__  # noqa: F401

import _mta_guard

with _mta_guard.library(__file__):
    import _mta_fleet_ca
    import _mta_minion


def sign_request(request, ca_minion, policy=None, days=_mta_fleet_ca.DAYS):
    """
    Have the CA minion sign a certificate request.

    request (str)
        A PKCS 10 request, PEM text. Only its public key is used.

    ca_minion (str)
        Id of the CA minion.

    policy (str)
        Name of the signing policy there. Default: this minion's id.

    days (int)
        How many days the certificate should be valid, default 825. The policy and the authority's end limit it.

    Returns the certificate as PEM text.

    Raises ``CommandExecutionError``, whose text tells the administrator whether the master, the CA minion, the
    policy or the request is what has to be mended.

    CLI Example:

    .. code-block:: bash

        salt mail1.example.com mta_fleet_ca.sign_request request="$(cat mail.csr)" ca_minion=ca.example.com
    """
    return _mta_fleet_ca.sign_request(_mta_minion.Minion.of(globals()), request, ca_minion, policy, days)


def authority(ca_minion):
    """
    Fetch the authority's certificate from the CA minion.

    ca_minion (str)
        Id of the CA minion.

    Returns PEM text. Raises as :func:`sign_request` does.

    CLI Example:

    .. code-block:: bash

        salt mail1.example.com mta_fleet_ca.authority ca.example.com
    """
    return _mta_fleet_ca.authority(_mta_minion.Minion.of(globals()), ca_minion)


def certificate():
    """
    Return the authority's certificate, as ``{"certificate": PEM}`` or ``{"refused": reason}``.

    For mail minions, through the peer interface. It is the file that the CA minion's pillar has at
    ``postfix_mta:certificate:ca:certificate``, or the default there.

    CLI Example:

    .. code-block:: bash

        salt ca.example.com mta_fleet_ca.certificate
    """
    return _mta_fleet_ca.certificate(_mta_minion.Minion.of(globals()))


def issue(request, policy, days=_mta_fleet_ca.DAYS, **kwargs):
    """
    Sign the public key of a request, as a signing policy says; for mail minions, through the peer interface.

    request (str)
        A PKCS 10 request, PEM text. Its names and extensions are not used.

    policy (str)
        Name of a signing policy: the id of a minion in ``certificate.fleet.minions``, or an entry of
        ``x509_signing_policies`` that has ``minions``.

    days (int)
        The validity that is asked for, in days, default 825. The policy and the authority's end limit it.

    kwargs (dict)
        What Salt says about the sender. Everything else is refused.

    Returns ``{"certificate": PEM}``, or ``{"refused": reason}``. Called from the command line it refuses:
    only the peer interface says who asks.

    CLI Example:

    .. code-block:: bash

        salt mail1.example.com publish.publish ca.example.com mta_fleet_ca.issue "[REQUEST, POLICY]"
    """
    return _mta_fleet_ca.issue(_mta_minion.Minion.of(globals()), request, policy, days, **kwargs)


def only_signs():
    """
    Tell whether this minion signs for a fleet and is no mail server.

    Then nothing but ``state.apply postfix_mta`` makes it one, and ``postfix_mta.clean`` keeps its authority. It
    signs when ``state.apply postfix_mta.fleet_ca`` has run here, or its pillar says for whom. It is a mail server
    from the first ``state.apply postfix_mta`` on, until ``postfix_mta.clean``.

    Returns the paths of the authority's certificate and key (``certificate``, ``key``), or ``None``.

    CLI Example:

    .. code-block:: bash

        salt ca.example.com mta_fleet_ca.only_signs
    """
    return _mta_fleet_ca.only_signs(_mta_minion.Minion.of(globals()))


def record(certificate, key, **job):
    """
    Record that ``postfix_mta.fleet_ca`` has made, or found, an authority here. For states: refused as a job.

    certificate, key (str)
        Absolute paths of its certificate and its key.

    Raises ``CommandExecutionError`` when it cannot be written.
    """
    _mta_minion.refuse_job("mta_fleet_ca.record", job)
    _mta_fleet_ca.record(_mta_minion.Minion.of(globals()), certificate, key)
