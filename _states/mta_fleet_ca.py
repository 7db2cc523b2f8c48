"""
The certificate of a fleet's authority in the system's trust store, and what the CA minion is.

.. code-block:: yaml

    trusted by every program of the host:
      mta_fleet_ca.trusted:
        - name: /usr/local/share/ca-certificates/postfix_mta.crt
        - source: /etc/ssl/certs/cacert.pem
        - command: [update-ca-certificates]

``mta_cert.managed`` brings the certificate itself. What the master and the CA minion need is told by
``salt-call sys.doc mta_fleet_ca``.
"""

from salt.exceptions import CommandExecutionError, SaltInvocationError


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


def signs(name, key):
    """
    Have the minion known as one that signs for a fleet: nothing but an apply by name makes it a mail server.

    name
        Absolute path of the authority's certificate.

    key
        Absolute path of its private key.

    It has no changes of its own.
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": "This minion signs for a fleet."}
    try:
        if not __opts__["test"]:
            __salt__["mta_fleet_ca.record"](name, key)
    except CommandExecutionError as err:
        ret.update(result=False, comment=str(err))
    return ret


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
