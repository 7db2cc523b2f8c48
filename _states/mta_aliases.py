"""
Keep entries of /etc/aliases, and their compiled form, while everything else in the file stays as it is.

.. code-block:: yaml

    aliases:
      mta_aliases.managed:
        - name: /etc/aliases
        - aliases:
            root: [alice, bob@example.org]
            postmaster: root
            tickets: "|/usr/local/bin/ticket --queue mail"
            former: null
"""

from salt.loader.dunder import __opts__


def managed(name, aliases=None, seeded=None, absent_only=None, revert=False, follow=False, transaction=None):
    """
    Make entries of an aliases file be as given, and its compiled form up to date.

    name
        Path of the file, usually ``/etc/aliases``.

    aliases
        Names to a value, a list of values, or null, which removes the entry. Default: none; then only the
        compiled form is looked after.

    seeded
        What the package writes at its first installation, for test mode before that. Default: nothing.

    absent_only
        Entries for names that neither the file nor ``aliases`` has. Default: none.

    revert
        Whether the previous value of each name is kept: what it was when this state first changed it. It is
        restored when a later run does not name it any more; what somebody else has changed since stays, and the
        comment says so. Default: no.

    follow
        Whether it is the file in which main.cf looks aliases up (the first local one of ``alias_maps``), where
        that is another one. The comment names it, and tables that are asked before it. Default: no.

    transaction
        Name of the transaction whose closing state activates and verifies. Default: this state does it.
    """
    args = {
        "name": name,
        "aliases": aliases,
        "seeded": seeded,
        "absent_only": absent_only,
        "revert": revert,
        "follow": follow,
    }
    return __salt__["mta_apply.participate"](
        "mta_aliases.managed", name, args, transaction, __opts__["test"], f"The alias file {name}"
    )
