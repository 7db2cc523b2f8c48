"""
Keep to the MTA-STS policies of other domains (RFC 8461): a resolver of them for Postfix.

.. code-block:: yaml

    policies:
      mta_sts.managed:
        - name: mta_sts
"""

from salt.loader.dunder import __opts__


def managed(name, transaction=None):
    """
    Have a daemon answer Postfix's ``smtp_tls_policy_maps`` at ``socketmap:unix:postfix_mta_sts/socket:postfix``.

    A domain that has DANE as well is judged by that, where Postfix does it.

    name
        Any name; it is not used.

    transaction
        Name of the transaction whose closing state activates and verifies. Default: this state does it.
    """
    return __salt__["mta_apply.participate"](
        "mta_sts.managed", name, {}, transaction, __opts__["test"], "The daemon for MTA-STS policies"
    )


def absent(name, transaction=None):
    """
    Stop the daemon, and remove its files.

    name
        Any name; it is not used.

    transaction
        Name of the transaction whose closing state activates and verifies. Default: this state does it.
    """
    return __salt__["mta_apply.participate"](
        "mta_sts.absent", name, {}, transaction, __opts__["test"], "The daemon for MTA-STS policies"
    )
