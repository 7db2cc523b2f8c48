"""
Sign mail by DKIM (RFC 6376): an rspamd of the formula's own, which does nothing else.

.. code-block:: yaml

    signer:
      mta_dkim.managed:
        - name: mta1
        - domains: [example.com, example.org]
"""

from salt.loader.dunder import __opts__


def managed(
    name,
    domains=None,
    key_size=2048,
    key_pillar=None,
    networks=None,
    keep_days=7,
    resolver=None,
    milters=None,
    results=False,
    ed25519=False,
    queue_directory="/var/spool/postfix",
    dmarc_reject=False,
    transaction=None,
):
    """
    Have a selector sign the mail of domains.

    name
        The selector. One that is not the one that signs now signs as soon as all name servers of all domains have
        its record; until then a note says that it waits.

    domains
        List of domains.

    key_size
        Bits of a new RSA key, 2048.

    key_pillar
        Path of a file, or pillar path of PEM text or of an ``sdb://`` URI that leads to it. Default: one is made.

    networks
        List of networks whose mail is signed, beside this host and who has logged in. Default: none.

    keep_days
        How many days the key of an earlier selector is kept, 7.

    resolver
        IP address of the server that is asked for the domains' name servers. Default: the host's resolver.

    results
        Whether mail from others gets a header Authentication-Results with what SPF, DKIM and DMARC say of it.
        Default: false.

    dmarc_reject
        With ``results``: whether mail that fails DMARC is refused where its domain says ``p=reject`` (RFC 7489,
        6.3). Default: false.

    queue_directory
        Postfix's, in which the signer's socket is.

    ed25519
        Whether an Ed25519 key (RFC 8463), whose selector is the name with ``-ed25519``, signs beside the RSA key
        once all name servers have its record. Default: false.

    milters
        What smtpd_milters is to be in main.cf: whether another milter that is there may stay. Default: the signer.

    transaction
        Name of the transaction whose closing state activates and verifies. Default: this state does it.
    """
    args = {
        "domains": domains or [],
        "selector": name,
        "key_size": key_size,
        "key_pillar": key_pillar,
        "networks": networks or [],
        "keep_days": keep_days,
        "resolver": resolver,
        "results": results,
        "ed25519": ed25519,
        "queue_directory": queue_directory,
        "dmarc_reject": dmarc_reject,
    }
    args.update({"milters": milters} if milters else {})
    return __salt__["mta_apply.participate"](
        "mta_dkim.managed", name, args, transaction, __opts__["test"], "The DKIM signer"
    )


def absent(name, transaction=None):
    """
    Stop signing: the signer is stopped, and its files and keys are removed.

    name
        Any name; it is not used.

    transaction
        Name of the transaction whose closing state activates and verifies. Default: this state does it.
    """
    return __salt__["mta_apply.participate"](
        "mta_dkim.absent", name, {}, transaction, __opts__["test"], "The DKIM signer"
    )
