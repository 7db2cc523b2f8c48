"""
The certificate of a fleet's authority in the system's trust store, and what the CA minion is.

.. code-block:: yaml

    trusted by every program of the host:
      mta_fleet_ca.trusted:
        - name: /usr/local/share/ca-certificates/postfix_mta.crt
        - source: /etc/ssl/certs/cacert.pem
        - command: [update-ca-certificates]

``mta_cert.managed`` brings the certificate itself. What the master and the CA minion need is in
docs/fleet.md.
"""

from salt.exceptions import CommandExecutionError
from salt.loader.dunder import __opts__


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
    arguments = {"name": name, "source": source, "command": command}
    return __salt__["mta_apply.converge"](
        "mta_fleet_ca.trusted", name, arguments, __opts__["test"], "The trust store"
    )
