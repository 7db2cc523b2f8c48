"""
The certificate of a fleet's authority on a mail minion, and in its system's trust store.

.. code-block:: yaml

    the authority:
      mta_fleet_ca.authority_managed:
        - name: /etc/ssl/certs/cacert.pem
        - ca_minion: ca.example.com

    trusted by every program of the host:
      mta_fleet_ca.trusted:
        - name: /usr/local/share/ca-certificates/postfix_mta.crt
        - source: /etc/ssl/certs/cacert.pem
        - command: [update-ca-certificates]
        - require:
          - mta_fleet_ca: the authority

What the master and the CA minion need: ``salt-call sys.doc mta_fleet_ca``.
"""

from salt.exceptions import CommandExecutionError, SaltInvocationError


def authority_managed(name, ca_minion, transaction=None):
    """
    Keep the authority's certificate: fetch it from the CA minion when it is missing, unreadable or ends soon.

    name
        Absolute path of the file (0644).

    ca_minion
        Id of the CA minion.

    transaction
        Name of the transaction whose closing state activates and verifies. Default: activate here.
    """
    return __salt__["mta_transaction.member"](
        name,
        "mta_fleet_ca",
        {"name": name, "ca_minion": ca_minion},
        transaction=transaction,
        test=__opts__["test"],
        subject=f"The authority's certificate {name}",
    )


def trusted(name, source, command):
    """
    Keep a certificate in the system's trust store.

    name
        Absolute path in the directory from which the system makes its trust store.

    source
        Absolute path of the authority's certificate.

    command
        The system's program that rebuilds the trust store, a list.
    """
    return _trust_store(name, source, command)


def untrusted(name, command):
    """
    Take a certificate that :func:`trusted` has put there out of the system's trust store.

    name, command
        As for :func:`trusted`.
    """
    return _trust_store(name, None, command)


def _trust_store(name, source, command):
    ret = {"name": name, "changes": {}, "result": True, "comment": "The trust store is in the correct state."}
    try:
        changes = __salt__["mta_fleet_ca.trust_plan"](name, source)
        if changes and __opts__["test"]:
            ret.update(result=None, changes=changes, comment="The trust store would have been changed.")
        elif changes:
            __salt__["mta_fleet_ca.trust_apply"](name, source, command)
            ret.update(changes=changes, comment="The trust store has been changed.")
    except (CommandExecutionError, SaltInvocationError) as err:
        ret.update(result=False, comment=str(err))
    return ret
