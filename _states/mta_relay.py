"""
Keep the table of logins at smarthosts.

.. code-block:: yaml

    /etc/postfix/relay_passwords:
      mta_relay.managed:
        - logins:
            "[smtp.example.net]:587": mail:smarthost
            alice@example.com: mail:alice

The pillar has the user names and passwords:

.. code-block:: yaml

    mail:
      smarthost: {username: example, password: secret}
      alice: {username: alice, password: secret}
"""


def managed(name, logins=None, transaction=None):
    """
    Make the table hold exactly these logins, readable by root alone.

    name
        Path of the table, which main.cf calls ``texthash:PATH``.

    logins
        Lookup keys (``[host]:port``, a sender's address or ``@domain``) to the pillar paths of sections with
        ``username`` and ``password``. Default: none, and then there is no such file.

    transaction
        Name of the transaction whose closing state activates and verifies. Default: this state does it.
    """
    return __salt__["mta_transaction.member"](
        name,
        "mta_relay",
        {"name": name, "logins": logins},
        transaction=transaction,
        test=__opts__["test"],
        subject=f"The table of logins {name}",
    )
